"""A backend's name with several addresses, some of which are dead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from proxy.backend import connect
from proxy.backend.settings import BackendSettings
from proxy.observe.events import BackendFailed
from tests.support.backend import RESET, SILENT, Behaviour, FakeQmail
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

pytestmark = pytest.mark.fault("N26")

GOOD, BAD, WORSE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
DELIVERED = [250, 250, 354, 250]
LATER = [250, 451, 503]

Named = Callable[..., None]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "HEAD_START", 0.01)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Named:
    """Gives mail.test its addresses."""
    true, addresses = socket.getaddrinfo, [GOOD]

    def getaddrinfo(host: Any, port: Any, *rest: int) -> Any:
        if host != "mail.test" or (rest and rest[-1] & socket.AI_NUMERICHOST):
            return true(host, port, *rest)
        return [each for address in addresses for each in true(address, port, *rest)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def give(*wanted: str) -> None:
        addresses[:] = wanted

    return give


def settings(port: int, **keys: Any) -> BackendSettings:
    keys = {"connect_timeout": 30, "kept": 0, **keys}
    return BackendSettings(host="mail.test", port=port, **keys)


async def told(front: Front) -> list[int]:
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        got = await client.deliver(b"", [b"a@example.test"], b"x\r\n")
        await client.command(b"QUIT")
    await front.settled()
    return got


@contextlib.asynccontextmanager
async def at(
    address: str, port: int, script: dict[str, Behaviour]
) -> AsyncIterator[FakeQmail]:
    """Another server on the same port."""
    sock = socket.create_server((address, port))
    other = FakeQmail(script, listener=sock)
    await other.start()
    try:
        yield other
    finally:
        await other.go_down()


@contextlib.contextmanager
def dropping(address: str, port: int) -> Iterator[None]:
    """Packets to it are dropped: its queue is full, and nobody accepts."""
    with socket.create_server((address, port), backlog=0), contextlib.ExitStack() as up:
        for _ in range(4):
            sock = up.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((address, port))
        yield


DEAD: dict[str, dict[str, Behaviour]] = {
    "never greets": {"connect": SILENT},
    "resets": {"connect": RESET},
    "421": {"connect": b"421 busy\r\n"},
    "garbage": {"connect": b"hello\r\n"},
}
WAYS: Sequence[dict[str, Any]] = ({}, {"send_proxy": ""}, {"kept": 8})


@pytest.mark.parametrize("fault", [*DEAD, "drops", "refuses"])
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_the_next_address_is_tried(
    named: Named, fault: str, way: dict[str, Any]
) -> None:
    """Once: from then on it is known which one is good."""
    named(BAD, GOOD)
    fake = FakeQmail()
    async with running(fake=fake, backend=settings(0)) as front:
        front.backend.use(settings(fake.port, **way))
        async with contextlib.AsyncExitStack() as stack:
            bad = None
            if fault == "drops":
                stack.enter_context(dropping(BAD, fake.port))
            elif fault in DEAD:
                bad = await stack.enter_async_context(at(BAD, fake.port, DEAD[fault]))
            for _ in range(3):
                assert await told(front) == DELIVERED
            assert len(fake.received) == 3
            assert front.of(BackendFailed) == []
            assert not front.backend.resting
            if bad is not None:
                assert bad.connections == 1


async def test_the_good_one_dies_and_the_other_one_is_back(named: Named) -> None:
    named(BAD, GOOD)
    fake = FakeQmail()
    async with running(fake=fake, backend=settings(0, kept=0)) as front:
        front.backend.use(settings(fake.port))
        assert await told(front) == DELIVERED
        await fake.go_down()
        async with at(BAD, fake.port, {}) as other:
            assert await told(front) == DELIVERED
            assert len(other.received) == 1
        await fake.start()


async def test_the_name_is_dead_only_if_all_its_addresses_are(named: Named) -> None:
    named(BAD, WORSE)
    fake = FakeQmail()
    mortal = settings(0, breaker_failures=2, breaker_seconds=60)
    async with running(fake=fake, backend=mortal) as front:
        front.backend.use(settings(fake.port, breaker_failures=2, breaker_seconds=60))
        for _ in range(2):
            assert await told(front) == LATER
        assert front.backend.resting
        why = str(front.of(BackendFailed)[0])
        assert BAD in why
        assert WORSE in why


async def test_all_of_it_is_within_the_time(named: Named) -> None:
    """The last address may begin late, but the time is one for all."""
    named(BAD, WORSE)
    fake = FakeQmail()
    async with running(fake=fake, backend=settings(0)) as front:
        front.backend.use(settings(fake.port, connect_timeout=0.2))
        async with (
            at(BAD, fake.port, {"connect": SILENT}) as one,
            at(WORSE, fake.port, {"connect": SILENT}) as two,
        ):
            assert await told(front) == LATER
            assert (one.connections, two.connections) == (1, 1)
            # Nothing is left of the attempts.
            for each in (one, two):
                await front.until(lambda each=each: not each.open_connections)  # type: ignore[misc]


async def test_a_session_that_ends_ends_all_attempts(named: Named) -> None:
    named(BAD, WORSE)
    fake = FakeQmail()
    async with running(fake=fake, backend=settings(0)) as front:
        front.backend.use(settings(fake.port))
        async with (
            at(BAD, fake.port, {"connect": SILENT}) as one,
            at(WORSE, fake.port, {"connect": SILENT}) as two,
        ):
            client = await RawClient.connect(front.port)
            await client.reply()
            await client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\n")
            await front.until(lambda: bool(one.open_connections + two.open_connections))
            await front.until(lambda: one.open_connections == two.open_connections)
            (session,) = front.door.sessions
            session.shut_down(now=True)
            await client.close()
            await front.settled()
            await front.until(lambda: not one.open_connections + two.open_connections)
            assert not front.backend.busy


async def test_a_slow_greeting_is_waited_for(named: Named) -> None:
    """Nobody else is there: the first address has the whole time."""
    named(GOOD, BAD)
    gate = asyncio.Event()
    fake = FakeQmail(once={"greeting": (gate, b"220 late\r\n")})
    async with running(fake=fake, backend=settings(0)) as front:
        front.backend.use(settings(fake.port))
        telling = asyncio.create_task(told(front))
        await front.until(lambda: fake.open_connections == 1)
        gate.set()
        assert await telling == DELIVERED
