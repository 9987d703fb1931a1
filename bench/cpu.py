"""Processor time and memory of a program with everything that it starts.

Knows: control groups (version 2), /proc, how to end what it started.  Knows
not: what the program does.  Called by everything here that starts a server.

With a writable cgroup v2 the time is the kernel's own account of the group,
processes that have ended included.  Without, it is the sum over /proc/PID/stat
of the tree with the children that were waited for: the kernel's ticks of 10 ms,
and a process that detached itself from the tree is missed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_TICK = 1e6 / os.sysconf("SC_CLK_TCK")
_numbers = itertools.count()


class Times(NamedTuple):
    """Processor microseconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        """Both."""
        return self.user + self.system

    def since(self, before: Times) -> Times:
        """What was used after ``before`` was taken."""
        return Times(self.user - before.user, self.system - before.system)


def cores() -> tuple[str, str]:
    """The core for a server, and the one for load and backend."""
    allowed = sorted(os.sched_getaffinity(0))
    return str(allowed[0]), str(allowed[-1])


def pinned(argv: Sequence[str], where: str) -> list[str]:
    """``argv`` on the cores ``where`` (``""``: anywhere)."""
    if where and shutil.which("taskset"):
        return ["taskset", "-c", where, *argv]
    return list(argv)


def _new_group() -> Path | None:
    """A cgroup of our own, where we may make one."""
    for root in map(Path, _ROOTS):
        if not (root / "cgroup.controllers").exists():
            continue
        group = root / f"backstop-bench-{os.getpid()}-{next(_numbers)}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if "usage_usec" in (group / "cpu.stat").read_text():
                return group
            group.rmdir()
    return None


class Tree:
    """A program, started in the foreground, with all its descendants."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        where: str = "",
        output: IO[bytes] | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        grouped: bool = True,
    ) -> None:
        self._group = _new_group() if grouped else None
        command = pinned(argv, where)
        if self._group is not None:
            enter = f'echo $$ >"{self._group}/cgroup.procs" && exec "$@"'
            command = ["/bin/sh", "-c", enter, "sh", *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
        )

    def pids(self) -> list[int]:
        """Every process of it that runs now."""
        if self._group is not None:
            with contextlib.suppress(OSError):
                text = (self._group / "cgroup.procs").read_text()
                return [int(pid) for pid in text.split()]
            return []
        return _descendants(self.process.pid)

    def times(self) -> Times:
        """Processor time so far, of the ended processes too."""
        if self._group is not None:
            words = (self._group / "cpu.stat").read_text().split()
            stat = dict(zip(words[::2], map(float, words[1::2]), strict=True))
            return Times(stat["user_usec"], stat["system_usec"])
        return _sum(process_times(pid, children=True) for pid in self.pids())

    def each(self) -> dict[int, Times]:
        """Processor time so far, by process that runs now."""
        return {pid: process_times(pid) for pid in self.pids()}

    def memory(self) -> float:
        """Proportional set size of all processes together, KiB."""
        return sum(map(_pss, self.pids()))

    def close(self) -> None:
        """End all of it, politely at first."""
        for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            for pid in self.pids():  # nobody but what was started here
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if self._wait(seconds):
                break
        self.process.wait()
        if self._group is not None:
            with contextlib.suppress(OSError):
                self._group.rmdir()

    def _wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.process.poll()
            if not self.pids():
                return True
            time.sleep(0.02)
        return False


class Peak(threading.Thread):
    """Samples the memory of a tree until :meth:`stop`."""

    def __init__(self, tree: Tree, interval: float = 0.02) -> None:
        super().__init__(daemon=True)
        self._tree = tree
        self._interval = interval
        self._over = threading.Event()
        self.kib = 0.0

    def run(self) -> None:
        while True:
            self.kib = max(self.kib, self._tree.memory())
            if self._over.wait(self._interval):
                return

    def stop(self) -> float:
        """The highest memory that was seen, KiB."""
        self._over.set()
        self.join()
        return self.kib


def process_times(pid: int, *, children: bool = False) -> Times:
    """Of one process; ``children``: and those that it has waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return Times(0, 0)
    # The name, in parentheses, may hold anything.
    ticks = [int(word) for word in text.rpartition(")")[2].split()[11:15]]
    user, system = ticks[:2]
    if children:
        user, system = user + ticks[2], system + ticks[3]
    return Times(user * _TICK, system * _TICK)


def machine() -> float:
    """Processor microseconds of everything on this machine so far."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) * _TICK  # without idle and iowait


def own() -> float:
    """Processor microseconds of this process and the children it waited for."""
    return process_times(os.getpid(), children=True).total


def _sum(times: Iterable[Times]) -> Times:
    user = system = 0.0
    for one in times:
        user, system = user + one.user, system + one.system
    return Times(user, system)


def _pss(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1])
    return 0.0


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                state, parent = (
                    (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                )
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found = {root} & set(parents)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)
