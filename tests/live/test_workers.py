"""``listen.workers``: several processes behind one port."""

from __future__ import annotations

import os
import re
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM

import pytest

from proxy.workers import Board
from tests.live.process import Served, Settings, serving
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient


@pytest.fixture
def several(settings: Settings) -> Settings:
    return {**settings, "listen.workers": 3}


def children(served: Served) -> list[int]:
    pid = served.process.pid
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


async def one_each(served: Served) -> set[str]:
    """Sessions until every worker has had some; the workers' session ids."""
    seen: set[str] = set()
    for number in range(300):
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<>")
            said = await client.command(b"RCPT TO:<no%d@example.test>" % number)
            assert said.startswith(b"550 ")
            await client.command(b"QUIT")
        line = await served.said(f"recipient=no{number}@")
        seen.update(re.findall(r"session=(\w+)-", line))
        if len(seen) == 3:
            return seen
    raise AssertionError(f"only {seen} have served")


async def refused(served: Served) -> int:
    """What /metrics tells of refused recipients."""
    _, text = await served.get("/metrics")
    found = re.findall(r'^backstop_recipients_total\{.*"reject".*\} (\S+)', text, re.M)
    return sum(int(float(number)) for number in found)


async def test_all_serve_and_their_numbers_add_up(
    tmp_path: Path, several: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=3)
        served.find_status()
        assert len(children(served)) == 3
        await one_each(served)
        asked = served.log.count("verdict=reject")
        while await refused(served) < asked:
            pass
        assert await refused(served) == asked
        served.signal(SIGHUP)
        await served.said("configuration reloaded", times=3)
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            got = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
            assert got[-1] == 250
        served.signal(SIGTERM)
        await served.finished()


async def test_a_worker_that_dies_is_replaced(
    tmp_path: Path, several: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=3)
        served.find_status()
        await one_each(served)
        asked = served.log.count("verdict=reject")
        while await refused(served) < asked:
            pass
        before = children(served)
        os.kill(before[1], SIGKILL)
        await served.said("ended with signal 9: replaced")
        await served.said(" serves ", times=4)
        assert len(set(children(served)) - set(before)) == 1
        assert await refused(served) >= asked  # what it had counted is kept
        await one_each(served)
        served.signal(SIGTERM)
        await served.finished()


def test_the_board() -> None:
    board = Board(2)
    assert board.read(0) is None
    board.show(0, {"a": 1})
    board.show(1, {"a": 2})
    board.show(1, {"a": 3})
    assert board.read(0) == {"a": 1}
    assert board.others(0) == [{"a": 3}]
    board.show(0, {"a": "x" * (1 << 20)})  # too large: the last one stays
    assert board.read(0) == {"a": 1}
