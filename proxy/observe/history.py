"""What the numbers were before: per ten minutes of a day, per day of a month.

Knows: totals that only grow, and the time.  Knows not: what they count.  Fed once a
second by the service, with the totals of all workers; nothing is kept on disk.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SLOT_SECONDS = 600
SLOTS = 144
_DAY = 86400
_DAYS = 31


class Numbers(NamedTuple):
    """Recipients that were ``refused`` (or would have been, in observe mode), let in
    and deferred."""

    refused: int = 0
    accepted: int = 0
    deferred: int = 0

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

    def __init__(self) -> None:
        self._last = Numbers()
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._days: deque[Slot] = deque(maxlen=_DAYS)

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


def _add(slots: deque[Slot], began: int, numbers: Numbers) -> None:
    if slots and slots[-1].began >= began:  # also when the clock was set back
        last = slots.pop()
        slots.append(Slot(last.began, last.numbers.plus(numbers)))
    else:
        slots.append(Slot(began, numbers))
