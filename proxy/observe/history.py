"""What the numbers were before: per ten minutes of a day, per day of a month.

Knows: totals that only grow, the time, and how to become plain values and be made of
them.  Knows not: what they count, files (``kept``).  Fed every few seconds by the
service, with the totals of all workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

SLOT_SECONDS = 600
SLOTS = 144
_DAY = 86400
_DAYS = 31


class Numbers(NamedTuple):
    """Recipients that were ``refused`` (or would have been, in observe mode), let in
    and deferred; bounces of mail that was let in."""

    refused: int = 0
    accepted: int = 0
    deferred: int = 0
    leaked: int = 0

    def plus(self, other: Numbers) -> Numbers:
        """Both together."""
        return Numbers(*map(int.__add__, self, other))

    def since(self, before: Numbers) -> Numbers:
        """What has come to it."""
        return Numbers(*(max(0, a - b) for a, b in zip(self, before, strict=True)))


class Slot(NamedTuple):
    """``began`` is in seconds since 1970."""

    began: int
    numbers: Numbers


class History:
    """Slots of ten minutes, and days (UTC); those without any are not there."""

    def __init__(self, since: float = 0.0) -> None:
        """``since``: when it was begun, in seconds since 1970."""
        self.since = since
        self._last = Numbers()
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._days: deque[Slot] = deque(maxlen=_DAYS)

    @classmethod
    def of(cls, plain: Any, now: float) -> History:
        """One of what :meth:`plain` said; ``ValueError`` if it is not that.  What is
        of a time to come, when the clock was wrong, is left out."""
        if not isinstance(plain, dict) or plain.get("version") != _VERSION:
            raise ValueError(f"not of version {_VERSION}")
        made = cls(_number(plain.get("since")))
        for name, slots, seconds in (
            ("slots", made._slots, SLOT_SECONDS),
            ("days", made._days, _DAY),
        ):
            for slot in _read_slots(plain.get(name), seconds):
                if slot.began <= now:
                    slots.append(slot)
        made.since = min(made.since, now)
        return made

    def plain(self) -> dict[str, Any]:
        """All of it but the last totals, as JSON has it."""
        return {
            "version": _VERSION,
            "since": int(self.since),
            "slots": [[slot.began, *slot.numbers] for slot in self._slots],
            "days": [[slot.began, *slot.numbers] for slot in self._days],
        }

    def begin(self, totals: Numbers) -> None:
        """These are counted already."""
        self._last = totals

    def sample(self, totals: Numbers, now: float) -> None:
        """The totals since the start, as they are ``now``."""
        new = totals.since(self._last)
        self._last = totals
        _add(self._slots, int(now) // SLOT_SECONDS * SLOT_SECONDS, new)
        _add(self._days, int(now) // _DAY * _DAY, new)

    def slots(self, now: float) -> list[Slot]:
        """The last 24 hours, oldest first, without gaps."""
        last = int(now) // SLOT_SECONDS * SLOT_SECONDS
        known = {slot.began: slot for slot in self._slots}
        times = range(last - (SLOTS - 1) * SLOT_SECONDS, last + 1, SLOT_SECONDS)
        return [known.get(began, Slot(began, Numbers())) for began in times]

    def days(self, number: int, now: float) -> Numbers:
        """The last ``number`` days together, today among them."""
        first = (int(now) // _DAY - number + 1) * _DAY
        total = Numbers()
        for slot in self._days:
            if slot.began >= first:
                total = total.plus(slot.numbers)
        return total


_VERSION = 1
_MOST = 1 << 53  # what every reader of JSON takes for a whole number


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError("something that is not a number")
    return value


def _read_slots(rows: object, seconds: int) -> Iterator[Slot]:
    if not isinstance(rows, list):
        raise ValueError("something is missing")
    before = -1
    for row in rows:
        if not isinstance(row, list) or len(row) != 1 + len(Numbers._fields):
            raise ValueError("a row of another length")
        began, *numbers = map(_number, row)
        if began <= before or began % seconds:
            raise ValueError("a time out of order")
        before = began
        yield Slot(began, Numbers(*numbers))


def _add(slots: deque[Slot], began: int, numbers: Numbers) -> None:
    if slots and slots[-1].began >= began:  # also when the clock was set back
        last = slots.pop()
        slots.append(Slot(last.began, last.numbers.plus(numbers)))
    else:
        slots.append(Slot(began, numbers))
