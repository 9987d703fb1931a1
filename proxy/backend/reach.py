"""The ways to a backend that has to know the client: a socket that is ready
for the greeting.

Knows: programs on a socket pair, connections from the client's own address
(Linux's IP_TRANSPARENT, ip(7)), PROXY headers.  Knows not: greetings, reuse
(``pool``, its only caller; a plain connection needs nothing of this).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from proxy.backend import ucspi
from proxy.backend.client import Client, ip_address
from proxy.backend.ear import Say
from proxy.backend.identity import proxy_header
from proxy.backend.program import Program, Programs
from proxy.system.resolver import Address, Resolver

# linux/in.h and linux/in6.h; Python names none of them before 3.12.
_TRANSPARENT = {
    socket.AF_INET: (socket.IPPROTO_IP, 19),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 75),
}
_BIND_ADDRESS_NO_PORT = 24


class Way(Protocol):
    """What is asked of :class:`~proxy.backend.settings.BackendSettings` here."""

    @property
    def host(self) -> str:
        """Name or address of the backend."""

    @property
    def port(self) -> int:
        """Its port."""

    @property
    def path(self) -> str:
        """Or its Unix socket."""

    @property
    def command(self) -> Sequence[str]:
        """Or the program in its place."""

    @property
    def command_concurrency(self) -> int:
        """How many of them may run."""

    @property
    def connect_timeout(self) -> float:
        """In seconds."""

    @property
    def transparent(self) -> bool:
        """Connect from the client's address."""

    @property
    def send_proxy(self) -> str:
        """Version of the PROXY header, or ``""``."""


class Reached(NamedTuple):
    """A socket, and the program at its other end if there is one.  ``known``: the
    other end sees the client's address as its own client's."""

    sock: socket.socket
    known: bool
    program: Program | None = None


class Reach:
    """Makes such sockets for one backend."""

    def __init__(self, hostname: bytes, now: Callable[[], float], say: Say) -> None:
        self._hostname = hostname
        self._names = Resolver()  # its own: never behind a rule's names
        self.programs = Programs(now, say)
        self._inherited = ucspi.inherited(os.environb)

    async def addresses(self, way: Way) -> list[Address]:
        """Those of a name, in the order in which they are to be tried; none where there
        is nothing to be looked up.  Raises ``OSError``."""
        if way.command or way.path or _is_address(way.host):
            return []
        return await self._names.addresses(way.host, way.port)

    async def __call__(
        self, way: Way, client: Client | None, address: Address | None = None
    ) -> Reached:
        """On behalf of ``client``, within ``connect_timeout``; at ``address``, or the
        first of a name's.  Raises ``OSError``,
        :class:`~proxy.backend.program.CannotStart`,
        :class:`~proxy.backend.program.NoPlace`."""
        if way.command:
            told = ucspi.environment(self._inherited, client, self._hostname)
            limit, patience = way.command_concurrency, way.connect_timeout
            start = self.programs.start(way.command, told, limit, patience)
            sock, program = await start
            return Reached(sock, _has_address(client), program)
        async with asyncio.timeout(way.connect_timeout):
            if address is None:
                address = next(iter(await self.addresses(way)), None)
            sock, known = await _connected(way, client, address)
            if way.send_proxy:
                try:
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(sock, proxy_header(way.send_proxy, client))
                except BaseException:
                    sock.close()
                    raise
        return Reached(sock, known or (bool(way.send_proxy) and _has_address(client)))


def transparent_trouble() -> str:
    """Why connections cannot be made from other hosts' addresses; ``""`` if
    they can."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(*_TRANSPARENT[socket.AF_INET], 1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _has_address(client: Client | None) -> bool:
    return client is not None and ip_address(client.address) is not None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _connected(
    way: Way, client: Client | None, found: Address | None
) -> tuple[socket.socket, bool]:
    """A connection, and whether it comes from the client's own address."""
    where: Any
    if found is not None:
        family, where = found.family, found.address
    elif way.path:
        family, where = socket.AF_UNIX, way.path
    else:
        family = socket.AF_INET6 if ":" in way.host else socket.AF_INET
        where = (way.host, way.port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        own = False
        if way.transparent and client is not None:
            own = _come_from(sock, family, client)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock, own


def _come_from(sock: socket.socket, family: int, client: Client) -> bool:
    """Bind to the client's address, where the two are of one family; else it
    stays our own, and ``False``."""
    address = ip_address(client.address)
    wanted = socket.AF_INET6 if address and address.version == 6 else socket.AF_INET
    if address is None or family != wanted:
        return False
    sock.setsockopt(*_TRANSPARENT[wanted], 1)
    # The port is chosen at connect(2): as many as there are pairs of both.
    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    sock.bind((str(address), 0))
    return True
