"""Where vpopmail's usage daemon listens, and what it means by its answers.

Knows: ``etc/vusagec.conf``.  Knows not: any network (:mod:`proxy.rules.vusaged`).
Called by :mod:`proxy.qmail.vpopmail_quota`.  Source: client.c, conf.c, ippp.c and
maildirquota.c of vpopmail 5.4 to 5.6.
"""

from __future__ import annotations

import re

from proxy.qmail.errors import KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.questions import Daemon, Stored
from proxy.qmail.walk import Walker

_FILE_MAX = 1 << 16
_COMMENT = re.compile(rb"/\*.*?\*/|//[^\r\n]*", re.DOTALL)
_REMOTE = re.compile(rb"([0-9]{1,3}(?:\.[0-9]{1,3}){3}):([0-9]{1,5})")
_NUMBER = re.compile(rb"[0-9]{1,4}")

_SOCKET_MAX = 106  # socket_file in client_connect()
_TIMEOUT = 1.0  # CLIENT_SERVER_TIMEOUT

NOT_WATCHED = (1 << 64) - 1
"""What the daemon says of a name that it does not watch (query_parse())."""


def daemon(host: QmailHost, walker: Walker, home: bytes) -> Daemon | None:
    """The daemon that vpopmail would ask, ``None`` where it would ask none.

    Raises :class:`~proxy.qmail.errors.CannotTell` for a file that only the front
    door may not read.
    """
    path = home + b"/etc/vusagec.conf"
    try:
        place = walker.readable(path)
    except KernelError:
        return None
    keys = host.cache.parsed(walker, place, parse, _FILE_MAX)
    return _daemon(path, keys)


def parse(content: bytes) -> dict[bytes, bytes]:
    """The first value of each name below ``Server:``, names in small letters."""
    found: dict[bytes, bytes] = {}
    label = b""
    for line in re.split(rb"[\r\n]+", _COMMENT.sub(b"", content)):
        if line[:1].strip():  # else it goes on with the label before
            label, _, line = line.partition(b":")
        if label.strip().lower() != b"server":
            continue
        for atom in line.split(b";")[:-1]:
            name, _, value = atom.partition(b"=")
            found.setdefault(name.strip().lower(), value.strip())
    return found


def _daemon(path: bytes, keys: dict[bytes, bytes]) -> Daemon | None:
    if keys.get(b"disable", b"").lower() == b"true":
        return None
    number = _NUMBER.fullmatch(keys.get(b"timeout", b""))
    timeout = float(number[0]) if number and int(number[0]) else _TIMEOUT
    remote = keys.get(b"remote")
    if remote is None:
        socket = keys.get(b"filename", b"")[:_SOCKET_MAX]
        return Daemon(path, socket=socket, timeout=timeout) if socket else None
    match = _REMOTE.fullmatch(remote)
    if match is None or not 0 < int(match[2]) < 65536:
        return None
    return Daemon(path, host=match[1].decode(), port=int(match[2]), timeout=timeout)


def mailbox_is_full(stored: Stored, allowed: int) -> bool:
    """``vmaildir_readquota()`` at 100: of bytes only, and without the message."""
    return stored.size != NOT_WATCHED and 0 < allowed <= stored.size


def domain_is_full(stored: Stored, size: int, messages: int) -> bool:
    """``domain_over_maildirquota()`` with the daemon's answer, for the smallest of
    messages: a domain without a limit of bytes is full, and numbers wrap."""
    if (stored.size + 1) % (1 << 64) > size:
        return True
    return 0 < messages <= stored.messages
