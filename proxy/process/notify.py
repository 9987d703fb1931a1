"""Telling the supervisor: ready, reloading, stopping, still alive.

Knows: sd_notify(3), a datagram to $NOTIFY_SOCKET, and s6's newline on a
descriptor.  Knows not: when any of that is so.  Called by ``serve`` and
``workers``, in the process that the supervisor started.  Without a supervisor
that listens, nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

Tell = Callable[[str, str], None]
"""Takes what happened and a text: ``ready``, ``reloading``, ``reloaded`` (whether
or not it could be), ``stopping``, ``alive`` (about once a second)."""


class NotifyError(Exception):
    """The descriptor that should be told is not there."""


class Notifier:
    """Who wants to know how the service is; never raises once it is made."""

    def __init__(
        self, environ: Mapping[str, str], readiness_fd: int | None = None
    ) -> None:
        """Raises :class:`NotifyError` if ``readiness_fd`` is not open."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # of the abstract namespace, unix(7)
            self._address = "\0" + self._address[1:]
        self._readiness = readiness_fd
        if readiness_fd is not None:
            try:
                os.set_inheritable(readiness_fd, False)
            except OSError as error:
                raise NotifyError(
                    f"process.readiness_fd = {readiness_fd}: {error.strerror} (the"
                    " supervisor must open it, as s6 does for its notification-fd)"
                ) from error
        self.watchdog = _watchdog(environ)

    def tell(self, what: str, text: str) -> None:
        """A :data:`Tell`."""
        if what == "reloading":
            self.reloading()
        elif what == "stopping":
            self.stopping()
        elif what == "alive":
            self.alive()
        else:
            self.ready(text)

    def ready(self, status: str) -> None:
        """Mail is taken; after a reload, too."""
        self._send(f"READY=1\nSTATUS={status}")
        if self._readiness is not None:
            with contextlib.suppress(OSError):
                os.write(self._readiness, b"\n")
                os.close(self._readiness)
            self._readiness = None

    def reloading(self) -> None:
        """HUP came; :meth:`ready` follows."""
        micros = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={micros}")

    def stopping(self) -> None:
        """No new connection is taken."""
        self._send("STOPPING=1\nSTATUS=draining")

    def alive(self) -> None:
        """To be called several times within :attr:`watchdog` seconds."""
        if self.watchdog:
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)


def _watchdog(environ: Mapping[str, str]) -> float:
    """Seconds after which the supervisor believes us dead; 0: never."""
    micros = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", "") or str(os.getpid())
    if not micros.isdigit() or pid != str(os.getpid()):
        return 0.0
    return int(micros) / 1e6
