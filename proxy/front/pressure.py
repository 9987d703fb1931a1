"""Less patience when connections run short.

Knows: the steps, when each is entered and left.  Knows not: sessions.  Called
by the door, which compares one number when a session comes or goes.

The steps' idea is Postfix's (STRESS_README): with few slots left, those who do
nothing have to go first.  A step is left at fewer connections than it was
entered at, so that it does not flicker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from proxy.smtp.driver import Limits

_NEVER = float("inf")


class Step(NamedTuple):
    """``enter`` and ``leave`` in percent of the cap; the rest are most values,
    but ``rate``, which the least data rate is multiplied by.  ``kept`` is how
    many seconds an idle connection to the backend stays."""

    enter: int
    leave: int
    command_timeout: float
    data_timeout: float
    kept: float
    rate: int
    refusals: int


STEPS = (
    Step(0, 0, _NEVER, _NEVER, _NEVER, 1, 0),
    Step(75, 65, 60.0, 60.0, 10.0, 5, 0),
    Step(90, 80, 10.0, 30.0, 1.0, 5, 3),
)
"""The present step's number is the ``level``."""


class Patience(NamedTuple):
    """What is granted now; 0 is no bound.  Seconds, and bytes a second."""

    command_timeout: float
    data_timeout: float
    data_rate: int

    def under(self, step: Step) -> Patience:
        """The same at a step; what is not bounded stays so."""
        return Patience(
            min(self.command_timeout, step.command_timeout),
            min(self.data_timeout, step.data_timeout),
            self.data_rate * step.rate,
        )


def limits_under(limits: Limits, step: Step) -> Limits:
    """What a session that begins at ``step`` may do."""
    if not step.refusals:
        return limits
    return replace(
        limits,
        unknown_recipients=min(limits.unknown_recipients, step.refusals),
        errors=min(limits.errors, step.refusals),
    )


class Pressure:
    """At how many connections which step holds.

    When there are ``up`` or more, or ``down`` or fewer, :meth:`look` has
    something to do.
    """

    def __init__(self, cap: int) -> None:
        """``cap``: connections in all; 0: no cap, and never any pressure."""
        self._cap = cap
        self.level = 0
        self._set(0)

    @property
    def step(self) -> Step:
        """The present step."""
        return STEPS[self.level]

    def look(self, count: int) -> bool:
        """There are ``count`` connections; whether the level is another now."""
        before = self.level
        while count >= self.up:
            self._set(self.level + 1)
        while count <= self.down:
            self._set(self.level - 1)
        return self.level != before

    def _set(self, level: int) -> None:
        cap = self._cap
        self.level = level
        higher = level + 1 < len(STEPS) and cap
        self.up = -(-cap * STEPS[level + 1].enter // 100) if higher else 1 << 62
        self.down = (cap * STEPS[level].leave - 1) // 100 if level else -1
