"""Where a backend is, and how it is used: values only.

Knows: what tells one place, and one way to it, from another.  Knows not: what is
done with it (:mod:`proxy.backend.pool`).  Made by the service from the
configuration.
"""

from __future__ import annotations

import shlex
import ssl
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """Where qmail-smtpd listens, and how long it may take; times in seconds.

    ``host`` and ``port``, or ``path`` of a Unix socket, or ``command``, a program
    to be run for each client, ``command_concurrency`` at a time.  With ``context``,
    the connection is encrypted: after STARTTLS, or from the start.  ``transparent``
    connects from the client's own address; ``send_proxy`` ("v1", "v2") and
    ``identify`` ("xclient", "xforward") tell of it.  The times are shorter
    than what RFC 5321 §4.5.3.2 grants us as a server.  ``kept`` idle
    connections are kept for ``kept_seconds``.  After ``breaker_failures``
    attempts to connect that failed in a row, none is made for
    ``breaker_seconds``; 0 of them: attempts are always made.  There are at most
    ``connections`` at a time, 0 is no limit; who wants one more waits for
    ``connection_wait``.  ``learn_auth``: remember which mechanisms of AUTH it
    offers.  ``startup_files`` are what it reads when a connection begins, as far as
    they can be seen from here: files, and directories of files.
    """

    host: str = "127.0.0.1"
    port: int = 2525
    path: str = ""
    context: ssl.SSLContext | None = None
    starttls: bool = False
    connect_timeout: float = 10.0
    command_timeout: float = 60.0
    data_timeout: float = 120.0
    final_timeout: float = 540.0
    kept: int = 8
    kept_seconds: float = 30.0
    breaker_failures: int = 5
    breaker_seconds: float = 2.0
    connections: int = 0
    connection_wait: float = 5.0
    command: tuple[str, ...] = ()
    command_concurrency: int = 40
    transparent: bool = False
    send_proxy: str = ""
    identify: str = ""
    learn_auth: bool = False
    startup_files: tuple[str, ...] = ()

    @property
    def named(self) -> bool:
        """Whether it is at a host and port, which may be a name."""
        return not (self.command or self.path)

    @property
    def reaches(self) -> bool:
        """Whether connecting takes more than a connection."""
        return bool(self.command or self.transparent or self.send_proxy)

    @property
    def per_client(self) -> bool:
        """Whether a connection is one client's, and nobody else's after it."""
        return self.reaches or self.identify == "xclient"

    def part(self, worker: int, workers: int) -> BackendSettings:
        """What ``worker`` has of the bounds that are for all ``workers``
        together: all parts are the whole, but each is one at least."""

        def part(whole: int) -> int:
            return max(whole // workers + (worker < whole % workers), 1)

        return replace(
            self,
            kept=part(self.kept) if self.kept else 0,
            connections=part(self.connections) if self.connections else 0,
            command_concurrency=part(self.command_concurrency),
        )

    def __str__(self) -> str:
        if self.command:
            return f"command:{shlex.join(self.command)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


def same_place(one: BackendSettings, other: BackendSettings) -> bool:
    """Whether a connection made for ``one`` serves ``other``.  A context is made
    anew at every HUP: its files may be others."""
    same_context = one.context is other.context and one.starttls == other.starttls
    same_way = _way(one) == _way(other)
    return same_context and same_way and str(one) == str(other)


def _way(settings: BackendSettings) -> tuple[bool, str, str]:
    return settings.transparent, settings.send_proxy, settings.identify
