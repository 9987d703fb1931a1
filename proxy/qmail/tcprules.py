"""tcp.smtp.cdb: what tcpserver -x does with a client, by its address.

Knows: the order in which tcpserver's rules.c looks, and the data that tcprules
writes.  Knows not: what follows from a denial or a variable.  Made by
``assemble``; asked once a session.

Nobody is asked for the client's name or for TCPREMOTEINFO, so the rules for
``=name`` and ``info@address`` match nobody, as with ``tcpserver -H -R``.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from proxy.qmail.cache import FileCache
from proxy.qmail.cdb import CdbError, cdb_get, cdb_records, prefix_hashes
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import FileView, OpenFile
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
        self._named: tuple[OpenFile | None, bytes, bool] = (None, b"", False)

    def look(self, client: str) -> Ruling:
        """What the file says of the client's address; raises
        :class:`TcpRulesError`."""
        with self._opened() as file:
            for key in keys(client, _slots(file)):
                data = cdb_get(file, key)
                if data is not None:
                    return _ruling(key, data)
        return Ruling()

    def by_name(self) -> list[bytes]:
        """The rules for names and for TCPREMOTEINFO, which match nobody here; raises
        :class:`TcpRulesError`.  Reads the whole file."""
        with self._opened() as file:
            return [k for k, _ in cdb_records(file) if k[:1] == b"=" or b"@" in k]

    def names(self, variable: bytes) -> bool:
        """Whether any rule sets ``variable`` and lets the client in; raises
        :class:`TcpRulesError`.  Reads the whole file when it is another one."""
        with self._opened() as file:
            if self._named[0] is not file or self._named[1] != variable:
                found = any(_sets(data, variable) for _, data in cdb_records(file))
                self._named = (file, variable, found)
            return self._named[2]

    @contextmanager
    def _opened(self) -> Iterator[OpenFile]:
        """The way there is walked anew, so that a change counts at once."""
        try:
            walker = Walker(self._view, SUPERUSER)
            yield self._cache.opened(walker, walker.readable(self._path))
        except CannotTell as error:
            raise TcpRulesError(str(error)) from error
        except (CdbError, KernelError, OSError) as error:
            path = self._path.decode("latin-1")
            raise TcpRulesError(f"{path}: {error}") from error


def keys(client: str, slots: Sequence[int] = ()) -> Iterator[bytes]:
    """What is looked up, in this order: the address, what of it ends with a
    dot (in IPv6 a colon) from the longest, networks, the empty key.

    The whole IPv6 address and the networks are those of ucspi-tcp6 and ucspi-ssl
    (rules.c).  No other tcprules writes such keys, so one order serves all files.
    With ``slots``, the lengths of a file's 256 tables, networks are left out whose
    table is empty.
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
        longest = _network(address.decode())
        hashes = prefix_hashes(longest)
        # A network of one bit is never looked up.
        for length in range(len(longest), 2, -1):
            if not slots or slots[hashes[length] & 255]:
                yield longest[:length]
    yield b""


_LETTERS = b"abcdefghijklmnopqrstuvwxyz123456"


def _network(address: str) -> bytes:
    """All bits of an address, as ip4_bitstring and ip6_bitstring of ucspi-tcp6 write
    them: a 0 is "0", a 1 is a letter, by its place in IPv4, by its number among the
    ones in IPv6.  Less of it is the key of a network."""
    ip = ipaddress.ip_address(address)
    if ip.version == 4:
        digits = zip(f"{int(ip):032b}", _LETTERS, strict=True)
        return b"_" + bytes(48 if bit == "0" else letter for bit, letter in digits)
    ones = iter(range(96, 256))
    return b"^" + bytes(48 if b == "0" else next(ones) for b in f"{int(ip):0128b}")


_HEAD = struct.Struct("<512I")


def _slots(file: OpenFile) -> Sequence[int]:
    """How long the tables of a cdb are; empty if its head is cut off."""
    head = file.pread(_HEAD.size, 0)
    return _HEAD.unpack(head)[1::2] if len(head) == _HEAD.size else ()


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


def _sets(data: bytes, variable: bytes) -> bool:
    """Whether a record lets the client in, with ``variable``."""
    if b"+" + variable + b"=" not in data:
        return False
    ruling = _ruling(b"", data)
    return not ruling.denied and variable in dict(ruling.variables)


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
