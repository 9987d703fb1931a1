"""Several processes that share the listening addresses.

Knows: how to start workers, pass signals on, replace one that dies, add up
their numbers.  Knows not: what a worker does (``service``).  Called by
``service``.

The parent binds a socket of its own for each worker and address (SO_REUSEPORT:
the kernel spreads connections evenly) and keeps it open, so that what waits in
the queue of a worker that died is served by its successor.  It has no event
loop: it forks, waits, and passes signals on.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxy.front.common import Common

_SLOT = 1 << 18
_HEAD = struct.Struct("<QI")
_RESTART_SECONDS = 1.0

Snapshot = dict[str, Any]
"""A worker's numbers, as :meth:`proxy.observe.metrics.Metrics.snapshot` has it."""


class Board:
    """Shared memory in which every worker shows its numbers to the others.

    A slot has one writer.  Its counter is odd while it is being written; a
    reader that sees it change looks again.  ``common`` is what their limits
    count together.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, workers * _SLOT)
        self.common = Common(workers)

    def show(self, worker: int, snapshot: Snapshot) -> None:
        """Replace what ``worker`` shows; too large a snapshot is left out."""
        data = json.dumps(snapshot).encode()
        start = worker * _SLOT
        if len(data) > _SLOT - _HEAD.size:
            return
        count, _ = _HEAD.unpack_from(self._memory, start)
        # A writer that died in the middle left it odd.
        count += count & 1
        _HEAD.pack_into(self._memory, start, count + 1, len(data))
        body = start + _HEAD.size
        self._memory[body : body + len(data)] = data
        _HEAD.pack_into(self._memory, start, count + 2, len(data))

    def read(self, worker: int) -> Snapshot | None:
        """What ``worker`` showed last; ``None`` if nothing yet."""
        start = worker * _SLOT
        for _ in range(1000):
            count, length = _HEAD.unpack_from(self._memory, start)
            if not count:
                return None
            body = start + _HEAD.size
            data = self._memory[body : body + length]
            if count % 2 == 0 and _HEAD.unpack_from(self._memory, start)[0] == count:
                snapshot: Snapshot = json.loads(data)
                return snapshot
        return None  # its writer died while writing

    def others(self, worker: int) -> list[Snapshot]:
        """What the other workers show."""
        numbers = [n for n in range(self._workers) if n != worker]
        return [s for s in map(self.read, numbers) if s is not None]


Serve = Callable[[int, Board, Sequence[socket.socket]], int]
"""What a worker does, with its number; its exit status."""

Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""


class Parent:
    """Starts the workers and waits for them."""

    def __init__(
        self, serve: Serve, sockets: Sequence[Sequence[socket.socket]], say: Say
    ) -> None:
        """``sockets`` are bound, a row for each worker."""
        self._serve = serve
        self._sockets = sockets
        self._say = say
        self._board = Board(len(sockets))
        self._workers: dict[int, int] = {}  # process number: worker
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Until TERM; the worst of the workers' exit statuses."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        for worker in range(len(self._sockets)):
            self._start(worker)
        while self._workers:
            process, status = os.wait()
            worker = self._workers.pop(process, -1)
            if worker >= 0:
                self._ended(worker, process, os.waitstatus_to_exitcode(status))
        return self._status

    def _start(self, worker: int) -> None:
        # A signal that comes between fork and the child's own handlers must
        # not be passed on by the child.
        signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        process = os.fork()
        if process == 0:
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            status = 1
            try:
                status = self._serve(worker, self._board, self._sockets[worker])
            finally:
                os._exit(status)
        self._workers[process] = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _ended(self, worker: int, process: int, status: int) -> None:
        if self._stopping or status == 0:
            self._status = max(self._status, abs(status))
        elif status == 2:  # it cannot start, and neither could its successor
            self._status = 2
            self._stop(signal.SIGTERM, None)
        else:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            text = f"worker {worker} (process {process}) ended with {how}: replaced"
            self._say("error", text)
            time.sleep(_RESTART_SECONDS)  # should it die at once, again and again
            if not self._stopping:
                self._start(worker)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        self._pass_on(signal.SIGTERM, frame)

    def _pass_on(self, number: int, frame: object) -> None:
        for process in list(self._workers):
            os.kill(process, number)
