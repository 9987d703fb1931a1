"""Long work in steps, between which sessions are served.

Knows: how long may be worked in one go.  Knows not: any work; it is a generator that
yields often.  Used by rules that read files as a whole, and where rules are made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

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
