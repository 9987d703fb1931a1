"""Listening sockets: bound, with errors that say what to do.

Knows: addresses as the configuration has them, what the system may answer to
bind(2).  Knows not: who serves on them.  Called by the service.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence

Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""


class BindError(Exception):
    """An address that cannot be listened on; the text says why and what to do."""


class NoSuchFamily(BindError):
    """This machine has no such kind of address."""


def bind_all(
    addresses: Sequence[str],
    say: Say,
    *,
    shared: bool = False,
    key: str = "listen.addresses",
) -> list[socket.socket]:
    """Every address; a machine without IPv6 does without ``[::]``.

    ``shared``: others may bind the same addresses; ``key`` is where they were
    configured.  Raises :class:`BindError`.
    """
    sockets = []
    for address in addresses:
        try:
            sockets.append(bind(address, shared=shared, key=key))
        except NoSuchFamily as error:
            if not address.startswith("[::]:") or len(addresses) == 1:
                raise
            say("warning", str(error))
    return sockets


def bind(
    address: str, *, shared: bool = False, key: str = "listen.addresses"
) -> socket.socket:
    """A bound TCP socket; ``key`` is where the address was configured.  Raises
    :class:`BindError`."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise NoSuchFamily(bind_trouble(key, address, error)) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        # IPv6 may be there, and be disabled.
        without = host == "::" and error.errno == errno.EADDRNOTAVAIL
        kind = NoSuchFamily if without else BindError
        raise kind(bind_trouble(key, address, error)) from error
    return sock


def bind_status(address: str) -> socket.socket:
    """As :func:`bind`, for the status page."""
    return bind(address, key="status.address")


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` taken apart; it was validated before."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


_REMEDIES = {
    errno.EACCES: "ports below 1024 want root or CAP_NET_BIND_SERVICE",
    errno.EADDRINUSE: "another program listens there; see: ss -ltnp",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EAFNOSUPPORT: "this machine has no IPv6: remove the address from the list",
}


def bind_trouble(key: str, address: str, error: OSError) -> str:
    """Why ``key`` cannot be listened on, and the remedy, in one line."""
    # A name that is not found has a negative number; libraries add to the text.
    known = error.errno is not None and error.errno > 0
    why = os.strerror(error.errno or 0) if known else error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "")
    text = f'cannot listen on {key} "{address}": {why}'
    return f"{text} ({remedy})" if remedy else text


def shown(sock: socket.socket) -> str:
    """The address that a socket is bound to, as it is written."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
