"""Several backends behind the real command: stops, starts, HUP, what is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.process import Served, Settings, serving
from tests.support.backend import FakeQmail
from tests.support.several import started
from tests.support.smtp_client import RawClient

ALICE = b"alice@example.test"


@pytest.fixture
async def other() -> AsyncIterator[FakeQmail]:
    async with started(FakeQmail()) as (fake,):
        yield fake


def table(fake: FakeQmail, **keys: Any) -> dict[str, Any]:
    return {"address": f"127.0.0.1:{fake.port}", "breaker_seconds": 0.1, **keys}


def behind(settings: Settings, *tables: dict[str, Any], **keys: Any) -> Settings:
    """``settings`` with these backends."""
    return {**settings, "backend.address": None, "backend": list(tables), **keys}


async def deliver(served: Served, recipient: bytes = ALICE) -> list[int]:
    async with await RawClient.connect(served.port) as client:
        await client.reply()
        codes = await client.deliver(b"a@b.test", [recipient], b"x\r\n")
        await client.command(b"QUIT")
        return codes


async def samples(served: Served, name: str) -> dict[str, float]:
    """Of one metric, by its labels."""
    _, text = await served.get("/metrics")
    found = [line.rpartition(" ") for line in text.splitlines()]
    return {
        key.partition("{")[2]: float(value)
        for key, _, value in found
        if key.startswith(name + "{")
    }


async def test_one_is_stopped_and_started_under_load(
    tmp_path: Path, settings: Settings, fake: FakeQmail, other: FakeQmail
) -> None:
    """Clients hear 250 and 451 only; every 250 is a message that one has."""
    codes: Counter[int] = Counter()
    taken = 0
    over = asyncio.Event()

    async def load(served: Served) -> None:
        nonlocal taken
        while not over.is_set():
            said = await deliver(served)
            rest = [code for code in said[1:] if code not in (354, 503)]
            codes.update(rest)
            taken += said[-1] == 250

    async def more(than: int) -> None:
        async with asyncio.timeout(60):
            while taken < than:
                await asyncio.sleep(0.005)

    both = behind(settings, table(fake), table(other))
    async with serving(tmp_path, both) as served:
        clients = [asyncio.create_task(load(served)) for _ in range(8)]
        await more(40)
        await other.go_down()
        await served.said("is down")
        await more(taken + 100)
        await other.start()
        await served.said("is up again")
        before = len(other.received)
        await more(taken + 40)
        over.set()
        await asyncio.gather(*clients)
        assert set(codes) <= {250, 451}
        assert len(other.received) > before
        # What was cut off at its dot may be there without a 250.
        assert taken <= len(fake.received) + len(other.received) <= taken + 8


async def test_what_is_told_of_each(
    tmp_path: Path, settings: Settings, fake: FakeQmail, other: FakeQmail
) -> None:
    await other.go_down()
    both = behind(settings, table(other), table(fake, backup=True))
    async with serving(tmp_path, both) as served:
        down, up = f"127.0.0.1:{other.port}", f"127.0.0.1:{fake.port}"
        assert f"backend {down} {up}" in await served.said(" serves ")
        assert await deliver(served) == [250, 250, 354, 250]
        assert f"backend={up}" in await served.said("event=message")
        assert f"backend={down}" in await served.said("event=backend-failed")
        await served.said(f"backend {down} is down: connect")
        status, text = await served.get("/readyz")
        assert status == 200
        assert f"warning: backend {down} is down" in text
        usable = await samples(served, "backstop_backend_usable")
        assert usable == {f'backend="{down}"}}': 0, f'backend="{up}"}}': 1}
        failures = await samples(served, "backstop_backend_failed_total")
        assert failures[f'backend="{down}"}}'] == 1
        _, page = await served.get("/")
        assert f"{down} (down: connect" in page
        assert f"{up} (up; open connections: 1)" in page
        await served.reload(behind(settings, table(other)))
        await served.said("configuration reloaded")
        assert await deliver(served) == [250, 451, 503]
        status, text = await served.get("/readyz")
        assert status == 503
        assert text.startswith(f"backend {down}: connect")


async def test_hup_adds_removes_and_routes(
    tmp_path: Path, settings: Settings, fake: FakeQmail, other: FakeQmail
) -> None:
    """Old sessions finish where they are."""
    async with serving(tmp_path, settings) as served:
        client = await RawClient.connect(served.port)
        await client.reply()
        await client.command(b"MAIL FROM:<>")
        assert (await client.command(b"RCPT TO:<%s>" % ALICE))[:3] == b"250"
        routed = behind(settings, table(fake), table(other, domains=["EXAMPLE.test"]))
        await served.reload(routed)
        await served.said("configuration reloaded")
        assert await deliver(served) == [250, 250, 354, 250]
        assert len(other.received) == 1
        assert (await client.command(b"DATA"))[:3] == b"354"
        await client.send(b"x\r\n.\r\n")
        assert await client.code() == 250
        assert len(fake.received) == 1
        await client.close()
        bad = behind(settings, table(other, domains=["example.test"]))
        await served.reload(bad)
        assert "every backend has domains" in await served.said("reload failed")
        await served.reload(behind(settings, table(other)))
        await served.said("configuration reloaded", times=2)
        assert await deliver(served) == [250, 250, 354, 250]
        assert len(other.received) == 2
        async with asyncio.timeout(60):
            while fake.open_connections:
                await asyncio.sleep(0.005)


async def test_each_is_asked_whether_it_relays(
    tmp_path: Path, settings: Settings, fake: FakeQmail, other: FakeQmail
) -> None:
    fake.script["RCPT"] = b"553 no\r\n"
    tables = (table(fake), table(other))
    asking = {**behind(settings, *tables), "relay.interlock_interval": None}
    async with serving(tmp_path, asking) as served:
        refuses, relays = f"127.0.0.1:{fake.port}", f"127.0.0.1:{other.port}"
        await served.said(f"interlock: the backend {refuses} does not relay")
        await served.said(f"interlock: the backend {relays} would relay")
        state = await samples(served, "backstop_backend_interlock_state")
        assert state[f'backend="{refuses}",state="refuses"}}'] == 1
        assert state[f'backend="{relays}",state="relays"}}'] == 1
        total = await samples(served, "backstop_interlock_state")
        assert total['state="relays"}'] == 1
        _, text = await served.get("/readyz")
        assert f"warning: interlock: the backend {relays}" in text
