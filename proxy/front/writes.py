"""What is said to clients in one turn of the loop, written at its end.

Knows: transports.  Knows not: what is said.  Made by the door; called by its
sessions.

In a turn the loop finds several clients that have sent something.  A reply that
is written at once wakes its client's process up, and so does the next; all
together they wake it up once (docs/performance.md has the measurement).
"""

from __future__ import annotations

import asyncio


class Writes:
    """Collects.  Before a transport is closed, or given to somebody else,
    :meth:`now` must be called for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Transport, bytes] = {}

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write ``data`` at the end of this turn, behind what waits already."""
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self._flush)
        waiting[transport] = waiting.get(transport, b"") + data

    def now(self, transport: asyncio.Transport) -> None:
        """Write what waits for this one."""
        data = self._waiting.pop(transport, b"")
        if data:
            transport.write(data)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for transport, data in waiting.items():
            # One that was lost in this turn takes no more.
            if not transport.is_closing():
                transport.write(data)
