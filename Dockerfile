# A small image whose default command serves; it may run with a read-only root.
# The base image, any with python3 and venv, is an argument, and so are the optional
# parts: fast (uvloop), dns (for doctor), sql, ldap (which wants a base with apt-get).
#   docker build --build-arg BASE=registry.example.test/python:3.11-slim \
#       --build-arg EXTRAS=fast,dns,sql,ldap -t qmail-backstop:0.1.0 .
ARG BASE=python:3.13-slim
ARG EXTRAS=fast,dns

FROM ${BASE} AS build
ARG EXTRAS
# python-ldap is built from source.
RUN case ",$EXTRAS," in *,ldap,*) apt-get update \
 && apt-get install -y --no-install-recommends \
    gcc libc6-dev libldap2-dev libsasl2-dev python3-dev ;; esac
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
COPY docs/man ./docs/man
RUN python3 -m venv /opt/backstop \
 && /opt/backstop/bin/pip install --no-cache-dir ".[$EXTRAS]" \
 && /opt/backstop/bin/pip uninstall -y pip

FROM ${BASE}
ARG EXTRAS
# The library's name in Debian 13, and in Debian 12.
RUN case ",$EXTRAS," in *,ldap,*) apt-get update \
 && { apt-get install -y --no-install-recommends libldap2 \
   || apt-get install -y --no-install-recommends libldap-2.5-0; } \
 && rm -rf /var/lib/apt/lists/* ;; esac
COPY --from=build /opt/backstop /opt/backstop
# Who it becomes when it is started as root, as deploy/ does for the right to read
# homes. A volume that is mounted at /var/lib/backstop belongs to it: status.history.
RUN echo backstop:x:10025:10025::/nonexistent:/usr/sbin/nologin >>/etc/passwd \
 && echo backstop:x:10025: >>/etc/group \
 && mkdir -p /var/lib/backstop && chown 10025:10025 /var/lib/backstop
ENV PATH=/opt/backstop/bin:$PATH PYTHONUNBUFFERED=1
# Without a right: ports below 1024 want NET_BIND_SERVICE, or listen.addresses above
# them, and homes must be open to it.
USER 10025:10025
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=5s CMD ["backstop", "ready"]
ENTRYPOINT ["backstop"]
CMD ["serve"]
