"""Several processes that share the listening addresses.

Knows: how to start workers, pass signals on, replace one that dies or stands still,
add up their numbers, tell the supervisor.  Knows not: what a worker does (``service``).
Called by ``serve``.

The parent binds a socket of its own for each worker and address (SO_REUSEPORT:
the kernel spreads connections evenly) and keeps it open, so that what waits in
the queue of a worker that died is served by its successor.  It has no event
loop: it forks, waits, and passes signals on.  Workers tell it by a pipe when
they are ready; the supervisor hears of the whole service, from the parent only.

The parent watches them: a worker whose event loop stands still (a file on a dead NFS
server, SIGSTOP) is told of, ended by KILL and replaced; and TERM ends the service
whatever its workers do.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from typing import Any

from proxy.front.common import Common
from proxy.process import capabilities
from proxy.process.notify import Tell

_SLOT = 1 << 18
_HEAD = struct.Struct("<QI")
_RESTART_SECONDS = 1.0
_TICK_SECONDS = 0.5
_LATE_SECONDS = 3.0
"""A worker that has not shown itself for so long, though it does so every second,
stands still."""
_KILL_SECONDS = 5.0
"""What a worker has to end after ``shutdown_grace``, and what the kernel has to end
it after KILL."""

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
        self._beats = memoryview(mmap.mmap(-1, workers * 8)).cast("Q")
        self.common = Common(workers)

    def show(self, worker: int, snapshot: Snapshot) -> None:
        """Replace what ``worker`` shows; too large a snapshot is left out."""
        self._beats[worker] += 1
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

    def beats(self) -> list[int]:
        """A number for each worker that grows whenever it shows something."""
        return self._beats.tolist()

    def others(self, worker: int) -> list[Snapshot]:
        """What the other workers show."""
        numbers = [n for n in range(self._workers) if n != worker]
        return [s for s in map(self.read, numbers) if s is not None]


class Pulse:
    """How long each worker has not shown anything, as far as who asks has seen."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.beats = board.beats()
        """What was seen last."""
        self._since = [time.monotonic()] * len(self.beats)
        self._looked = time.monotonic()

    def look(self) -> None:
        """To be called about once a second."""
        now = time.monotonic()
        slept = now - self._looked > _LATE_SECONDS  # we stood still ourselves
        self._looked = now
        beats = self._board.beats()
        for worker, beat in enumerate(beats):
            if slept or beat != self.beats[worker]:
                self._since[worker] = now
        self.beats = beats

    def begin(self, worker: int) -> None:
        """Another process is that worker from now on."""
        self._since[worker] = time.monotonic()

    def quiet(self, worker: int) -> float:
        """In seconds."""
        return self._looked - self._since[worker]

    def late(self) -> list[int]:
        """Who stands still."""
        workers = range(len(self._since))
        return [w for w in workers if self.quiet(w) > _LATE_SECONDS]


class _Worker:
    """A process of ours; ``told``: that it stands still; ``killed``: when."""

    def __init__(self, number: int, beats: int) -> None:
        self.number = number
        self.first = beats  # it serves when it has shown something
        self.told = False
        self.killed: float | None = None


Serve = Callable[[int, Board, Tell], int]
"""What a worker does, with its number; its exit status."""

Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Parent:
    """Starts the workers and waits for them."""

    def __init__(
        self,
        workers: int,
        serve: Serve,
        say: Say,
        tell: Tell,
        reload: Callable[[], None],
        watchdog: float = 0.0,
        *,
        patience: float = 0.0,
        grace: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """``tell`` hears how they all are, ``alive`` only with a ``watchdog``;
        ``reload`` is for what later workers start with.  A worker that stands still
        for ``patience`` seconds is replaced (0: never); ``grace`` says how many
        seconds they may take to end."""
        self._count = workers
        self._serve = serve
        self._say = say
        self._tell = tell
        self._watchdog = watchdog
        self._reload = reload
        # They show themselves once a second.
        self._patience = max(patience, _LATE_SECONDS + 1) if patience else 0
        self._grace = grace
        self._board = Board(workers)
        self._pulse = Pulse(self._board)
        self._workers: dict[int, _Worker] = {}  # by process number
        self._due: dict[int, float] = {}  # worker: when to replace it
        self._waiting = set(range(workers))  # who has not said that it is ready
        self._seen = [0] * workers
        self._stopping = False
        self._deadline: float | None = None  # for all of them
        self._status = 0

    def run(self) -> int:
        """Until TERM; 0, 2 if the workers cannot start, 1 if one ended badly."""
        self._wake, self._waker = _pipe()
        self._news, self._teller = _pipe()
        for number in (*_SIGNALS, signal.SIGCHLD):
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._news, select.POLLIN)
        for worker in range(self._count):
            self._start(worker)
        while self._workers or self._due:
            poll.poll(_TICK_SECONDS * 1000)
            for byte in _read(self._wake):
                self._signalled(byte)
            for line in _read(self._news).decode().splitlines():
                self._heard(*line.split(" ", 2))
            self._reap()
            self._watch()
            self._replace()
            self._alive()
        return self._status

    def _start(self, worker: int) -> None:
        parent = os.getpid()
        # A signal that comes between fork and the child's own handlers must
        # not be passed on by the child; the child takes HUP when it can.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        process = os.fork()
        if process == 0:
            status = 1
            try:
                self._settle_in(parent)
                status = self._serve(worker, self._board, self._teller_of(worker))
            finally:
                os._exit(status)
        self._pulse.begin(worker)
        self._workers[process] = _Worker(worker, self._board.beats()[worker])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _settle_in(self, parent: int) -> None:
        """What the child undoes of the parent."""
        signal.set_wakeup_fd(-1)
        for usual in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(usual, signal.SIG_DFL)
        # A terminal sends it to all; the parent passes TERM on, and two would
        # end a worker at once.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        capabilities.end_with_parent()
        if os.getppid() != parent:
            os._exit(1)

    def _teller_of(self, worker: int) -> Tell:
        def tell(what: str, text: str) -> None:
            if what in ("ready", "reloaded"):
                line = f"{worker} {what} {text}"
                os.write(self._teller, line.encode()[: select.PIPE_BUF - 1] + b"\n")

        return tell

    # What happens.

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._waiting.update(range(self._count))
            self._tell("reloading", "")
            self._reload()
            self._pass_on(signal.SIGHUP)
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop()

    def _heard(self, worker: str, what: str, text: str) -> None:
        self._waiting.discard(int(worker))
        if not self._waiting and not self._stopping:
            self._tell(what, text)

    def _reap(self) -> None:
        try:
            while self._workers:
                process, status = os.waitpid(-1, os.WNOHANG)
                if not process:
                    return
                worker = self._workers.pop(process, None)
                if worker is not None:
                    status = os.waitstatus_to_exitcode(status)
                    self._ended(worker.number, process, status)
        except ChildProcessError:
            return

    def _ended(self, worker: int, process: int, status: int) -> None:
        if status in (0, -signal.SIGTERM) and self._stopping:
            return
        if status == 2:  # it cannot start, and neither could its successor
            self._status = 2
            self._stop()
            return
        how = f"signal {-status}" if status < 0 else f"status {status}"
        text = f"worker {worker} (process {process}) ended with {how}"
        if self._stopping:
            self._status = self._status or 1
            self._say("error", text)
            return
        self._say("error", f"{text}: replaced")
        # Not at once, should it die again and again.
        self._due[worker] = time.monotonic() + _RESTART_SECONDS

    def _watch(self) -> None:
        self._pulse.look()
        now = time.monotonic()
        over = self._deadline is not None and now >= self._deadline
        for process, worker in list(self._workers.items()):
            if worker.killed is not None:
                if now >= worker.killed + _KILL_SECONDS:
                    self._give_up(process, worker)
            elif over:
                text = "did not end in time: killed"
                self._kill(process, worker, text)
            elif self._patience and not self._stopping:
                self._feel(process, worker)

    def _feel(self, process: int, worker: _Worker) -> None:
        """Whether it stands still."""
        quiet = self._pulse.quiet(worker.number)
        if self._pulse.beats[worker.number] == worker.first:
            # It still starts, which takes as long as its files are long.
            if quiet >= self._patience and not worker.told:
                worker.told = True
                text = f"does not serve {quiet:.0f} s after its start"
                where = "look for a dead NFS server or disk"
                self._say("warning", f"{_named(process, worker)} {text} ({where})")
            return
        if quiet >= self._patience:
            self._kill(process, worker, f"has stood still for {quiet:.0f} s: killed")
        elif quiet >= self._patience / 2 and not worker.told:
            worker.told = True
            text = f"stands still, and is killed after {self._patience:g} s of it"
            self._say("warning", f"{_named(process, worker)} {text}")
        elif worker.told and quiet < _LATE_SECONDS:
            worker.told = False
            self._say("info", f"{_named(process, worker)} goes on")

    def _kill(self, process: int, worker: _Worker, why: str) -> None:
        self._say("error", f"{_named(process, worker)} {why}")
        worker.killed = time.monotonic()
        os.kill(process, signal.SIGKILL)

    def _give_up(self, process: int, worker: _Worker) -> None:
        """Not even KILL ends it while it waits for a disk or a server's file."""
        del self._workers[process]
        text = "the kernel cannot end it (look for a dead NFS server or disk)"
        self._say("error", f"{_named(process, worker)} is left behind: {text}")
        if self._stopping:
            self._status = self._status or 1
        else:
            self._due[worker.number] = time.monotonic()

    def _replace(self) -> None:
        now = time.monotonic()
        for worker in [w for w, when in self._due.items() if when <= now]:
            del self._due[worker]
            self._start(worker)

    def _alive(self) -> None:
        """The service is, if every worker has shown something anew."""
        beats = self._board.beats()
        moved = all(a != b for a, b in zip(beats, self._seen, strict=True))
        if self._watchdog and moved:
            self._seen = beats
            self._tell("alive", "")

    def _stop(self) -> None:
        now = time.monotonic()
        if not self._stopping:
            self._tell("stopping", "")
            self._deadline = now + self._grace() + _KILL_SECONDS
        else:  # they end at once, if they hear it
            self._deadline = min(self._deadline or now, now + _KILL_SECONDS)
            late = self._pulse.late()
            for process, worker in self._workers.items():
                if worker.number in late and worker.killed is None:
                    self._kill(process, worker, "stands still: killed")
        self._stopping = True
        self._due.clear()
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._workers:
            os.kill(process, number)


def _named(process: int, worker: _Worker) -> str:
    return f"worker {worker.number} (process {process})"


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return b""


def _nothing(number: int, frame: object) -> None:
    """A handler, so that the wake-up descriptor is written to."""
