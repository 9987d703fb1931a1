"""tcp.smtp.cdb: what tcpserver -x does with a client, by its address.

Knows: the order in which tcpserver's rules.c looks, and the data that tcprules
writes.  Knows not: what follows from a denial or a variable.  Made by
``assemble``; asked once a session.

Nobody is asked for the client's name or for TCPREMOTEINFO, so the rules for
``=name`` and ``info@address`` match nobody, as with ``tcpserver -H -R``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from proxy.qmail.cache import FileCache
from proxy.qmail.cdb import CdbError, cdb_get, cdb_records
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import FileView
from proxy.qmail.walk import SUPERUSER, Walker


class TcpRulesError(Exception):
    """The file cannot be read, or is damaged where the lookup needs it.

    tcpserver drops the connection then (without -X)."""


class Ruling(NamedTuple):
    """What is to be done with a client.

    ``rule`` is the address that matched, ``None`` if none did; ``variables``
    are names and values in the order of the file.
    """

    rule: bytes | None = None
    denied: bool = False
    variables: tuple[tuple[bytes, bytes], ...] = ()


class TcpRules:
    """The file at ``path`` of ``view``, which is opened again only when it is
    another one."""

    def __init__(self, view: FileView, path: bytes) -> None:
        self._view = view
        self._path = path
        self._cache = FileCache(entries=1)

    def look(self, client: str) -> Ruling:
        """What the file says of the client's address; raises
        :class:`TcpRulesError`."""
        try:
            # The way there is walked anew, so that a change counts at once.
            walker = Walker(self._view, SUPERUSER)
            file = self._cache.opened(walker, walker.readable(self._path))
            for key in keys(client):
                data = cdb_get(file, key)
                if data is not None:
                    return _ruling(key, data)
        except CannotTell as error:
            raise TcpRulesError(str(error)) from error
        except (CdbError, KernelError, OSError) as error:
            path = self._path.decode("latin-1")
            raise TcpRulesError(f"{path}: {error}") from error
        return Ruling()

    def names(self, variable: bytes) -> bool:
        """Whether any rule sets ``variable`` and lets the client in; raises
        :class:`TcpRulesError`.  Reads the whole file."""
        try:
            walker = Walker(self._view, SUPERUSER)
            file = self._cache.opened(walker, walker.readable(self._path))
            return any(
                not ruling.denied and variable in dict(ruling.variables)
                for ruling in (_ruling(key, data) for key, data in cdb_records(file))
            )
        except CannotTell as error:
            raise TcpRulesError(str(error)) from error
        except (CdbError, KernelError, OSError) as error:
            path = self._path.decode("latin-1")
            raise TcpRulesError(f"{path}: {error}") from error


def keys(client: str) -> Iterator[bytes]:
    """What is looked up, in this order: the address, what of it ends with a
    dot (in IPv6 a colon) from the longest, networks, the empty key.

    The whole IPv6 address and the networks are those of ucspi-tcp6 and ucspi-ssl
    (rules.c).  No other tcprules writes such keys, so one order serves all files.
    """
    address = shown_address(client)
    if address:
        yield address
    if b":" in address:
        yield ipaddress.ip_address(address.decode()).exploded.upper().encode()
    for length in range(len(address) - 1, 0, -1):
        if address[length - 1] in b".:":
            yield address[:length]
    if address:
        yield from _networks(address.decode())
    yield b""


_LETTERS = b"abcdefghijklmnopqrstuvwxyz123456"


def _networks(address: str) -> Iterator[bytes]:
    """Bits from the longest network on, as ip4_bitstring and ip6_bitstring of
    ucspi-tcp6 write them: a 0 is "0", a 1 is a letter, by its place in IPv4, by its
    number among the ones in IPv6.  A network of one bit is never looked up."""
    ip = ipaddress.ip_address(address)
    size = ip.max_prefixlen
    marked, ones = bytearray(b"_" if ip.version == 4 else b"^"), 0
    for place in range(size):
        if not int(ip) >> (size - 1 - place) & 1:
            marked += b"0"
        elif ip.version == 4:
            marked.append(_LETTERS[place])
        else:
            marked.append(96 + ones)
            ones += 1
    for length in range(size, 1, -1):
        yield bytes(marked[: 1 + length])


def shown_address(client: str) -> bytes:
    """As TCPREMOTEIP shows it: an IPv4 address in IPv6 is the IPv4 address;
    empty for what is no address."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return b""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address).encode()


def _ruling(key: bytes, data: bytes) -> Ruling:
    """``found()`` of tcpserver.c: what is not ended by NUL does not count, nor
    a letter that it does not know."""
    denied = False
    variables = []
    for entry in data.split(b"\0")[:-1]:
        if entry.startswith(b"D"):
            denied = True
        elif entry.startswith(b"+"):
            name, equals, value = entry[1:].partition(b"=")
            if equals and name:
                variables.append((name, value))
    return Ruling(key, denied, tuple(variables))
