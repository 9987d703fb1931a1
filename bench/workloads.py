"""What is asked of a server, and what it costs.

Knows: the workloads, what their cost is divided by, how long they run.  Knows
not: servers; it is handed running ones.  Called by ``side_by_side``, ``alone``
and ``growth``.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Literal

from bench.cpu import machine, own
from bench.peers import Running
from bench.tools import Load, held, load

# Memory is compared between these numbers of sessions: the first ones fill what
# other work has left free.
HELD = (500, 2500)
_WARM_UP = 200


@dataclass(frozen=True)
class Workload:
    """``unit`` is what the cost is divided by; ``values`` are for ``load``."""

    name: str
    mode: str
    unit: Literal["session", "message"]
    meaning: str
    values: dict[str, int] = field(default_factory=dict)


WORKLOADS = (
    # First: a heap that other work has left behind would hide the growth.
    Workload("hold", "hold", "session", "idle session, KiB"),
    Workload("reject", "reject", "session", "refused session"),
    Workload(
        "accept2k", "accept", "message", "2 KB message, one a session", {"size": 2048}
    ),
    Workload(
        "accept64k",
        "accept",
        "message",
        "64 KB message, one a session",
        {"size": 65536},
    ),
    Workload(
        "reuse2k",
        "reuse",
        "message",
        "2 KB message, 50 a session",
        {"size": 2048, "messages": 50},
    ),
    Workload(
        "dict20",
        "dict",
        "session",
        "session with 20 unknown recipients",
        {"recipients": 20},
    ),
    Workload("mix80", "mix", "session", "80 % unknown, else 2 KB", {"size": 2048}),
)


def workload(name: str) -> Workload:
    """The workload of that name."""
    return next(each for each in WORKLOADS if each.name == name)


@dataclass
class Row:
    """One workload on one server once.

    ``cost`` is processor microseconds of the server's whole tree for one unit
    (``hold``: KiB of memory); ``connections`` are those to the backend.
    ``others`` is how many cores were busy with what is not ours: much of it, and
    the row means little.
    """

    cost: float
    user: float = 0.0
    system: float = 0.0
    count: int = 0
    rate: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    failed: int = 0
    connections: int = 0
    others: float = 0.0
    trouble: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure(
    running: Running,
    which: Workload,
    *,
    seconds: int,
    clients: int = 16,
    awake: bool = False,
) -> Row:
    """Run one workload; ``awake`` clients never sleep."""
    if which.mode == "hold":
        return _hold(running)
    # As many as make caches warm and connections open, and not much more.
    warm_up = max(clients, _WARM_UP // which.values.get("messages", 1))
    load(running.port, which.mode, count=warm_up, clients=clients, **which.values)
    before, times = running.sink.counts(), running.tree.times()
    strangers = _Strangers(running)
    seen = load(
        running.port,
        which.mode,
        seconds=seconds,
        clients=clients,
        seed=time.time_ns() & 0xFFFF,
        awake=int(awake),
        **which.values,
    )
    used, others = running.tree.times().since(times), strangers.cores()
    after = running.sink.counts()
    count = max(1, seen.messages if which.unit == "message" else seen.good)
    return Row(
        cost=used.total / count,
        user=used.user / count,
        system=used.system / count,
        count=count,
        rate=count / seen.seconds,
        p50=seen.p50,
        p99=seen.p99,
        failed=seen.failed,
        connections=after.connections - before.connections - 1,
        others=others,
        trouble=_trouble(seen, after.messages - before.messages),
    )


class _Strangers:
    """How busy the machine is with what is not ours, from now on."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._began = time.monotonic()
        self._used = self._so_far()

    def cores(self) -> float:
        """As a number of cores."""
        seconds = time.monotonic() - self._began
        return max(0.0, (self._so_far() - self._used) / 1e6 / seconds)

    def _so_far(self) -> float:
        trees = (self._running.tree, self._running.sink.tree)
        ours = own() + sum(tree.times().total for tree in trees)
        return machine() - ours


def _trouble(seen: Load, arrived: int) -> str:
    """What makes a result worthless, in words."""
    if seen.failed:
        return f"{seen.failed} sessions failed, the first: {seen.first_error}"
    # Zero where no backend is involved, as in front of nothing.
    if arrived not in (0, seen.messages):
        return f"{seen.messages} messages were accepted, {arrived} arrived"
    return ""


def _hold(running: Running) -> Row:
    load(running.port, "reject", count=_WARM_UP)
    few, many = HELD
    with held(running.port, few) as count:
        time.sleep(0.5)
        before = running.tree.memory()
        with held(running.port, many - few) as more:
            time.sleep(0.5)
            grown = running.tree.memory() - before
    count += more
    trouble = "" if count == many else f"only {count} of {many} could be opened"
    return Row(cost=grown / max(1, more), count=count, trouble=trouble)
