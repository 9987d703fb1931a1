"""Limits of the real process: descriptors, several workers, guessers."""

from __future__ import annotations

import asyncio
import re
import resource
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGSTOP

import pytest

from tests.live.process import Served, Settings, serving, without_uvloop
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

FULL = b"421 4.3.2 too many connections, try again later\r\n"
GUESSES = b"421 4.7.0 too many unknown recipients, come back later\r\n"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_descriptors_never_run_out(
    tmp_path: Path, settings: Settings, fake: FakeQmail, loop: str
) -> None:
    """L-emfile: 300 clients at once where 256 descriptors are allowed; all are
    answered, and so is who comes after them."""
    env = None
    if loop == "asyncio":
        env = without_uvloop(tmp_path / "without")
    wanted = {**settings, "limits.connections_per_client": 0}
    async with serving(tmp_path, wanted, env) as served:
        pid = served.process.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        served.signal(SIGHUP)
        await served.said("64 are served")
        await served.said("configuration reloaded")
        # All wait in the queue of the listening socket when it goes on.
        served.signal(SIGSTOP)
        clients = [await RawClient.connect(served.port) for _ in range(300)]
        served.signal(SIGCONT)
        firsts = await asyncio.gather(*(client.reply() for client in clients))
        assert sum(first.startswith(b"220 ") for first in firsts) == 64
        assert firsts.count(FULL) == 236
        for client in clients:
            await client.close()
        await served.said("event=disconnect", times=64)
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            got = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
            assert got[-1] == 250
    loud = [line for line in served.lines if re.search("level=(warning|error)", line)]
    assert len(loud) < 10, loud


async def greeted(port: int, *sources: str) -> tuple[list[RawClient], list[bytes]]:
    """A connection from each, and how it begins.  One after the other: of two that
    come to two workers in the same instant, neither counts for the other."""
    clients, firsts = [], []
    for source in sources:
        clients.append(await RawClient.connect(port, source))
        firsts.append(await clients[-1].reply())
    return clients, firsts


async def answered(served: Served, count: int, source: str) -> tuple[int, int]:
    """How many of so many connections are let in at once, and how many not."""
    clients, firsts = await greeted(served.port, *[source] * count)
    for client in clients:
        client.reset()
    full = firsts.count(FULL)
    assert sum(first.startswith(b"220 ") for first in firsts) == count - full
    return count - full, full


async def test_workers_share_the_caps(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    several = {
        **settings,
        "listen.workers": 3,
        "limits.connections": 30,
        "limits.connections_per_client": 5,
    }
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=3)
        assert await answered(served, 20, "127.0.0.9") == (5, 15)
        await served.said("event=disconnect", times=5)
        sources = [f"127.0.1.{number}" for number in range(40)]
        clients, firsts = await greeted(served.port, *sources)
        assert firsts.count(FULL) == 10
        await served.said("event=pressure step=2")
        for client in clients:
            client.reset()
        await served.said("event=disconnect", times=35)
        # Each of them, by itself or at its next look.
        await served.said("event=pressure step=0", times=1)
        assert (await answered(served, 5, "127.0.0.9"))[1] == 0


async def test_workers_share_what_they_know_of_guessers(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    """Guesses that are spread over all of them; then nobody lets it in."""
    several = {
        **settings,
        "listen.workers": 3,
        "limits.harvest_delay_after": 0,
        "limits.harvest_refuse_after": 12,
    }
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=3)
        guesses, said = 0, b""
        while said != GUESSES:
            async with await RawClient.connect(served.port) as client:
                said = await client.reply()
                if said != GUESSES:  # else this one has heard it of the others
                    await client.command(b"MAIL FROM:<>")
                    said = await client.command(b"RCPT TO:<nobody@example.test>")
                    guesses += 1
        assert guesses > 12
        # The other two hear of it at their next look.
        row = 0
        while row < 20:
            async with await RawClient.connect(served.port) as client:
                first = await client.reply()
                row = row + 1 if first == GUESSES else 0
        await served.said("limit=harvest_defence")
        other = await RawClient.connect(served.port, "127.0.0.2")
        assert (await other.reply()).startswith(b"220 ")
        await other.close()
