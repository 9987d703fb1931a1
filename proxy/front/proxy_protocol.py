"""The PROXY protocol's header, versions 1 and 2: read without I/O.

Knows: HAProxy's proxy-protocol.txt (2.1 version 1, 2.2 version 2).  Knows not:
who may send one, how long it may take (:mod:`proxy.front.proxied`).

Nothing is guessed: what is not a whole, sound header is an error, and no byte
behind the header is touched.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

SIGNATURE_1 = b"PROXY "
SIGNATURE_2 = b"\r\n\r\n\x00\r\nQUIT\n"
V1_MAX = 107
"""Bytes of a header of version 1, with its CRLF (2.1)."""
V2_MAX = 4096
"""Bytes of a header of version 2 that we take.  Addresses need at most 232; 536
must be taken (2.2); the rest is for TLVs, which are skipped."""


class BadHeader(Exception):
    """Not a header; ``args[0]`` says why, in our own words only."""


class Ends(NamedTuple):
    """The two ends of the connection that the proxy took; IPv6 addresses that
    are IPv4 (RFC 4291 §2.5.5.2) are given as IPv4."""

    address: str
    port: int
    local_address: str
    local_port: int


class Header(NamedTuple):
    """A whole header.  ``ends`` is ``None`` where the proxy speaks for itself
    (LOCAL) or does not know (UNKNOWN): then the connection's own ends count.
    ``rest`` came behind it."""

    ends: Ends | None
    rest: bytes


class HeaderReader:
    """Takes one header out of a stream of bytes, however it is cut."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def empty(self) -> bool:
        """Whether nothing has come yet."""
        return not self._buffer

    def feed(self, data: bytes) -> Header | None:
        """The header, once it is whole; raises :class:`BadHeader`.

        Never holds more than :data:`V2_MAX` bytes and what came with them.
        """
        self._buffer = buffer = self._buffer + data
        for signature, read in ((SIGNATURE_1, _version_1), (SIGNATURE_2, _version_2)):
            if buffer.startswith(signature):
                return read(buffer)
            if signature.startswith(buffer):
                return None
        raise BadHeader("no PROXY header")


def _version_1(buffer: bytes) -> Header | None:
    line, newline, rest = buffer.partition(b"\n")
    if len(line) + 1 > V1_MAX:
        raise BadHeader(f"version 1, longer than {V1_MAX} bytes")
    # Sound headers are of printable ASCII; a CR may only be the last byte.
    if not _V1_TEXT.fullmatch(line):
        raise BadHeader("version 1, with bytes that do not belong there")
    if not newline:
        return None
    if not line.endswith(b"\r"):
        raise BadHeader("version 1, without CRLF at its end")
    words = line[len(SIGNATURE_1) : -1].decode("ascii").split(" ")
    if words[0] == "UNKNOWN":
        return Header(None, rest)
    if len(words) != 5 or words[0] not in ("TCP4", "TCP6"):
        raise BadHeader("version 1, not of the form that TCP4, TCP6 or UNKNOWN has")
    family = 4 if words[0] == "TCP4" else 6
    source, target = (_address(word, family) for word in words[1:3])
    return Header(Ends(source, _port(words[3]), target, _port(words[4])), rest)


_V1_TEXT = re.compile(rb"[ -~]*\r?")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


def _address(text: str, family: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadHeader("version 1, with what is no IP address") from None
    if address.version != family or "%" in text:
        raise BadHeader("version 1, with an address of another family")
    return _plain(address)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise BadHeader("version 1, with what is no port")
    return int(text)


_V2_HEAD = len(SIGNATURE_2) + 4
# By the byte of family and protocol: TCP over IPv4, over IPv6, a Unix stream
# socket, and nothing said.  Datagrams cannot carry SMTP.
_LENGTHS = {0x11: 12, 0x21: 36, 0x31: 216, 0x00: 0}


def _version_2(buffer: bytes) -> Header | None:
    if len(buffer) < _V2_HEAD:
        return None
    version, command = divmod(buffer[12], 16)
    length = int.from_bytes(buffer[14:16], "big")
    if version != 2 or command > 1:
        raise BadHeader("version 2, with a version or command that is not known")
    if _V2_HEAD + length > V2_MAX:
        raise BadHeader(f"version 2, longer than {V2_MAX} bytes")
    addresses = _LENGTHS.get(buffer[13])
    if command == 0:  # LOCAL: the family is not to be looked at (2.2)
        addresses = 0
    elif addresses is None:
        raise BadHeader("version 2, of another family than TCP's")
    elif length < addresses:
        raise BadHeader("version 2, with a length that is too small")
    end = _V2_HEAD + length
    if len(buffer) < end:
        return None
    block, rest = buffer[_V2_HEAD:end], buffer[end:]
    if command == 0:
        return Header(None, rest)
    _check_tlvs(buffer[:end], _V2_HEAD + addresses)
    return Header(_ends(block, addresses), rest)


def _ends(block: bytes, length: int) -> Ends | None:
    size = {12: 4, 36: 16}.get(length)
    if size is None:
        return None
    source, target = (
        _plain(ipaddress.ip_address(block[at : at + size])) for at in (0, size)
    )
    ports = block[2 * size : length]
    return Ends(
        source,
        int.from_bytes(ports[:2], "big"),
        target,
        int.from_bytes(ports[2:], "big"),
    )


_TLV_CRC32C = 0x03


def _check_tlvs(header: bytes, at: int) -> None:
    """Type, length and value, one after another from ``at`` on, to the very end
    (2.2.1); a checksum is held against the whole header (2.2.3)."""
    while at < len(header):
        kind, begin = header[at], at + 3
        at = begin + int.from_bytes(header[at + 1 : begin], "big")
        if at > len(header):
            raise BadHeader("version 2, with a TLV that is longer than the header")
        if kind == _TLV_CRC32C:
            _check_sum(header, begin, at)


def _check_sum(header: bytes, begin: int, end: int) -> None:
    """It was reckoned with zeros in its own place."""
    said = header[begin:end]
    zeroed = header[:begin] + bytes(len(said)) + header[end:]
    if said != crc32c(zeroed).to_bytes(4, "big"):
        raise BadHeader("version 2, with a checksum that is wrong")


def crc32c(data: bytes) -> int:
    """The checksum of RFC 4960, appendix B (Castagnoli's polynomial)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc32c_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(map(_crc32c_entry, range(256)))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
