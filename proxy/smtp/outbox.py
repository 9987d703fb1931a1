"""Replies on their way to the client, in the order of the commands.

Knows: that a pipelined command may be answered before an earlier one's answer
is known.  Knows not: what is said.  Called by the dialogue.
"""

from __future__ import annotations

from collections import deque

from proxy.smtp.reply import Reply


class Outbox:
    """Collects replies; a reply waits behind every place kept before it."""

    __slots__ = ("_queue", "_ready", "waiting")

    def __init__(self) -> None:
        self.waiting = False
        """Whether an answer is owed by somebody else."""
        self._ready = b""
        # Only in use while a place is kept; ``None`` is such a place.
        self._queue: deque[bytes | None] = deque()

    def say(self, reply: Reply) -> None:
        """Add a reply."""
        if self.waiting:
            self._queue.append(reply.wire)
        else:
            self._ready += reply.wire

    def keep_place(self) -> None:
        """The next reply is not known yet."""
        self._queue.append(None)
        self.waiting = True

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
        data = self._ready
        self._ready = b""
        return data

    def _settle(self) -> None:
        queue = self._queue
        ready = [self._ready]
        while queue and (wire := queue[0]) is not None:
            ready.append(wire)
            queue.popleft()
        self._ready = b"".join(ready)
        self.waiting = bool(queue)
