"""Who the mail comes from, as far as a backend may be told.

Knows: the two ends of a client's connection.  Knows not: how a backend learns
of them.  Made by the session when it needs the backend; ``None`` in its place
means the front door itself (the interlock).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

Variables = tuple[tuple[bytes, bytes], ...]
"""Names and values that tcprules sets for a client."""


class Client(NamedTuple):
    """A client's connection: its own end, and ours; ports are 0 where a socket
    has none (a Unix socket).

    ``variables`` are for the environment of a program, which is to be ``without``
    others; ``extended`` says that the client said EHLO.
    """

    address: str
    port: int
    local_address: str
    local_port: int
    variables: Variables = ()
    extended: bool = True
    without: tuple[bytes, ...] = ()


def without_relayclient(variables: Variables) -> Variables:
    """The others: who has them may not relay."""
    return tuple(each for each in variables if each[0] != b"RELAYCLIENT")


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_address(text: str) -> IPAddress | None:
    """The address without its zone; one that is IPv4 in IPv6 (RFC 4291
    §2.5.5.2) is the IPv4 address.  ``None`` for what is none (a Unix socket)."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
