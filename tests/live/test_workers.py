"""``listen.workers``: several processes behind one port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from proxy.process.workers import Board
from tests.live.process import (
    PATIENCE,
    Served,
    Settings,
    environment,
    group_exists,
    serving,
    write_config,
)
from tests.live.surroundings import opened
from tests.support.backend import FakeQmail
from tests.support.rights import let_all_enter
from tests.support.smtp_client import RawClient


@pytest.fixture
def several(settings: Settings) -> Settings:
    # Whoever asks until each of them has served looks like a guesser.
    return {**settings, "listen.workers": 3, "limits.harvest_defence": False}


def children(served: Served) -> list[int]:
    return children_of(served.process.pid)


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


async def one_each(served: Served, word: str) -> int:
    """Sessions until every worker has had some; how many, with a refusal in each.
    ``word`` begins their recipients' names, and nobody else's."""
    seen: set[str] = set()
    for number in range(1, 300):
        name = f"no-{word}{number}@example.test"
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<>")
            said = await client.command(b"RCPT TO:<%s>" % name.encode())
            assert said.startswith(b"550 ")
            await client.command(b"QUIT")
        line = await served.said(f"recipient={name}")
        seen.update(re.findall(r"session=(\w+)-", line))
        if len(seen) == 3:
            return number
    raise AssertionError(f"only {seen} have served")


async def until_refused(served: Served, number: int) -> None:
    """Until /metrics tells of so many: what other workers than the one that is
    asked have counted comes a little later."""
    async with asyncio.timeout(PATIENCE):
        while await refused(served) < number:
            await asyncio.sleep(0.02)
    assert await refused(served) == number


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
        assert len(children(served)) == 3
        await until_refused(served, await one_each(served, "a"))
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
        asked = await one_each(served, "before")
        await until_refused(served, asked)
        before = children(served)
        os.kill(before[1], SIGKILL)
        await served.said("ended with signal 9: replaced")
        await served.said(" serves ", times=4)
        assert len(set(children(served)) - set(before)) == 1
        assert await refused(served) == asked  # what it had counted is kept
        await until_refused(served, asked + await one_each(served, "after"))
        served.signal(SIGTERM)
        await served.finished()


async def one_session_each(served: Served) -> dict[int, RawClient]:
    """An idle session at every worker, by the worker's process."""
    found: dict[int, RawClient] = {}
    for _ in range(300):
        client = await RawClient.connect(served.port)
        assert await client.code() == 220
        holder = await asyncio.to_thread(holder_of, client, served)
        if holder in found:
            await client.close()
        else:
            found[holder] = client
        if len(found) == len(children(served)):
            return found
    raise AssertionError("not every worker has served")


def holder_of(client: RawClient, served: Served) -> int:
    """The process that has the other end of a connection: proc_net(5)."""
    port = client.writer.get_extra_info("sockname")[1]
    ends = f":{served.port:04X}", f":{port:04X}"
    for _ in range(100):  # the table is not read in one piece
        lines = Path("/proc/net/tcp").read_text().splitlines()
        for row in map(str.split, lines[1:]):
            if row[3] == "01" and (row[1][-5:], row[2][-5:]) == ends:
                return process_with(f"socket:[{row[9]}]", served)
    raise AssertionError("the connection is not in the table")


def process_with(file: str, served: Served) -> int:
    for process in children(served):
        if file in opened(process):
            return process
    raise AssertionError("nobody has it")


async def test_a_worker_dies_and_the_sessions_of_the_rest_go_on(
    tmp_path: Path, several: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=3)
        clients = await one_session_each(served)
        victim, *rest = clients
        os.kill(victim, SIGKILL)
        async with clients[victim] as client:
            assert await client.rest() == b""
        await served.said(" serves ", times=4)
        for process in rest:
            async with clients[process] as client:
                got = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
                assert got[-1] == 250


async def test_a_worker_that_replaces_another_has_the_last_good_configuration(
    tmp_path: Path, several: Settings
) -> None:
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=3)
        assert "mode enforce" in await served.said(" serves ")
        await served.reload({**several, "mode": "observe"})
        await served.said("configuration reloaded", times=3)
        await served.reload({**several, "mode": "obsrve"})
        await served.said("reload failed", times=3)
        os.kill(children(served)[1], SIGKILL)
        assert "mode observe" in await served.said(" serves ", times=4)


async def test_a_terminal_interrupts_all_and_transactions_still_finish(
    tmp_path: Path, several: Settings, fake: FakeQmail
) -> None:
    """Ctrl-C is for the whole process group; the workers hear it once."""
    async with serving(tmp_path, {**several, "shutdown_grace": 3600}) as served:
        await served.said(" serves ", times=3)
        client = await RawClient.connect(served.port)
        assert await client.code() == 220
        to = [b"alice@example.test"]
        got = await client.deliver(b"", to, b"x\r\n", dot=False)
        assert got == [250, 250, 354]
        os.killpg(served.process.pid, SIGINT)
        await served.said("notice text=stopped", times=2)  # the idle two
        await client.send(b".\r\n")
        assert await client.code() == 250
        assert (await client.rest()).startswith(b"421 ")
        await client.close()
        await served.finished()


async def test_workers_end_with_their_parent(tmp_path: Path, several: Settings) -> None:
    """Else they would keep the port from the next start."""
    config = write_config(tmp_path / "config.toml", several)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "-c", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    served = Served(process, config)
    try:
        await served.started(page=True)
        await served.said(" serves ", times=3)
        process.kill()
        await process.wait()
        await served.said("notice text=stopped", times=3)
    finally:
        await served.kill()


async def stopped(process: int) -> None:
    """Stand a worker still, and wait until it does."""
    os.kill(process, SIGSTOP)
    async with asyncio.timeout(PATIENCE):
        while state(process) != "T":
            await asyncio.sleep(0.01)


def state(process: int) -> str:
    """proc_pid_stat(5)."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2][1]


@pytest.mark.fault("N23")
async def test_a_worker_that_stands_still_is_told_of_and_replaced(
    tmp_path: Path, several: Settings
) -> None:
    async with serving(tmp_path, {**several, "listen.worker_timeout": 4}) as served:
        await served.said(" serves ", times=3)
        victim = children(served)[1]
        await stopped(victim)
        await served.said(f"worker 1 (process {victim}) stands still")
        async with asyncio.timeout(PATIENCE):
            while (await served.get("/readyz"))[0] == 200:
                await asyncio.sleep(0.02)
        await served.said(f"worker 1 (process {victim}) has stood still for")
        await served.said("ended with signal 9: replaced")
        await served.said(" serves ", times=4)
        await one_each(served, "after")
        async with asyncio.timeout(PATIENCE):
            while (await served.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.02)


@pytest.mark.fault("N23")
async def test_a_worker_that_goes_on_in_time_is_left_alone(
    tmp_path: Path, several: Settings
) -> None:
    async with serving(tmp_path, {**several, "listen.worker_timeout": 60}) as served:
        await served.said(" serves ", times=3)
        before = children(served)
        await stopped(before[1])
        async with asyncio.timeout(PATIENCE):
            while "worker 1 does not answer" not in (await served.get("/readyz"))[1]:
                await asyncio.sleep(0.02)
        os.kill(before[1], SIGCONT)
        async with asyncio.timeout(PATIENCE):
            while (await served.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.02)
        assert children(served) == before


@pytest.mark.fault("N23")
@pytest.mark.parametrize(("grace", "terms"), [(0, 1), (3600, 2)])
async def test_term_ends_the_service_whatever_a_worker_does(
    tmp_path: Path, several: Settings, grace: int, terms: int
) -> None:
    config = write_config(
        tmp_path / "config.toml",
        {**several, "shutdown_grace": grace, "listen.worker_timeout": 0},
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "-c", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    served = Served(process, config)
    try:
        await served.started(page=True)
        await served.said(" serves ", times=3)
        victim = children(served)[1]
        await stopped(victim)
        for _ in range(terms):
            process.terminate()
            await served.said("notice text=stopped", times=2)  # the others
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 1
        await served.said(f"worker 1 (process {victim}) ended with signal 9")
        assert not group_exists(process.pid)
    finally:
        await served.kill()


def ways_to(pipe: int, process: int) -> list[int]:
    """With which flags ``process`` has opened it for writing (proc_pid_fdinfo(5))."""
    wanted = os.readlink(f"/proc/self/fd/{pipe}")
    found = []
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()) == wanted:
                info = Path(f"/proc/{process}/fdinfo/{entry.name}").read_text()
                found.append(int(info.split("flags:")[1].split()[0], 8))
    return found


@pytest.mark.fault("N24")
@pytest.mark.parametrize("user", [None, "65534"])
async def test_no_process_may_wait_for_the_log(
    tmp_path: Path, several: Settings, user: str | None
) -> None:
    """Nor is the pipe changed for those who share it."""
    if user and os.geteuid():
        pytest.skip("only root can become another user")
    read, write = os.pipe()
    rights: Settings = {"process.user": user, "process.allow_root": user is None}
    config = write_config(tmp_path / "config.toml", {**several, **rights})
    let_all_enter(tmp_path)
    environ = environment()
    del environ["BACKSTOP_PROCESS__ALLOW_ROOT"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "-c", str(config)),
        stderr=write,
        env=environ,
        start_new_session=True,
    )
    try:
        text = await asyncio.to_thread(read_until, read, b" serves ", 3)
        assert os.get_blocking(write), text
        workers = children_of(process.pid)
        assert len(workers) == 3
        for each in (process.pid, *workers):
            flags = ways_to(write, each)
            assert flags
            assert all(flag & os.O_NONBLOCK for flag in flags)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, SIGKILL)
        await process.wait()
        os.close(read)
        os.close(write)


def read_until(descriptor: int, text: bytes, times: int) -> bytes:
    said = b""
    while said.count(text) < times:
        said += os.read(descriptor, 4096)
    return said


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


async def test_the_backend_has_no_more_connections_than_it_may(
    tmp_path: Path, several: Settings, fake: FakeQmail
) -> None:
    """``backend.connections`` is for all of them together."""
    several = {
        **several,
        "backend.connections": 3,
        "backend.connection_wait": 0,
        "relay.interlock_interval": 0,
    }
    async with (
        serving(tmp_path, several) as served,
        contextlib.AsyncExitStack() as all_,
    ):
        codes = []
        for number in range(12):
            client = await all_.enter_async_context(
                await RawClient.connect(served.port)
            )
            await client.reply()
            await client.command(b"EHLO c%d.test" % number)
            await client.command(b"MAIL FROM:<>")
            codes.append((await client.command(b"RCPT TO:<alice@example.test>"))[:3])
        assert set(codes) == {b"250", b"451"}
        assert 0 < codes.count(b"250") == fake.open_connections <= 3
