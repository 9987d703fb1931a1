"""A front door in the test's own process, before a scripted backend."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from proxy.backend.choice import Backends, Place
from proxy.backend.pool import Backend
from proxy.backend.settings import BackendSettings
from proxy.front.door import Door, DoorSettings
from proxy.front.session import Session
from proxy.observe.events import Event
from proxy.rules.engine import LIMIT_SECONDS, Engine
from proxy.rules.verdict import Answer, Kind, Question, Rule, Verdict
from proxy.smtp import replies
from tests.support.backend import FakeQmail
from tests.support.clock import Clock

Ask = Callable[[Question], Answer | Awaitable[Answer]]


@dataclass
class CallRule:
    """A rule made of a function."""

    ask_: Ask
    name: str = "test"

    def ask(self, question: Question) -> Answer | Awaitable[Answer]:
        return self.ask_(question)


def accept(reason: str = "test") -> Verdict:
    return Verdict(Kind.ACCEPT, replies.OK, "test", reason)


def reject(reason: str = "test") -> Verdict:
    return Verdict(Kind.REJECT, replies.NO_SUCH_RECIPIENT, "test", reason)


def ours_only(question: Question) -> Verdict:
    """Everybody at example.test but those whose name begins with "no"."""
    local, _, domain = question.recipient.rpartition(b"@")
    if domain.lower() != b"example.test":
        return Verdict(Kind.REJECT, replies.NOT_RELAYED, "test", "foreign", gate=True)
    return reject() if local.startswith(b"no") else accept()


@dataclass
class Front:
    """What a test sees of a running front door."""

    door: Door
    backend: Backend
    fake: FakeQmail
    port: int
    clock: Clock
    events: list[Event] = field(default_factory=list)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def pass_time(self, seconds: float) -> None:
        """Nothing is timed out by itself: the clock stands still otherwise."""
        self.clock.now += seconds
        self.door.sweep()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; fail after a generous time."""
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)

    async def settled(self) -> None:
        """Until every session is over and every backend task is done."""
        await self.until(lambda: not self.door.sessions)


def descriptors() -> int:
    """Open sockets; uvloop opens other things once and keeps them."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@contextlib.asynccontextmanager
async def running(
    ask: Ask = ours_only,
    *,
    fake: FakeQmail | None = None,
    settings: DoorSettings | None = None,
    backend: BackendSettings | None = None,
    observe: bool = False,
    places: Callable[[int], list[Place]] | None = None,
    rule_limit: float = LIMIT_SECONDS,
    first: Sequence[Rule] = (),
) -> AsyncIterator[Front]:
    """Start both, and at the end see that nothing is left behind.

    ``places`` makes several backends, given the port of ``fake``.  The rules ``first``
    are asked before ``ask``.
    """
    fds = descriptors()
    fake = fake or FakeQmail()
    await fake.start()
    tasks = asyncio.all_tasks()
    settings_ = backend or BackendSettings()
    if settings_.port == BackendSettings().port:
        settings_ = replace(settings_, port=fake.port)
    clock = Clock()
    events: list[Event] = []
    backends = Backends(
        [Place(settings_)] if places is None else places(settings_.port),
        b"mx.example.test",
        clock,
    )
    pool = next(iter(backends))
    door = Door(
        engine=Engine([*first, CallRule(ask)], observe=observe, limit=rule_limit),
        backends=backends,
        observer=events.append,
        hostname=b"mx.example.test",
        settings=settings or DoorSettings(received=False),
        clock=clock,
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(door), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    front = Front(door, pool, fake, port, clock, events)
    try:
        yield front
    finally:
        server.close()
        for session in list(door.sessions):
            session.shut_down(now=True)
        for phase in list(door.awaiting):
            phase.shut_down()
        await backends.close()
        await fake.stop()
    await front.until(lambda: asyncio.all_tasks() <= tasks)
    await front.until(lambda: not door.sessions)
    await front.until(lambda: descriptors() == fds)
    assert not door.awaiting
    assert not any(each.connections for each in backends)
