"""What a source has said before, for a while.

Knows: how old an answer may be, and how many are kept.  Knows not: whom to ask.
Called by :mod:`proxy.rules.source`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT = 10_000
"""Answers of one kind that are remembered; the oldest go first."""


class Memory(Generic[T]):
    """Answers by key, with the time at which they were given.

    ``clock`` is in seconds.  ``seconds`` is how long an answer counts; 0 keeps
    nothing.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float], kept: int = KEPT
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kept = kept
        self._answers: dict[bytes, tuple[float, T]] = {}

    def put(self, key: bytes, answer: T) -> None:
        """Remember ``answer`` from now on."""
        if not self._seconds:
            return
        self._answers.pop(key, None)
        if len(self._answers) >= self._kept:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = self._clock(), answer

    def get(self, key: bytes, within: float) -> T | None:
        """The answer, if it was given in the last ``within`` seconds."""
        found = self._answers.get(key)
        if found is None or self._clock() - found[0] >= min(within, self._seconds):
            return None
        return found[1]

    def forget(self, key: bytes) -> None:
        """As if it had never been given."""
        self._answers.pop(key, None)
