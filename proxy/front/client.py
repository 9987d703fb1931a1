"""What counts as one client, for every limit that is per client.

Knows: addresses.  Knows not: limits.  Called by the door.
"""

from __future__ import annotations

import functools
import ipaddress

_BITS = (1 << 62) - 1


@functools.lru_cache(maxsize=4096)
def client_key(client: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 /64 network."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def client_number(client: str) -> int:
    """A number of 62 bits for :func:`client_key`: the same in all workers, which
    are forks of one process, and not to be foreseen by strangers (Python's
    hash has a secret; object.__hash__)."""
    return hash(client_key(client)) & _BITS
