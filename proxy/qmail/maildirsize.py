"""Whether a Maildir is over its quota, as far as its ``maildirsize`` tells.

Knows: the Maildir++ file and vpopmail's spellings of quotas.  Knows not: whose
Maildir it is.  Called by ``vpopmail_quota``, and only where a key asks for it.  Source:
maildirquota.c and format_maildirquota() of vpopmail 5.

A file that vpopmail would not trust, and count the messages instead, says nothing
here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.qmail.errors import KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.questions import Quota, Stored
from proxy.qmail.walk import READ, WRITE, Place, Walker

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


def over_quota(
    host: QmailHost, walker: Walker, maildir: Place, allowed: Quota
) -> bool | None:
    """Whether vpopmail would refuse even the smallest message, ``None`` where it
    would count (docheckquota()).

    Raises :class:`~proxy.qmail.errors.CannotTell`.
    """
    place = _file(walker, maildir)
    if place is None or not walker.identity.may(place.status, READ | WRITE):
        return None
    status = place.status
    if status.st_size > _SIZE_MAX or host.clock() - status.st_mtime_ns > _AGE_NS:
        return None
    usage = host.cache.parsed(walker, place, parse, _SIZE_MAX)
    if usage.size < 0 or usage.messages < 0:
        return None  # so little that it is much: storage_t has no sign, since 5.5
    if not is_over(Stored(usage.size, usage.messages), allowed):
        return False
    return True if usage.counted else None


def is_over(stored: Stored, allowed: Quota) -> bool:
    """Whether there is no room for the smallest message, of one byte (qcalc())."""
    if allowed.size and stored.size + 1 > allowed.size:
        return True
    return bool(allowed.messages) and stored.messages >= allowed.messages
