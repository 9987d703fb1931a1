"""Long work in steps, between which sessions are served.

Knows: how long may be worked in one go.  Knows not: any work; it is a generator that
yields often.  Used by rules that read files as a whole, and where rules are made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that may pause at each ``yield``, and what comes of it."""

SLICE = 0.002
"""Seconds of work between two looks at the sockets."""


def stepwise(made: T | Steps[T]) -> Steps[T]:
    """What somebody has made, or makes in steps, in steps."""
    if isinstance(made, Generator):
        found: T = yield from made
        return found
    return made


def at_once(steps: Steps[T]) -> T:
    """All of it now: nobody is waiting."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


async def in_slices(steps: Steps[T]) -> T:
    """All of it, between other work."""
    until = time.perf_counter() + SLICE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE


class Turns(Generic[T]):
    """Steps that go on between other work, until they end or are closed.

    ``done`` is given what came of them, ``failed`` what they raised.
    """

    def __init__(
        self,
        steps: Steps[T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._steps: Steps[T] | None = steps
        self._done = done
        self._failed = failed

    def begin(self, *, small: bool) -> None:
        """Begin; what is ``small`` ends at once, and everything where no session is
        served (``explain``, ``check``)."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not None and not small:
            loop.call_soon(self._go_on, loop)
            return
        while self._steps is not None:
            self._go_on(None)

    def close(self) -> None:
        """Go no further."""
        self._steps = None

    def _go_on(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._steps is None:
            return
        until = time.perf_counter() + SLICE
        try:
            while time.perf_counter() < until:
                next(self._steps)
        except StopIteration as end:
            self._steps = None
            self._done(end.value)
        except Exception as error:  # nobody above would hear of it
            self._steps = None
            self._failed(error)
        else:
            if loop is not None:
                loop.call_soon(self._go_on, loop)
