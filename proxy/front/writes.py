"""What is said to clients in one turn of the loop, written at its end.

Knows: transports.  Knows not: what is said.  Made by the door; called by its
sessions.

In a turn the loop finds several clients that have sent something.  A reply that
is written at once wakes its client's process up, and so does the next; all
together they wake it up once (docs/performance.md has the measurement).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

OnClosed = Callable[[asyncio.Transport], None]


class Writes:
    """Collects; ``on_closed`` gets each transport that was closed here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_closed: OnClosed) -> None:
        self._loop = loop
        self._on_closed = on_closed
        self._waiting: dict[asyncio.Transport, bytes] = {}
        self._closing: set[asyncio.Transport] = set()

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write ``data`` at the end of this turn."""
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self.flush)
        before = waiting.get(transport)
        waiting[transport] = data if before is None else before + data

    def close(self, transport: asyncio.Transport) -> None:
        """Close it behind what is to be written."""
        self._closing.add(transport)
        if transport not in self._waiting:
            self.write(transport, b"")

    def now(self, transport: asyncio.Transport) -> None:
        """Write at once what was to be written to this one."""
        data = self._waiting.pop(transport, b"")
        if data and not transport.is_closing():
            transport.write(data)

    def flush(self) -> None:
        """The end of the turn."""
        waiting, self._waiting = self._waiting, {}
        closing = self._closing
        for transport, data in waiting.items():
            if data and not transport.is_closing():
                transport.write(data)
            if closing and transport in closing:
                closing.discard(transport)
                transport.close()
                self._on_closed(transport)
