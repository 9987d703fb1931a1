"""How many connections to one backend there may be, and who waits for one.

Knows: the cap, how many are taken, the order of those who wait.  Knows not:
connections, clocks (times are handed in, in seconds).  Called by
:mod:`proxy.backend.pool` around every attempt, where there is a cap.

tcpserver keeps what is beyond its ``-c`` waiting in the kernel, unseen and
without a greeting; a cap here says "later" after a wait that is short.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from proxy.backend.channel import Channel
from proxy.backend.client import Client


class Waiting(NamedTuple):
    """Somebody who wants a connection before ``deadline``.

    ``granted`` becomes an idle connection, or ``None`` where one may be made;
    it is cancelled when the time is over.
    """

    client: Client | None
    deadline: float
    granted: asyncio.Future[Channel | None]


class Slots:
    """``limit`` connections at a time, those being made included; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.opening = 0
        """Connections that are being made."""
        self._queue: deque[Waiting] = deque()

    def room(self, live: int) -> bool:
        """Whether there may be one more than ``live`` and those being made."""
        return not self.limit or live + self.opening < self.limit

    def wait(self, client: Client | None, deadline: float) -> Waiting:
        """Stand at the end of the queue."""
        granted = asyncio.get_running_loop().create_future()
        waiting = Waiting(client, deadline, granted)
        self._queue.append(waiting)
        return waiting

    def first(self) -> Waiting | None:
        """Who has waited longest and still does."""
        while self._queue and self._queue[0].granted.done():
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def give_up(self, now: float) -> None:
        """End the waits that have lasted long enough."""
        for waiting in self._queue:
            if waiting.deadline < now:
                waiting.granted.cancel()
