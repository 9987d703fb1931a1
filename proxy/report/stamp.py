"""The time that stands before a line of a log, in whatever form.

Knows: TAI64N labels (multilog, svlogd -t), ISO dates (our own, svlogd -tt and
-ttt, journalctl -o short-iso, tai64nlocal), syslog's dates, seconds since 1970
(splogger, journalctl -o short-unix).  Knows not: what follows.  Called by both
parsers and by the report.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Callable

STAMP = (
    rb"@[0-9a-f]{16,24}"
    rb"|\d{4}-\d\d-\d\d[T_ ]\d\d:\d\d:\d\d[^ \n]*"
    rb"|[A-Z][a-z][a-z] [ \d]\d \d\d:\d\d:\d\d"
    rb"|\d{9,10}\.\d+"
)
"""A regular expression without groups: what :class:`Clock` reads."""

_FIND = re.compile(STAMP).search
_ISO = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)([T_ ])(\d\d):(\d\d):(\d\d)[.,\d]*"
    rb"(Z|[+-]\d\d:?\d\d)?"
).match
_SYSLOG = re.compile(rb"([A-Z][a-z][a-z]) ([ \d]\d) (\d\d):(\d\d):(\d\d)").match
_MONTHS = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1
    )
}
# tai_now() of daemontools and libtai: 2^62, and ten seconds for leap seconds.
_TAI = (1 << 62) + 10
_KEPT = 4096
_A_DAY = 86400


class Clock:
    """Reads times; ``now`` (seconds since 1970) tells the year of syslog's dates,
    which have none: they are at most a day in the future."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self._kept: dict[bytes, int | None] = {}

    def seconds(self, head: bytes) -> int | None:
        """Seconds since 1970 of the first time in ``head``; ``None`` without one.

        Times without a zone are UTC (svlogd(8)); syslog's and tai64nlocal's,
        which have a blank, are this machine's local time.
        """
        # Without the fraction of a TAI64N label or an ISO date: one of a second.
        key = head[:17] if head[:1] == b"@" else head[:19]
        if head[10:11] == b"T" and head[-1:] != b"Z":  # a zone may follow
            key = head
        kept = self._kept
        if key in kept:
            return kept[key]
        if len(kept) >= _KEPT:
            kept.clear()
        found = kept[key] = self._read(head)
        return found

    def _read(self, head: bytes) -> int | None:
        match = _FIND(head)
        if match is None:
            return None
        text = match[0]
        try:
            if text[:1] == b"@":
                return int(text[1:17], 16) - _TAI
            if iso := _ISO(text):
                return _iso_seconds(iso)
            if syslog := _SYSLOG(text):
                return self._syslog_seconds(syslog)
            return int(text.partition(b".")[0])
        except (ValueError, OverflowError, KeyError):
            return None

    def _syslog_seconds(self, match: re.Match[bytes]) -> int:
        month = _MONTHS[match[1]]
        rest = (int(match[2]), int(match[3]), int(match[4]), int(match[5]), 0, 0, -1)
        year = time.localtime(self.now()).tm_year
        when = time.mktime((year, month, *rest))
        if when > self.now() + _A_DAY:
            when = time.mktime((year - 1, month, *rest))
        return int(when)


def _iso_seconds(match: re.Match[bytes]) -> int:
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    clock = (int(match[5]), int(match[6]), int(match[7]))
    zone = match[8]
    if zone is None and match[4] == b" ":
        return int(time.mktime((year, month, day, *clock, 0, 0, -1)))
    when = timegm((year, month, day, *clock, 0, 0, 0))
    if zone and zone != b"Z":
        digits = zone[1:].replace(b":", b"")
        ahead = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        when += ahead if zone[:1] == b"-" else -ahead
    return when


def read_moment(text: str, clock: Clock) -> int:
    """Seconds since 1970 of what a person gives: a date, a date with a time, or
    ``90m``, ``24h``, ``7d`` before now.  Without a zone it is UTC, as in our log.
    Raises ``ValueError``."""
    ago = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if ago:
        unit = {"m": 60, "h": 3600, "d": _A_DAY}[ago[2]]
        return int(clock.now()) - int(ago[1]) * unit
    whole = text
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        whole = f"{text}T00:00:00"
    elif re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", text):
        whole = f"{text}:00"
    match = _ISO(whole.replace(" ", "T").encode("ascii", "replace"))
    if match is None or match.end() != len(whole):
        raise ValueError(text)
    time.strptime(whole[:10], "%Y-%m-%d")
    return _iso_seconds(match)
