"""Work that is asked for again and again, done once at a time.

Knows: that what is asked for meanwhile is done once more after it.  Knows not: the
work.  Used by ``service`` for HUP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Again:
    """Does ``work`` for whoever asks, in a task of its own."""

    def __init__(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._work = work
        self._wanted = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Do it, or do it once more."""
        self._wanted = not self._closed
        self._begin()

    def _begin(self) -> None:
        if self._wanted and self._task is None:
            self._wanted = False
            self._task = asyncio.get_running_loop().create_task(self._work())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._begin()  # also what was asked for between its end and this
        if not task.cancelled():
            task.result()  # what went wrong is the loop's to tell

    async def close(self) -> None:
        """Do no more of it, whoever asks."""
        self._closed, self._wanted = True, False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
