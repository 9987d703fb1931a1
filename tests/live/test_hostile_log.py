"""What strangers can make the service say over and over is said so often, and
then counted; every one of them is in the metrics.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from proxy.observe.quota import LINES_MAX
from tests.live.process import Served, Settings, serving
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

TRANSACTION = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\n"


async def metric(served: Served, name: str, label: str) -> int:
    _, text = await served.get("/metrics")
    found = re.search(rf"^{name}{{{label}}} (\S+)", text, re.M)
    return int(float(found[1])) if found else 0


async def test_a_backend_that_is_down(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    await fake.go_down()
    times = 5 * LINES_MAX
    stubborn = {"backend.breaker_failures": 0}
    async with serving(tmp_path, {**settings, **stubborn}) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            # All at once: so many lines are for a minute.
            await client.send(TRANSACTION * times)
            said = [await client.code() for _ in range(2 * times)]
            assert said == [250, 451] * times
        name = "backstop_backend_failures_total"
        assert await metric(served, name, 'step="connect"') == times
    lines = [line for line in served.lines if "event=backend-failed" in line]
    assert len(lines) == LINES_MAX
    left = f"{times - LINES_MAX} more lines left out: backend-failed step=connect"
    assert sum(left in line for line in served.lines) == 1
    # The record of what was decided has every one.
    assert sum("event=recipient" in line for line in served.lines) == times


async def test_a_client_that_calls_again_and_again(
    tmp_path: Path, settings: Settings
) -> None:
    few = {"limits.connections_per_client": 1}
    times = 3 * LINES_MAX
    async with serving(tmp_path, {**settings, **few}) as served:
        async with await RawClient.connect(served.port) as first:
            assert await first.code() == 220
            for _ in range(times):
                async with await RawClient.connect(served.port) as client:
                    assert await client.code() == 421
        label = 'limit="connections_per_client"'
        assert await metric(served, "backstop_turned_away_total", label) == times
    lines = [line for line in served.lines if "event=turned-away" in line]
    assert len(lines) == LINES_MAX
    text = f"{times - LINES_MAX} more lines left out: turned-away"
    assert sum(text in line for line in served.lines) == 1


async def test_garbage_from_many_clients(tmp_path: Path, settings: Settings) -> None:
    """No traceback, no line but that they came and went."""
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n" * 5000,
        b"\0" * 100_000,
        b"DATA\r\n.\r\n" * 100,
        b"PROXY TCP4 1.2.3.4 5.6.7.8 9 25\r\n",
        b"MAIL FROM:<" + b"<" * 4000 + b"\r\n",
        b"RCPT TO:<" + b'"\\' * 2000,
    ]

    async def send(port: int, data: bytes) -> None:
        async with await RawClient.connect(port) as client:
            client.writer.write(data)
            client.half_close()
            await client.rest()

    async with serving(tmp_path, settings) as served:
        for _ in range(3):
            await asyncio.gather(*(send(served.port, each) for each in garbage))
        async with await RawClient.connect(served.port) as client:
            assert await client.code() == 220
    events = {re.search(r"event=(\S+)", line)[1] for line in served.lines}  # type: ignore[index]
    assert events <= {"disconnect", "limit", "notice"}
    notices = [line for line in served.lines if "event=notice" in line]
    assert all("level=info" in line for line in notices), notices
