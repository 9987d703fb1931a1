"""Work that is asked for again and again, done once at a time.

Knows: that what is asked for meanwhile is done once more after it.  Knows not: the
work.  Used by ``service`` for HUP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class Again:
    """Does ``work`` for whoever asks, in a task of its own."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Do it, or do it once more."""
        self._wanted = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._wanted:
            self._wanted = False
            await self._work()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()  # what went wrong is the loop's to tell

    async def close(self) -> None:
        """Do no more of it."""
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
