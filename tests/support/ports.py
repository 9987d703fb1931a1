"""Ports that are nobody else's.

Knows: how to keep a port of 127.0.0.1 for somebody who binds it later, or where
nobody is to listen.  Knows not: who that is.

A port that was found to be free and let go is the next one's who wants any: another
test's, in another process.  A socket that is bound and does not listen keeps it:
whoever connects is refused, the kernel gives the port to nobody, and who names it,
and sets SO_REUSEADDR as servers do, gets it (ip(7), socket(7)).
"""

from __future__ import annotations

import socket

_KEPT: list[socket.socket] = []


def kept(port: int = 0) -> socket.socket:
    """Keeps a port, by default one that the system chooses, until it is closed."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def own_port() -> int:
    """A port that is kept as long as this process lives."""
    _KEPT.append(kept())
    return int(_KEPT[-1].getsockname()[1])
