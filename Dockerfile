# A small image whose default command serves; it may run with a read-only root.
# The base image, any with python3 and venv, is an argument:
#   docker build --build-arg BASE=registry.example.test/python:3.11-slim .
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
COPY docs/man ./docs/man
RUN python3 -m venv /opt/backstop \
 && /opt/backstop/bin/pip install --no-cache-dir ".[fast]" \
 && /opt/backstop/bin/pip uninstall -y pip

FROM ${BASE}
COPY --from=build /opt/backstop /opt/backstop
# A volume that is mounted here belongs to the user: status.history.
RUN mkdir -p /var/lib/backstop && chown 10025:10025 /var/lib/backstop
ENV PATH=/opt/backstop/bin:$PATH PYTHONUNBUFFERED=1
# No name, so that no passwd entry is needed.  Ports below 1024 want the
# capability NET_BIND_SERVICE, or listen.addresses above them.
USER 10025:10025
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=5s CMD ["backstop", "ready"]
ENTRYPOINT ["backstop"]
CMD ["serve"]
