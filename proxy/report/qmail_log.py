"""qmail-send's log: what became of each message.

Knows: the lines of qmail-log(5) as qmail-send.c writes them, whatever stands
before them (multilog's TAI64N, syslog with splogger's number, ISO dates, nothing).
Knows not: files, our own log.  No I/O: bytes in, calls out.  Called by the report
and by the leak watch.

Addresses and reports come through ``logsafe()`` (qsutil.c): every byte that is
not printable, the blank and ``%`` are ``_``, a newline is ``/``.  So nothing that a
stranger sends can end a line or stand where qmail-send's own words stand.
"""

from __future__ import annotations

import re
from typing import Protocol

from proxy.report.stamp import STAMP, Clock

_LINES = re.compile(
    rb"\n(?:(" + STAMP + rb") )?"
    # syslog's and journald's host and program, then splogger's own time.
    rb"(?:[^ \n:]+ [^ \n]+: )?(?:(\d{9,10}\.\d+) )?"
    rb"(info msg|starting delivery|delivery|bounce msg|end msg) (\d{1,20})"
    rb"(?:: ([^\n]*)| qp (\d{1,20}))?(?=\n)"
).findall
_INFO = re.compile(
    rb"bytes (\d{1,20}) from <(.*)> qp (\d{1,20}) uid (\d{1,20})"
).fullmatch
_START = re.compile(rb"msg (\d{1,20}) to (local|remote) (.*)").fullmatch

_SAFE = bytes(
    0x2F if c == 0x0A else c if 33 <= c <= 126 and c != 0x25 else 0x5F
    for c in range(256)
)


def logsafe(value: bytes) -> bytes:
    """``value`` as qmail-send shows it: ``logsafe()`` of qsutil.c."""
    return value.translate(_SAFE)


class Listener(Protocol):
    """Hears of each line; ``stamp`` is the time as it stands there, for
    :class:`~proxy.report.stamp.Clock`."""

    def info(
        self, stamp: bytes, message: int, sender: bytes, qp: int, uid: int
    ) -> None:
        """A message is in the queue; its number may have been another's before."""
        ...

    def starting(
        self, delivery: int, message: int, channel: bytes, recipient: bytes
    ) -> None:
        """A delivery begins; ``channel`` is ``local`` or ``remote``."""
        ...

    def result(self, stamp: bytes, delivery: int, report: bytes) -> None:
        """It is over: ``success: ...``, ``failure: ...`` or ``deferral: ...``."""
        ...

    def bounced(self, message: int, qp: int) -> None:
        """A bounce of ``message`` was queued."""
        ...

    def ended(self, message: int) -> None:
        """The message leaves the queue."""
        ...


def feed(block: bytes, listener: Listener) -> None:
    """Tell ``listener`` what is in ``block``, which is whole lines, each with its
    newline.  Lines of others are passed over; never raises for what is there."""
    info, starting = listener.info, listener.starting
    result, ended = listener.result, listener.ended
    for stamp, number, kind, which, rest, qp in _LINES(b"\n" + block):
        if kind == b"delivery":
            result(number or stamp, int(which), rest)
        elif kind == b"starting delivery":
            if match := _START(rest):
                starting(int(which), int(match[1]), match[2], match[3])
        elif kind == b"end msg":
            ended(int(which))
        elif kind == b"info msg":
            if match := _INFO(rest):
                info(
                    number or stamp, int(which), match[2], int(match[3]), int(match[4])
                )
        elif qp:
            listener.bounced(int(which), int(qp))


def first_time(block: bytes, clock: Clock) -> int | None:
    """Seconds since 1970 of the first of qmail-send's lines that tells."""
    for stamp, number, *_ in _LINES(b"\n" + block):
        if stamp or number:
            return clock.seconds(number or stamp)
    return None


def last_time(block: bytes, clock: Clock) -> int | None:
    """As :func:`first_time`, of the last one."""
    for stamp, number, *_ in reversed(_LINES(b"\n" + block)):
        if stamp or number:
            return clock.seconds(number or stamp)
    return None
