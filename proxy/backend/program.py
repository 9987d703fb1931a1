"""Programs in the backend's place: started, heard, ended and reaped.

Knows: one program per client on a socket pair, as tcpserver runs them on a
connection; how many may run.  Knows not: what they say on standard error
(``ear``), clients, environments (``ucspi``), SMTP.  Called by ``reach`` and ``pool``.

A start holds the loop for a millisecond or so (vfork(2); a thread would change
nothing, since it would hold the interpreter's lock).  An end is told by a
pidfd (pidfd_open(2)), or found out by the sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proxy.backend.ear import Ear, Say

# A program whose connection is over has so long to end by itself, and then so
# long again after TERM, in seconds.
TERM_SECONDS = 10.0
KILL_SECONDS = 5.0

# How patient the end of the service is, in twentieths of a second.
_CLOSE_STEPS = 20


class CannotStart(Exception):
    """The program could not be started; the text says which and why."""


class NoPlace(Exception):
    """As many programs as may run are running, and none ended in time."""


class Connection(Protocol):
    """What a program is spoken to by; a :class:`~proxy.backend.channel.Channel`."""

    lost_why: str
    """Not empty when it is over."""


class Program:
    """A running program.  ``connection`` is set when one is made of its
    socket; ``given_up`` when none will be."""

    __slots__ = ("_deadline", "_signals", "child", "connection", "given_up", "pidfd")

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.connection: Connection | None = None
        self.given_up = False
        self.pidfd = -1
        self._deadline: float | None = None
        self._signals = [signal.SIGTERM, signal.SIGKILL]

    @property
    def over(self) -> bool:
        """Whether nobody speaks to it any more."""
        connection = self.connection
        return self.given_up or (connection is not None and bool(connection.lost_why))

    def hurry(self, now: float) -> None:
        """Send the next signal, if it is time for it."""
        if self._deadline is None:
            self._deadline = now + TERM_SECONDS
        elif now >= self._deadline:
            self._deadline = now + KILL_SECONDS
            self.signal(self._signals[0])
            del self._signals[:-1]  # the last one again and again

    def signal(self, number: signal.Signals) -> None:
        """To it and to what it has started; it is not reaped yet, so its number
        is nobody else's."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, number)


class Programs:
    """The programs of one backend.

    ``now`` gives seconds; ``say`` hears the lines that they write to standard
    error, so many a second.
    """

    def __init__(self, now: Callable[[], float], say: Say) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = now
        self._running: set[Program] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ear = Ear("command", now, say)

    @property
    def count(self) -> int:
        """Programs that run, and those that are not reaped yet."""
        return len(self._running)

    async def start(
        self,
        command: Sequence[str],
        environment: Mapping[bytes, bytes],
        limit: int,
        patience: float,
    ) -> tuple[socket.socket, Program]:
        """Run ``command``; our end of its socket, not blocking, and the program.

        While ``limit`` of them run it waits, for ``patience`` seconds at most.
        Raises :class:`NoPlace`, :class:`CannotStart`.
        """
        if len(self._running) >= limit:
            try:
                async with asyncio.timeout(patience):
                    await self._place(limit)
            except TimeoutError:
                text = f"{limit} programs are running (backend.command_concurrency)"
                raise NoPlace(text) from None
        return self._start(command, environment)

    def sweep(self) -> None:
        """End what should have ended; called about once a second."""
        now = self._now()
        for program in list(self._running):
            if not self._reap(program) and program.over:
                program.hurry(now)
        self._ear.tell_untold()

    async def close(self) -> None:
        """End all: those that do not end by themselves soon, by signals."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            for program in list(self._running):
                if number is not None:
                    program.signal(number)
            for _ in range(_CLOSE_STEPS):
                for program in list(self._running):
                    self._reap(program)
                if not self._running:
                    break
                await asyncio.sleep(0.05)
        self._ear.close()

    # Inside: starting and reaping.

    async def _place(self, limit: int) -> None:
        while len(self._running) >= limit:
            turn = self._loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was our turn: it is another one's now
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _start(
        self, command: Sequence[str], environment: Mapping[bytes, bytes]
    ) -> tuple[socket.socket, Program]:
        ours, theirs = socket.socketpair()
        try:
            child = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._ear.mouth,
                env=environment,
                # So that a signal reaches what it starts, and Ctrl-C does not.
                process_group=0,
            )
        except (OSError, ValueError) as error:
            ours.close()
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise CannotStart(f"cannot start {command[0]}: {why}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        program = Program(child)
        self._running.add(program)
        with contextlib.suppress(OSError, AttributeError):
            program.pidfd = os.pidfd_open(child.pid)
            self._loop.add_reader(program.pidfd, self._reap, program)
        return ours, program

    def _reap(self, program: Program) -> bool:
        """Whether it has ended."""
        if program.child.poll() is None:
            return False
        if program in self._running:
            self._running.discard(program)
            if program.pidfd >= 0:
                self._loop.remove_reader(program.pidfd)
                os.close(program.pidfd)
                program.pidfd = -1
            self._wake()
        return True
