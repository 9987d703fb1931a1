"""Replies on their way to the client, in the order of the commands.

Knows: that a pipelined command may be answered before an earlier one's answer
is known.  Knows not: what is said.  Called by the dialogue.
"""

from __future__ import annotations

from collections import deque

from proxy.smtp.reply import Reply


class Outbox:
    """Collects replies; a reply waits behind every place kept before it."""

    __slots__ = ("_queue", "_ready")

    def __init__(self) -> None:
        self._ready: list[bytes] = []
        # Only in use while a place is kept; ``None`` is such a place.
        self._queue: deque[bytes | None] = deque()

    @property
    def waiting(self) -> bool:
        """Whether an answer is owed by somebody else."""
        return bool(self._queue)

    def say(self, reply: Reply) -> None:
        """Add a reply."""
        if self._queue:
            self._queue.append(reply.wire)
        else:
            self._ready.append(reply.wire)

    def keep_place(self) -> None:
        """The next reply is not known yet."""
        self._queue.append(None)

    def fill_oldest(self, reply: Reply) -> None:
        """The reply for the oldest place that was kept."""
        self._queue[self._queue.index(None)] = reply.wire
        self._settle()

    def fill_all(self, reply: Reply) -> None:
        """The same reply for every place that was kept."""
        self._queue = deque(reply.wire if w is None else w for w in self._queue)
        self._settle()

    def take(self) -> bytes:
        """Everything that may be sent now."""
        if not self._ready:
            return b""
        data = b"".join(self._ready)
        self._ready.clear()
        return data

    def _settle(self) -> None:
        queue = self._queue
        while queue:
            wire = queue[0]
            if wire is None:
                return
            self._ready.append(wire)
            queue.popleft()
