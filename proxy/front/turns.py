"""How much of a turn of the event loop clients with much to say may have.

A client whose commands came one at a time is served at once.  What others have sent
ahead is worked off in turns of some milliseconds, in order, so that nobody waits for
it longer than that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

SECONDS = 0.005


class Working(Protocol):
    """A session that has stopped between two commands."""

    def go_on(self) -> None:
        """Take up the next command, and ask again after it."""


class Turns:
    """Shared by all sessions of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Working] = deque()
        self._begun = False
        self._end = 0.0

    def over(self, session: Working) -> bool:
        """Whether to stop after this command; ``session`` is then told to go on."""
        now = self._loop.time()
        if not self._begun:
            self._begin(now)
        if now < self._end:
            return False
        self._waiting.append(session)
        return True

    def _begin(self, now: float) -> None:
        self._begun = True
        self._end = now + SECONDS
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._begun = False
        waiting = self._waiting
        if not waiting:
            return
        self._begin(self._loop.time())
        while waiting and self._loop.time() < self._end:
            waiting.popleft().go_on()
