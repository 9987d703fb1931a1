"""Programs that stay, and are asked line by line.

Knows: how they are started on a socket pair, and ended.  Knows not: what they are
asked.  Used by ``command``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence

from proxy.backend.ear import Ear
from proxy.backend.ucspi import inherited
from proxy.rules.source import Context, SourceDown
from proxy.rules.wires import Parse, T, Wire, Wires

_CLOSE_STEPS = 40
_STEP_SECONDS = 0.05


class Coprocesses:
    """As many programs as there are questions at a time.  One that is late, odd or
    not wanted any more is killed, with what it has started."""

    def __init__(self, command: Sequence[str], limit: int, context: Context) -> None:
        self._command = tuple(command)
        self._ear = Ear(f"rule {context.name}", context.clock, context.say)
        self._environment = inherited(os.environb)
        self._children: dict[Wire, subprocess.Popen[bytes]] = {}
        self._wires = Wires(self._open, limit, context.clock)

    @property
    def count(self) -> int:
        """How many run, or are not reaped yet."""
        self._reap()
        return len(self._children)

    async def ask(self, question: bytes, parse: Parse[T]) -> T:
        """The answer of a free one; raises :class:`SourceDown`."""
        try:
            return await self._wires.ask(question, parse)
        finally:
            self._reap()

    async def close(self) -> None:
        """End all of them."""
        await self._wires.close()
        for _ in range(_CLOSE_STEPS):
            self._reap()
            if not self._children:
                break
            await asyncio.sleep(_STEP_SECONDS)
        self._ear.close()

    async def _open(self, make: Callable[[], Wire]) -> Wire:
        ours, child = self._start()
        wire = make()
        self._children[wire] = child
        try:
            ours.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: wire, sock=ours)
        except BaseException:
            wire.lost = True
            ours.close()
            raise
        return wire

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        try:
            child = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._ear.mouth,
                env=self._environment,
                process_group=0,
            )
        except (OSError, ValueError) as error:
            ours.close()
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise SourceDown(f"cannot start {self._command[0]}: {why}") from error
        finally:
            theirs.close()
        return ours, child

    def _reap(self) -> None:
        """Kill those whose connection is over."""
        for wire, child in list(self._children.items()):
            if not wire.lost:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
            if child.poll() is not None:
                del self._children[wire]
