"""Whether a Maildir is over its quota, as far as its ``maildirsize`` tells.

Knows: the Maildir++ file and vpopmail's spellings of quotas.  Knows not: whose
Maildir it is.  Called by ``vpopmail_quota``, and only where a key asks for it.  Source:
maildirquota.c and format_maildirquota() of vpopmail 5.

A file that vpopmail would not trust, and count the messages instead, says nothing
here: one message gets through, vpopmail counts, and then the file tells.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.qmail.errors import KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.questions import Quota
from proxy.qmail.walk import Place, Walker

# maildirsize_read(): a larger or older file is made anew.
_SIZE_MAX = 5119
_AGE_NS = 15 * 60 * 1_000_000_000

_UNITS = {b"M": 1 << 20, b"K": 1 << 10}
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_COUNTED = re.compile(rb"[ \t]*(-?[0-9]+)[ \t]+(-?[0-9]+)")


class Usage(NamedTuple):
    """What ``maildirsize`` says.  ``counted``: it comes of one count, to which
    nothing was added since; only that is final (docheckquota())."""

    quota: bytes
    size: int
    messages: int
    counted: bool


def read_quota(text: bytes) -> Quota:
    """``format_maildirquota()``: ``10MB``, ``1048576S,1000C``, ``NOQUOTA``."""
    if text.startswith(b"NO"):
        return Quota()
    size = count = 0
    for part in filter(None, text.split(b",")):
        if part.endswith(b"C"):
            count = _leading(part)
            continue
        upper = part.upper().removesuffix(b"S").removesuffix(b"B")
        size = _leading(part) * _UNITS.get(upper[-1:], 1)
    return Quota(max(size, 0), max(count, 0))


def _leading(part: bytes) -> int:
    """strtoll(3): the number that ``part`` begins with, else 0."""
    match = _NUMBER.match(part)
    return int(match[1][:20]) if match else 0


def parse(content: bytes) -> Usage:
    """The content of ``maildirsize``: the quota, then sizes and counts to add up."""
    first, *lines = content.removesuffix(b"\n").split(b"\n")
    size = count = 0
    for line in lines:
        match = _COUNTED.match(line)
        if match is not None:
            size += int(match[1][:20])
            count += int(match[2][:20])
    return Usage(first, size, count, len(lines) == 1)


def quota_of(host: QmailHost, walker: Walker, maildir: Place) -> bytes:
    """``read_quota_from_maildir()``, for an account without a quota; empty where there
    is none.  Raises :class:`~proxy.qmail.errors.CannotTell`."""
    place = _file(walker, maildir)
    if place is None or place.status.st_size > _SIZE_MAX:
        return b""
    return host.cache.parsed(walker, place, parse, _SIZE_MAX).quota


def _file(walker: Walker, maildir: Place) -> Place | None:
    try:
        return walker.readable(b"maildirsize", maildir)
    except KernelError:
        return None


def over_quota(host: QmailHost, walker: Walker, maildir: Place, quota: bytes) -> bool:
    """Whether vpopmail would surely refuse even the smallest message.

    Raises :class:`~proxy.qmail.errors.CannotTell`.
    """
    place = _file(walker, maildir)
    if place is None:
        return False
    status = place.status
    if status.st_size > _SIZE_MAX or host.clock() - status.st_mtime_ns > _AGE_NS:
        return False
    usage = host.cache.parsed(walker, place, parse, _SIZE_MAX)
    allowed = read_quota(quota)
    if not usage.counted:
        return False
    too_big = bool(allowed.size) and usage.size >= allowed.size
    return too_big or (bool(allowed.messages) and usage.messages >= allowed.messages)
