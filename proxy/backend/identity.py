"""What a connection says of the client: PROXY headers, XCLIENT, XFORWARD.

Knows: haproxy's PROXY protocol, versions 1 and 2, and Postfix's two commands
(XCLIENT_README, XFORWARD_README), each as bytes.  Knows not: when they are
sent (``reach``, ``conversation``).  Every value is either made of an address
and numbers or xtext (RFC 3461 §4), so none can hold a line end.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

from proxy.backend.client import Client, IPAddress, ip_address

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21

# Both commands: at most 512 bytes with the line end.
_HELO_MAX = 255

_UNAVAILABLE = b"[UNAVAILABLE]"


def proxy_header(version: str, client: Client | None) -> bytes:
    """The header of ``version`` "v1" or "v2".  Without an address of the client
    it says that the connection is our own."""
    ends = _ends(client)
    if version == "v1":
        return _version_1(ends)
    return _version_2(ends)


_Ends = tuple[IPAddress, int, IPAddress, int]


def _ends(client: Client | None) -> _Ends | None:
    """Both ends, of one family."""
    if client is None:
        return None
    remote, local = ip_address(client.address), ip_address(client.local_address)
    if remote is None or local is None:
        return None
    if remote.version != local.version:  # one of them was IPv4 in IPv6
        remote, local = _mapped(remote), _mapped(local)
    return remote, client.port, local, client.local_port


def _mapped(address: IPAddress) -> IPAddress:
    if address.version == 6:
        return address
    return ipaddress.IPv6Address(f"::ffff:{address}")


def _version_1(ends: _Ends | None) -> bytes:
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    remote, port, local, local_port = ends
    text = f"PROXY TCP{remote.version} {remote} {local} {port} {local_port}\r\n"
    return text.encode()


def _version_2(ends: _Ends | None) -> bytes:
    if ends is None:
        return _SIGNATURE + bytes((_LOCAL, 0, 0, 0))
    remote, port, local, local_port = ends
    family = _TCP4 if remote.version == 4 else _TCP6
    body = remote.packed + local.packed + struct.pack("!HH", port, local_port)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, family, len(body)) + body


def attributes(command: bytes, lines: Iterable[bytes]) -> frozenset[bytes]:
    """What EHLO's ``lines`` offer for ``command``; empty if it is not offered."""
    for line in lines:
        words = line.upper().split()
        if words and words[0] == command:
            return frozenset(words[1:])
    return frozenset()


def xclient(client: Client, helo: bytes, offered: frozenset[bytes]) -> bytes:
    """The XCLIENT command, with what the backend takes of it."""
    known = _known(client, helo)
    local = ip_address(client.local_address)
    if local is not None:
        known[b"DESTADDR"] = _address(local)
        known[b"DESTPORT"] = b"%d" % client.local_port
    known[b"ADDR"] = known.pop(b"ADDR")  # last: servers act on it
    return _command(b"XCLIENT", known, offered)


def xforward(client: Client, helo: bytes, offered: frozenset[bytes]) -> bytes:
    """The XFORWARD command, with what the backend takes of it."""
    known = _known(client, helo)
    known[b"SOURCE"] = b"REMOTE"
    return _command(b"XFORWARD", known, offered)


def _known(client: Client, helo: bytes) -> dict[bytes, bytes]:
    remote = ip_address(client.address)
    long = len(_xtext(helo)) > _HELO_MAX
    return {
        b"NAME": _UNAVAILABLE,  # nobody has looked it up
        b"ADDR": _UNAVAILABLE if remote is None else _address(remote),
        b"PORT": b"%d" % client.port if client.port else _UNAVAILABLE,
        b"PROTO": b"ESMTP" if client.extended else b"SMTP",
        b"HELO": _xtext(helo) if helo and not long else _UNAVAILABLE,
    }


def _command(
    verb: bytes, known: dict[bytes, bytes], offered: frozenset[bytes]
) -> bytes:
    words = [b"%s=%s" % (k, v) for k, v in known.items() if k in offered]
    return b" ".join([verb, *words])


def _address(address: IPAddress) -> bytes:
    return (b"IPV6:" if address.version == 6 else b"") + str(address).encode()


def _xtext(value: bytes) -> bytes:
    return b"".join(
        bytes((byte,)) if 33 <= byte <= 126 and byte not in b"+=" else b"+%02X" % byte
        for byte in value
    )
