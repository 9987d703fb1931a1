"""F-breaker, with a front door around it; by itself: tests/backend/test_breaker.py."""

from __future__ import annotations

import asyncio

import pytest

from proxy.backend.settings import BackendSettings
from proxy.observe.events import BackendFailed
from tests.front.test_backend_faults import UNSEEN
from tests.support.backend import CLOSE, SILENT, FakeQmail
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient


async def asked(front: Front) -> bytes:
    """What a new client is told of a good recipient."""
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        return await client.command(b"RCPT TO:<a@example.test>")


def failures(front: Front) -> list[str]:
    return [e.step for e in front.events if isinstance(e, BackendFailed)]


async def test_it_is_left_in_peace_and_then_tried_by_one() -> None:
    """F-breaker: the same 451, at once and without a connection."""
    gate = asyncio.Event()
    fake = FakeQmail({"greeting": CLOSE})
    settings = BackendSettings(breaker_failures=3, breaker_seconds=10)
    async with running(fake=fake, backend=settings) as front:
        for _ in range(5):
            assert await asked(front) == b"451 4.4.1 cannot pass mail on now\r\n"
        assert fake.connections == 3
        assert failures(front) == [*["connect"] * 3, *["breaker"] * 2]
        front.pass_time(11)
        fake.script["greeting"] = (gate, b"220 back\r\n")
        probe = asyncio.create_task(asked(front))
        await front.until(lambda: fake.connections == 4)
        assert (await asked(front))[:3] == b"451"
        assert fake.connections == 4
        gate.set()
        assert (await probe)[:3] == b"250"
        assert (await asked(front))[:3] == b"250"


async def test_a_probe_whose_client_leaves_makes_room_for_another() -> None:
    """F-breaker, with a client that is not patient."""
    fake = FakeQmail({"greeting": CLOSE})
    settings = BackendSettings(breaker_failures=1, breaker_seconds=10)
    async with running(fake=fake, backend=settings) as front:
        assert (await asked(front))[:3] == b"451"
        front.pass_time(11)
        fake.script["greeting"] = SILENT
        client = await RawClient.connect(front.port)
        await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n")
        await front.until(lambda: fake.stalled == 1)
        client.reset()
        await front.settled()
        fake.script.clear()
        await front.until(lambda: not front.backend._opening)
        assert (await asked(front))[:3] == b"250"


@pytest.mark.parametrize("step", ["EHLO", "MAIL", "RCPT"])
@pytest.mark.parametrize("fault", ["5xx", "4xx", "421", "fin", "garbage"])
async def test_what_a_backend_says_never_counts(step: str, fault: str) -> None:
    """F-breaker: it is about connections, not about their use."""
    fake = FakeQmail({step: UNSEEN[fault]})
    settings = BackendSettings(breaker_failures=1, kept=0)
    async with running(fake=fake, backend=settings) as front:
        for _ in range(4):
            await asked(front)
        assert fake.connections == 4
        assert "breaker" not in failures(front)
