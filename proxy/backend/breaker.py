"""When not to try: a backend that cannot be reached is left in peace a while.

Knows: how many attempts to connect failed in a row, and when the next may be
made.  Knows not: connections, clocks (the time is handed in, in seconds).
Called by :mod:`proxy.backend.pool` around every attempt.

Without it, each session with a good recipient would wait the whole of
``backend.connect_timeout`` before its 451 while qmail-smtpd hangs.  What is
said over a connection that was made never counts here, 4yz and 5yz included.
"""

from __future__ import annotations

import enum


class Attempt(enum.Enum):
    """What :meth:`Breaker.admit` says to an attempt."""

    USUAL = "usual"
    PROBE = "probe"  # the one that finds out whether the backend is back
    FORBIDDEN = "forbidden"


class Breaker:
    """``failures`` attempts that fail in a row open it; for ``seconds`` after
    that nobody may try, then one at a time until one succeeds.

    ``failures`` 0: it never opens.
    """

    def __init__(self, failures: int, seconds: float) -> None:
        self._in_a_row = 0
        self._until = 0.0
        self._probing = False
        self.configure(failures, seconds)

    def configure(self, failures: int, seconds: float) -> None:
        """Other bounds from now on; what was counted stays."""
        self._failures = failures
        self._seconds = seconds

    @property
    def open(self) -> bool:
        """Whether attempts are being forbidden."""
        return 0 < self._failures <= self._in_a_row

    def due(self, now: float) -> bool:
        """Whether it is open, and an attempt may find out."""
        return self.open and not self._probing and now >= self._until

    def forget(self) -> None:
        """It is another backend: nothing is known of it."""
        self._in_a_row = 0
        self._probing = False

    def admit(self, now: float) -> Attempt:
        """May an attempt be made?  Each that may ends in :meth:`succeeded`,
        :meth:`failed` or :meth:`abandoned`."""
        if not self.open:
            return Attempt.USUAL
        if not self.due(now):
            return Attempt.FORBIDDEN
        self._probing = True
        return Attempt.PROBE

    def succeeded(self) -> None:
        """Whoever it was, the backend is there."""
        self.forget()

    def failed(self, attempt: Attempt, now: float) -> None:
        """One more.  Those that began before it opened and end after it do
        not make the pause longer."""
        was_open = self.open
        self._in_a_row += 1
        if attempt is Attempt.PROBE:
            self._probing = False
        elif was_open:
            return
        if self.open:
            self._until = now + self._seconds

    def abandoned(self, attempt: Attempt) -> None:
        """The client left meanwhile: nothing was learnt."""
        if attempt is Attempt.PROBE:
            self._probing = False
