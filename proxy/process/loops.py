"""The event loop: uvloop's where it is installed.

Knows: that uvloop may be absent.  Knows not: what runs on it.  Called by ``serve``
and ``demo``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; ``None`` is asyncio's."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


def run_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run on uvloop where it is installed, else on asyncio."""
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(main())
