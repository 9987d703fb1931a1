"""Socket activation: listening sockets that a supervisor has bound already.

Knows: sd_listen_fds(3), which systemd, s6-fdholder's and others' tools speak.
Knows not: who serves on the sockets.  Called by ``process.serve`` before anything is
bound.

Descriptors from 3 on are ours if LISTEN_PID is our process; LISTEN_FDNAMES may
name them.  One that is called ``status`` is for the status page; those called
``smtps`` are for clients that begin with TLS; all others are for mail.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import NamedTuple

_FIRST = 3
_STATUS = "status"
_TLS = "smtps"
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class ActivationError(Exception):
    """A socket was handed over that cannot be served; the text says which."""


class Inherited(NamedTuple):
    """Listening sockets that are the supervisor's: they are never shut down."""

    mail: list[socket.socket]
    status: socket.socket | None
    tls: list[socket.socket]


def inherited(environ: MutableMapping[str, str]) -> Inherited:
    """The sockets that were handed over; the variables are taken out.

    Raises :class:`ActivationError`.
    """
    pid, count, names, _ = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdigit():
        return Inherited([], None, [])
    words = names.split(":") if names else []
    mail: list[socket.socket] = []
    tls: list[socket.socket] = []
    status = None
    for number in range(int(count)):
        name = words[number] if number < len(words) else ""
        sock = _listening(_FIRST + number, name)
        if name == _STATUS and status is None:
            status = sock
        else:
            (tls if name == _TLS else mail).append(sock)
    return Inherited(mail, status, tls)


def _listening(descriptor: int, name: str) -> socket.socket:
    which = f"LISTEN_FDS: descriptor {descriptor}" + (f' ("{name}")' if name else "")
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ActivationError(f"{which} is no socket: {error.strerror}") from error
    inet = sock.family in (socket.AF_INET, socket.AF_INET6)
    if not inet or sock.type != socket.SOCK_STREAM:
        raise ActivationError(f"{which} is no TCP socket: set ListenStream=host:port")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ActivationError(f"{which} does not listen: set Accept=no")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock
