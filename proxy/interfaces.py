"""This machine's own IPv4 addresses, as ipme.c of qmail finds them: netdevice(7).

Knows: the kernel's list of interfaces.  Knows not: what the addresses are for.  Called
by ``assemble``.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCGIFCONF = 0x8912
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_NAME_SIZE = 16
_REQUEST_SIZE = _NAME_SIZE + struct.calcsize("@LLHBBB0L")  # struct ifreq
_REQUESTS_MAX = 4096

_WITHOUT_NETWORK = frozenset({b"0.0.0.0", b"127.0.0.1"})


def interface_addresses() -> frozenset[bytes]:
    """The IPv4 addresses of this host's interfaces that are up, and 0.0.0.0,
    which qmail takes for this host too."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return frozenset({b"0.0.0.0", *_interfaces_up(sock)})
    except OSError:
        return _WITHOUT_NETWORK


def _interfaces_up(sock: socket.socket) -> list[bytes]:
    buffer = array.array("B", bytes(_REQUESTS_MAX * _REQUEST_SIZE))
    wanted = struct.pack("@iP", len(buffer), buffer.buffer_info()[0])
    answer = fcntl.ioctl(sock, _SIOCGIFCONF, wanted)
    length: int = struct.unpack("@iP", answer)[0]
    content = buffer.tobytes()[:length]
    found = []
    for start in range(0, length, _REQUEST_SIZE):
        request = content[start : start + _REQUEST_SIZE]
        family = struct.unpack_from("@H", request, _NAME_SIZE)[0]
        if family == socket.AF_INET and _is_up(sock, request[:_NAME_SIZE]):
            address = request[_NAME_SIZE + 4 : _NAME_SIZE + 8]
            found.append(socket.inet_ntoa(address).encode())
    return found


def _is_up(sock: socket.socket, name: bytes) -> bool:
    request = name.ljust(_REQUEST_SIZE, b"\0")
    answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
    flags: int = struct.unpack_from("@H", answer, _NAME_SIZE)[0]
    return bool(flags & _IFF_UP)
