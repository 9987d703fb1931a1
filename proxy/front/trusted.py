"""Clients that may relay: the networks of ``relay.trusted``.

Knows: whether an address is in one of the networks.  Knows not: what follows
from it (:mod:`proxy.qmail.smtpd`, RELAYCLIENT), where the networks come from.
Called by the door, once a session, and by ``explain``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_Table = dict[int, dict[int, Network]]
"""Networks by netmask, then by address: one look for each length of prefix."""


class Trusted:
    """A set of networks; ``client in trusted`` for the address of a peer.

    False if there is no network, so that a session need not ask.
    """

    __slots__ = ("_v4", "_v6")

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._v4: _Table = {}
        self._v6: _Table = {}
        for network in networks:
            table = self._v4 if network.version == 4 else self._v6
            same_length = table.setdefault(int(network.netmask), {})
            same_length[int(network.network_address)] = network

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)

    def __contains__(self, client: str) -> bool:
        return self.network_of(client) is not None

    def network_of(self, client: str) -> Network | None:
        """The network that ``client`` is in.

        An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) is the IPv4 address in
        it, and nothing else.  What is no IP address, such as the name of a
        socket, is in none.
        """
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        number = int(address)
        table = self._v4 if address.version == 4 else self._v6
        for mask, networks in table.items():
            found = networks.get(number & mask)
            if found is not None:
                return found
        return None


NOBODY = Trusted()
"""No client may relay."""
