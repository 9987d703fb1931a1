"""Relay control in the running service: trusted clients, HUP, the interlock."""

from __future__ import annotations

import asyncio
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.live.conftest import adopt
from tests.live.process import Served, Settings, serving
from tests.support.backend import SILENT, FakeQmail
from tests.support.smtp_client import RawClient

PROBE = b"RCPT TO:<backstop-interlock@relay-test.invalid>"
REFUSAL = b"553 not here\r\n"


@pytest.fixture
def asking(settings: Settings) -> Settings:
    """With the interlock, as it is by default."""
    return {**settings, "relay.interlock_interval": None}


async def code_for(served: Served, recipient: bytes, source: str) -> int:
    """The reply to RCPT for a client at ``source``."""
    async with await RawClient.connect(served.port, source) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        return int((await client.command(b"RCPT TO:<%s>" % recipient))[:3])


async def state(served: Served) -> str:
    """What /metrics says of the interlock."""
    _, text = await served.get("/metrics")
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("backstop_interlock_state{") and line.endswith(" 1.0")
    ]
    return line.split('"')[1]


async def test_who_may_relay_and_what_hup_changes(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    away, nobody = b"x@foreign.test", b"nobody@example.test"
    trusting = {**settings, "relay.trusted": ["127.0.0.2", "2001:db8::/32"]}
    async with serving(tmp_path, trusting) as served:
        assert await code_for(served, away, "127.0.0.2") == 250
        assert await code_for(served, nobody, "127.0.0.2") == 550
        assert await code_for(served, away, "127.0.0.3") == 553
        await served.reload({**settings, "relay.trusted": ["127.0.0.0/24"]})
        await served.said("configuration reloaded")
        assert await code_for(served, away, "127.0.0.3") == 250
        await served.reload({**settings, "relay.trusted": ["0.0.0.0/0"]})
        line = await served.said("reload failed, the old stays")
        assert "is everybody" in line
        assert await code_for(served, away, "127.0.0.3") == 250
        await served.reload(settings)
        await served.said("configuration reloaded", times=2)
        assert await code_for(served, away, "127.0.0.2") == 553


async def test_the_interlock_finds_a_backend_that_relays(
    tmp_path: Path, asking: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, asking) as served:
        assert await served.get("/readyz") == (200, "ready\n")
        line = await served.said("interlock:")
        assert "level=warning" in line
        assert "would relay to any domain for us (RCPT: 250 ok)" in line
        assert await state(served) == "relays"
        status, text = await served.get("/readyz")
        assert status == 200
        assert text.startswith("ready\nwarning: interlock: the backend 127.0.0.1:")
        page = (await served.get("/"))[1]
        assert "would relay for us (RCPT: 250 ok)" in page
        assert "only the front door keeps this host" in page
        # It is only told: what is served is as ever.
        assert await code_for(served, b"x@foreign.test", "127.0.0.1") == 553
        assert await code_for(served, b"alice@example.test", "127.0.0.1") == 250
        assert fake.commands[:5] == [
            b"EHLO mx.example.test",
            b"MAIL FROM:<>",
            PROBE,
            b"RSET",
            b"QUIT",
        ]
        # Somebody mends tcp.smtp, and asks anew.
        fake.script["RCPT " + PROBE[5:].decode()] = REFUSAL
        served.signal(SIGHUP)
        line = await served.said("interlock:", times=2)
        assert "level=info" in line
        assert await state(served) == "refuses"
        assert await served.get("/readyz") == (200, "ready\n")
        # And now there are clients that rely on it.
        await served.reload({**asking, "relay.trusted": ["192.0.2.0/24"]})
        line = await served.said("interlock:", times=3)
        assert "cannot send to other domains" in line
        await served.reload({**asking, "relay.interlock_interval": 0})
        await served.said("configuration reloaded", times=3)
        assert await state(served) == "off"
    assert fake.dots == 0


async def test_a_backend_that_cannot_be_asked(
    tmp_path: Path, asking: Settings, fake: FakeQmail
) -> None:
    await fake.go_down()
    async with serving(tmp_path, asking) as served:
        line = await served.said("interlock:")
        assert "level=warning" in line
        assert "could not be asked whether it relays: " in line
        assert await state(served) == "unknown"
        status, text = await served.get("/readyz")
        assert (status, text[:8]) == (503, "backend ")
        # No client's failure.
        metrics = (await served.get("/metrics"))[1]
        assert "backstop_backend_failures_total{" not in metrics
        assert await code_for(served, b"nobody@example.test", "127.0.0.1") == 550
    assert "event=backend-failed" not in served.log


async def test_a_question_under_way_keeps_nobody_from_the_end(
    tmp_path: Path, asking: Settings, fake: FakeQmail
) -> None:
    fake.script["RCPT"] = SILENT
    async with serving(tmp_path, asking) as served:
        async with asyncio.timeout(60):
            while PROBE not in fake.commands:
                await asyncio.sleep(0.01)
    assert "interlock" not in served.log


async def test_only_one_of_several_workers_asks(
    tmp_path: Path, asking: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, {**asking, "listen.workers": 3}) as served:
        await served.said(" serves ", times=3)
        await served.said("interlock:")
        assert await state(served) == "relays"
        served.signal(SIGHUP)
        await served.said("configuration reloaded", times=3)
        async with asyncio.timeout(60):
            while fake.commands.count(b"QUIT") < 2:
                await asyncio.sleep(0.01)
    assert served.log.count("interlock:") == 1  # nothing new
    assert fake.commands.count(PROBE) == 2


async def test_a_percent_hack_that_opens_the_relay_is_said_at_the_start(
    tmp_path: Path, host: Path, settings: Settings, fake: FakeQmail
) -> None:
    percenthack = host / "var/qmail/control/percenthack"
    percenthack.write_text("example.test\n")
    adopt(host, percenthack)
    away = b"x%foreign.test@example.test"
    async with serving(tmp_path, settings) as served:
        line = await served.said("control/percenthack lets everybody relay")
        assert "level=warning" in line
        assert await code_for(served, away, "127.0.0.1") == 250  # as qmail
        await served.reload({**settings, "relay.allow_percenthack": False})
        await served.said("configuration reloaded")
        assert await code_for(served, away, "127.0.0.1") == 553
    assert served.log.count("lets everybody relay") == 1
