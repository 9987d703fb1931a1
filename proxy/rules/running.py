"""Programs that answer one question each: started, heard, timed, ended, reaped.

Knows: how many may run, that a program's whole process group ends with it, how much
it may say.  Knows not: what it is asked, what its answer means.  Used by the rules
that run programs.

What has left the process group (setsid(2)) is out of reach: a subreaper would be given
those of ``backend.command`` too, and a qmail-queue among them must finish its work.

No shell is asked.  A start holds the loop for a millisecond or so, as in
:mod:`proxy.backend.program`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from proxy.backend.ear import Ear
from proxy.rules.source import Context, SourceDown

OUTPUT_MAX = 65536
"""Bytes of standard output that are kept; the rest is read and thrown away."""

TERM_SECONDS = 1.0
"""Between TERM and KILL, for a program whose time is up."""

_READ_SIZE = 65536
_READS_AT_THE_END = 16
_LOOK_SECONDS = 0.05  # where there is no pidfd
_CLOSE_STEPS = 40


class Ended(NamedTuple):
    """What a program has left: its exit status (negative: the signal that ended it),
    its output, and whether there was more of it than is kept."""

    status: int
    output: bytes
    cut: bool = False


class Programs:
    """Programs of one rule; ``limit`` of them at most (0: any number), those that are
    being ended included."""

    def __init__(self, limit: int, context: Context) -> None:
        self._limit = limit
        self._ear = Ear(f"rule {context.name}", context.clock, context.say)
        self._running: set[_Running] = set()
        self._freed: asyncio.Future[None] | None = None

    @property
    def count(self) -> int:
        """How many run, or are not reaped yet."""
        return len(self._running)

    async def run(
        self,
        command: Sequence[str | bytes],
        environment: Mapping[bytes, bytes],
        directory: bytes | None = None,
    ) -> Ended:
        """Run ``command`` to its end; ended by signals if the wait is cancelled.

        Standard input is empty.  Raises :class:`SourceDown` if it cannot be started.
        """
        while 0 < self._limit <= len(self._running):
            if self._freed is None:
                self._freed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._freed)
        running = self._start(command, environment, directory)
        try:
            return await running.ended
        except asyncio.CancelledError:
            running.stop()
            raise

    async def close(self) -> None:
        """End all of them."""
        for running in self._running:
            running.signal(signal.SIGKILL)
        for _ in range(_CLOSE_STEPS):
            if not self._running:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        self._ear.close()

    def _start(
        self,
        command: Sequence[str | bytes],
        environment: Mapping[bytes, bytes],
        directory: bytes | None,
    ) -> _Running:
        name = os.fsdecode(command[0])
        try:
            ours, theirs = os.pipe()
        except OSError as error:
            raise SourceDown(f"cannot start {name}: {error.strerror}") from error
        try:
            os.set_blocking(ours, False)
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=self._ear.mouth,
                env=environment,
                cwd=directory,
                process_group=0,
            )
        except (OSError, ValueError) as error:
            os.close(ours)
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise SourceDown(f"cannot start {name}: {why}") from error
        finally:
            os.close(theirs)
        running = _Running(child, ours, self._over)
        self._running.add(running)
        return running

    def _over(self, running: _Running) -> None:
        self._running.discard(running)
        if self._freed is not None:
            self._freed.set_result(None)
            self._freed = None


class _Running:
    """One program until it is reaped."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        pipe: int,
        over: Callable[[_Running], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        self._child = child
        self._pipe = pipe
        self._over = over
        self._output = b""
        self._cut = False
        self._pidfd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(pipe, self._read)
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(child.pid)
            self._loop.add_reader(self._pidfd, self._look)
        if self._pidfd < 0:
            self._look()

    def stop(self) -> None:
        """Nobody wants its answer any more."""
        self._close_pipe()
        self.signal(signal.SIGTERM)
        self._loop.call_later(TERM_SECONDS, self.signal, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """To it and to what it has started.  Until it is reaped, its number is nobody
        else's."""
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self._pipe, _READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_pipe()
            return False
        room = OUTPUT_MAX - len(self._output)
        self._output += data[:room]
        self._cut = self._cut or len(data) > room
        return True

    def _look(self) -> None:
        """Reap it, if it has ended."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if os.waitid(os.P_PID, self._child.pid, options) is None:
            if self._pidfd < 0:
                self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)
            return
        # What it leaves behind would hold the pipe, and could be any number.
        self.signal(signal.SIGKILL)
        for _ in range(_READS_AT_THE_END):
            if self._pipe < 0 or not self._read():
                break
        status = self._child.wait()
        self._close_pipe()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._over(self)
        if not self.ended.done():
            self.ended.set_result(Ended(status, self._output, self._cut))

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
