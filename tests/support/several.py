"""Several scripted backends behind one front door."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from proxy.backend.choice import Place
from proxy.backend.settings import BackendSettings
from tests.support.backend import FakeQmail
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient


def place(
    fake: FakeQmail,
    *domains: bytes,
    weight: int = 1,
    backup: bool = False,
    **settings: float,
) -> Place:
    """``fake`` as a backend; ``settings`` are those of :class:`BackendSettings`."""
    where = BackendSettings(port=fake.port, **settings)  # type: ignore[arg-type]
    return Place(where, frozenset(domains), weight, backup)


@contextlib.asynccontextmanager
async def started(*fakes: FakeQmail) -> AsyncIterator[Sequence[FakeQmail]]:
    """Backends that take connections; stopped at the end."""
    for fake in fakes:
        await fake.start()
    try:
        yield fakes
    finally:
        for fake in fakes:
            await fake.stop()


@contextlib.asynccontextmanager
async def closed(*fakes: FakeQmail) -> AsyncIterator[Sequence[FakeQmail]]:
    """Backends that have a port, where nobody listens."""
    async with started(*fakes):
        for fake in fakes:
            await fake.go_down()
        yield fakes


async def told(front: Front, *recipients: bytes, others: int = 0) -> list[int]:
    """A client's whole session with one message; the codes from MAIL on.
    ``others`` are the sessions that are still there after it."""
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        got = await client.deliver(b"a@b.test", list(recipients), b"x\r\n")
        await client.command(b"QUIT")
    await front.until(lambda: len(front.door.sessions) == others)
    return got


__all__ = ["Front", "closed", "place", "running", "started", "told"]
