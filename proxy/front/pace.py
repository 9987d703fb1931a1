"""How fast a message comes: the least rate that a client must keep.

Knows: a window of time, and how much must have come in it.  Knows not: the
session; clock and size are handed in.  Made by the session for each message.

Time in which the client is not read, because the backend does not keep up, is
not counted: nobody pays for another's slowness.
"""

from __future__ import annotations

WINDOW = 60.0
"""Seconds over which the rate is averaged.  The first window is let pass."""

_NEVER = float("inf")


class Pace:
    """``ends`` is when the present window is to be looked at, ``silent`` when a
    client that says nothing more is too late; clocks and times in seconds,
    ``rate`` in bytes a second, 0 for none."""

    __slots__ = ("_begun_with", "_rate", "_stands", "ends", "silent")

    def __init__(self, now: float, rate: int) -> None:
        self._rate = rate
        self._begun_with = -1
        self._stands: float | None = None
        self.ends = now + WINDOW if rate else _NEVER
        self.silent = _NEVER

    @property
    def next_look(self) -> float:
        """When to look again, if the client does nothing until then."""
        return min(self.ends, self.silent)

    def read(self, now: float, reading: bool) -> None:
        """The client is read from now on, or is not."""
        if not reading:
            self._stands = now
        elif self._stands is not None:
            self.ends += now - self._stands
            self._stands = None

    def too_slow(self, now: float, size: int) -> bool:
        """At the end of a window, with ``size`` bytes so far: whether too little
        came in it.  If not, the next one begins."""
        begun_with, self._begun_with = self._begun_with, size
        self.ends = now + WINDOW
        return begun_with >= 0 and size - begun_with < self._rate * WINDOW
