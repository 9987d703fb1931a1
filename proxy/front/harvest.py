"""Clients that keep guessing recipients, across their sessions.

Knows: how much each client has guessed lately, which clients had mail accepted
lately, when a refusal is held back and when a client is refused at the door.
Knows not: sessions, sockets, replies; the clock is handed in.  Called by the
door.

Three tables of fixed size.  What is kept of good clients is apart from what is
kept of guessers: only accepted mail writes there, so a flood of guessers, from
however many addresses, pushes no good client out.  (The library ``limits`` was
looked at: its storage in memory is not bounded, starts a thread, and counts
hits in windows; here a level sinks steadily, which is two numbers a client.)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

REFUSE = float("inf")
"""Answer of :meth:`Harvest.guessed`: not held back, but refused."""

DELAY_MAX = 30.0
"""Seconds.  Clients wait five minutes for RCPT's reply (RFC 5321 §4.5.3.2.3)."""

FORGIVEN_SECONDS = 60.0
"""One guess is forgiven in that time."""

GUESSES_PER_MESSAGE = 20
"""So many guesses are not held against a client for each message that was accepted
from it, as they are in mail to old lists."""

CREDIT_MAX = 1000
"""Guesses: no client is above suspicion for long."""

CLIENTS_MAX = 20_000
"""Clients in each table; the one that was seen longest ago gives way."""


@dataclass(frozen=True, slots=True)
class HarvestSettings:
    """Guesses are recipients that were refused for want of a mailbox.

    Beyond ``delay_after`` guesses each refusal is held back, by a second more
    for each further one.  Beyond ``refuse_after`` a client is refused for
    ``refuse_seconds``.  0 of either: never.  Mail that was accepted gives a client
    credit for :data:`GUESSES_PER_MESSAGE` guesses, for ``remember_seconds``.
    """

    delay_after: int = 10
    refuse_after: int = 50
    refuse_seconds: float = 900.0
    remember_seconds: float = 86400.0


class Harvest:
    """What is remembered of clients, which are numbers here; see
    :func:`proxy.front.client.client_number`.

    ``now`` is any clock in seconds, the same in all calls.  ``refused`` is
    empty as long as nobody is refused, so that the door need not ask.
    Without settings nobody is suspected.
    """

    def __init__(self, settings: HarvestSettings | None = None) -> None:
        self._settings = settings
        self._guessers: OrderedDict[int, tuple[float, float]] = OrderedDict()
        # Guesses that each may still make, and when its mail was accepted last.
        self._good: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self.refused: OrderedDict[int, float] = OrderedDict()

    def configure(self, settings: HarvestSettings | None) -> None:
        """Other settings from now on; without, all guesses are forgotten."""
        self._settings = settings
        if settings is None:
            self._guessers.clear()
            self.refused.clear()

    def guessed(self, client: int, now: float) -> float:
        """One more guess; the seconds by which its refusal is to be held back,
        or :data:`REFUSE`."""
        settings = self._settings
        if settings is None:
            return 0.0
        credit, accepted = self._credit(client, now)
        if credit >= 1:
            self._good[client] = (credit - 1, accepted)
            return 0.0
        level, when = self._guessers.pop(client, (0.0, now))
        level = max(level - (now - when) / FORGIVEN_SECONDS, 0.0) + 1.0
        refuse = settings.refuse_after
        too_many = 0 < refuse < level
        self._guessers[client] = (float(refuse) if too_many else level, now)
        _keep_few(self._guessers)
        if too_many:
            self.refused[client] = now + settings.refuse_seconds
            _keep_few(self.refused)
            return REFUSE
        after = settings.delay_after
        return min(level - after, DELAY_MAX) if 0 < after < level else 0.0

    def delivered(self, client: int, now: float) -> bool:
        """Mail was accepted; whether other workers are to hear of it."""
        credit, _ = self._credit(client, now)
        self._good.pop(client, None)
        self._good[client] = (min(credit + GUESSES_PER_MESSAGE, CREDIT_MAX), now)
        _keep_few(self._good)
        level, when = self._guessers.pop(client, (0.0, now))
        if level > GUESSES_PER_MESSAGE:
            self._guessers[client] = (level - GUESSES_PER_MESSAGE, when)
        self.refused.pop(client, None)
        return credit < CREDIT_MAX

    def refuses(self, client: int, now: float) -> bool:
        """Whether a connection of this client is turned away."""
        return self.refused.get(client, now) > now

    def sweep(self, now: float) -> None:
        """Forget whose time is over; now and then."""
        refused = self.refused
        while refused and next(iter(refused.values())) <= now:
            refused.popitem(last=False)

    def _credit(self, client: int, now: float) -> tuple[float, float]:
        """The guesses that it may still make, and when its mail was accepted."""
        credit, accepted = self._good.get(client, (0.0, now))
        settings = self._settings
        if settings is None or now - accepted >= settings.remember_seconds:
            return 0.0, accepted
        return credit, accepted


def _keep_few(
    table: OrderedDict[int, float] | OrderedDict[int, tuple[float, float]],
) -> None:
    if len(table) > CLIENTS_MAX:
        table.popitem(last=False)
