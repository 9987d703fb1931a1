"""Odd surroundings: no home, no terminal, nothing writable, a log nobody reads,
a clock that jumps."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest

from proxy.observe.log import Logger
from proxy.qmail.cache import FileCache
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.view import DirectoryView
from proxy.rules.qmail import QmailRule
from tests.live.conftest import adopt
from tests.live.process import (
    PATIENCE,
    Settings,
    environment,
    run,
    serving,
)
from tests.live.process import write_config as write
from tests.live.surroundings import (
    NOBODY,
    NOT_ALLOWED,
    as_nobody,
    modules,
    public_python,
    read_only,
    status_of,
)
from tests.live.test_privileges import DROPPED, mail_goes_through
from tests.live.test_serve import codes_for
from tests.support.backend import FakeQmail
from tests.support.front import running
from tests.support.smtp_client import RawClient


@pytest.mark.parametrize("user", ["root", "dropped"])
async def test_d_readonly_root(
    tmp_path: Path, settings: Settings, fake: FakeQmail, user: str
) -> None:
    """A whole life, with not one file system that can be written to: mail, a
    reload, the pages, the end.  So a full disk matters as little (D-disk-full)."""
    within = read_only(tmp_path / "probe")
    env = NOT_ALLOWED if user == "dropped" else {}
    whose = {**settings, **DROPPED} if user == "dropped" else settings
    async with serving(tmp_path, whose, env, within=within) as served:
        await mail_goes_through(served, b"alice@example.test")
        assert await codes_for(served, b"nobody@example.test") == [550]
        served.signal(SIGHUP)
        await served.said("configuration reloaded")
        assert (await served.get("/metrics"))[0] == 200
        assert (await served.get("/"))[0] == 200
    (mail,) = fake.received
    assert mail.message.endswith(b"x\r\n")


async def test_d_nonroot(public: Path, settings: Settings, fake: FakeQmail) -> None:
    """A user without any right, as in most containers; no key is needed."""
    within = as_nobody()
    python = public_python()
    root = {**settings, "qmail.root": str(public / "host")}
    env = {**NOT_ALLOWED, **modules()}
    async with serving(public, root, env, within=within, python=python) as served:
        await served.said("reads what that user may")
        status = status_of(served.process.pid)
        assert status["Uid"].split() == [str(NOBODY)] * 4
        assert status["CapEff"] == "0" * 16
        await mail_goes_through(served, b"bob@example.test")
        asked = [b"alice@example.test", b"nobody@example.test"]
        assert await codes_for(served, *asked) == [451, 550]


def first_privileged_port() -> int:
    path = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return int(path.read_text()) if path.exists() else 1024


@pytest.mark.parametrize("key", ["listen.addresses", "status.address"])
async def test_d_no_permission(tmp_path: Path, settings: Settings, key: str) -> None:
    if first_privileged_port() <= 25:
        pytest.skip("here everybody may listen on port 25")
    within = [] if os.geteuid() else as_nobody("dac_read_search")
    address = "127.0.0.1:25"
    value = [address] if key == "listen.addresses" else address
    config = write(tmp_path / "config.toml", {**settings, key: value})
    status, out, err = await run("serve", "-c", str(config), within=within)
    assert (status, out) == (2, "")
    assert err == (
        f'backstop: cannot listen on {key} "{address}": Permission denied'
        " (ports below 1024 want root or CAP_NET_BIND_SERVICE)\n"
    )


WITHOUT_HOME = {
    "none": ("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"),
    "not there": ("env", "HOME=/nonexistent/home"),
    "nothing at all": ("sh", "-c", 'unset HOME PATH TMPDIR LANG TERM; exec "$@"', "sh"),
}


@pytest.mark.parametrize("kind", WITHOUT_HOME)
async def test_d_no_home(
    tmp_path: Path, settings: Settings, fake: FakeQmail, kind: str
) -> None:
    async with serving(tmp_path, settings, within=WITHOUT_HOME[kind]) as served:
        await mail_goes_through(served, b"alice@example.test")


CLOSED = {
    # serving() makes a session of its own: there is no terminal to begin with.
    "null": ("sh", "-c", 'exec "$@" <>/dev/null >&0', "sh"),
    "input closed": ("sh", "-c", 'exec "$@" <&-', "sh"),
    "input and output closed": ("sh", "-c", 'exec "$@" <&- >&-', "sh"),
}


@pytest.mark.parametrize("kind", CLOSED)
async def test_d_no_tty(
    tmp_path: Path, settings: Settings, fake: FakeQmail, kind: str
) -> None:
    async with serving(tmp_path, settings, within=CLOSED[kind]) as served:
        await mail_goes_through(served, b"alice@example.test")
        for number in range(3):  # no socket is where others expect a stream
            target = os.readlink(f"/proc/{served.process.pid}/fd/{number}")
            assert not target.startswith("socket:")


async def test_d_no_tty_and_no_log_either(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    """Standard error closed as well: it serves, and is found by its status page."""
    status = {**settings, "status.address": None}
    config = write(tmp_path / "config.toml", status)
    reading, writing = os.pipe()
    text = config.read_text()
    config.write_text(f"process.readiness_fd = {writing}\n{text}")
    command = (sys.executable, "-m", "proxy", "serve", "-c", str(config))
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command),
        env=environment(),
        pass_fds=[writing],
    )
    os.close(writing)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.to_thread(os.read, reading, 10) == b"\n"
            process.send_signal(SIGTERM)
            assert await process.wait() == 0
    finally:
        os.close(reading)
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("workers", [1, 2])
async def test_d_log_pipe_closed(
    tmp_path: Path,
    settings: Settings,
    fake: FakeQmail,
    loop: Mapping[str, str],
    workers: int,
) -> None:
    """Who read the log is gone: mail goes on, the end is clean."""
    several = {**settings, "listen.workers": workers}
    config = write(tmp_path / "config.toml", several)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "-c", str(config)),
        stderr=subprocess.PIPE,
        env=environment(loop),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            assert process.stderr is not None
            seen = b""
            while seen.count(b" serves ") < workers:
                line = await process.stderr.readline()
                assert line, seen
                seen += line
            found = re.search(rb" serves 127\.0\.0\.1:(\d+),", seen)
            assert found
            # The reading end, closed: from now on a write is EPIPE.
            process._transport.get_pipe_transport(2).close()  # type: ignore[attr-defined]
            port = int(found[1])
            for _ in range(20):
                async with await RawClient.connect(port) as client:
                    assert await client.code() == 220
                    got = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
                    assert got[-1] == 250
            process.send_signal(SIGHUP)
            async with await RawClient.connect(port) as client:
                assert await client.code() == 220
            process.send_signal(SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert len(fake.received) == 20


WRONG: dict[str, Settings] = {
    "the configuration": {"limits.conections": 1},
    "the start": {"qmail.root": "/nonexistent"},
}


@pytest.mark.parametrize("kind", WRONG)
async def test_d_log_pipe_closed_from_the_start(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    """Nobody can be told; the exit status still tells."""
    config = write(tmp_path / "config.toml", {**settings, **WRONG[kind]})
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "-c", str(config)),
        stderr=writing,
        env=environment(),
    )
    os.close(writing)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 2


YEARS = 10 * 365 * 86400


@pytest.mark.parametrize("jump", [-YEARS, YEARS], ids=["back", "forth"])
async def test_d_clock_jump(
    host: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    """The wall clock is set while a session is open: nobody is timed out, the
    kept connection stays, what was learnt of files and what changes is right."""
    ahead = 0

    def clock() -> int:
        return time.time_ns() + ahead * 10**9

    cache = FileCache(clock=clock)
    settings = HostSettings(default_delivery=b"./Maildir/")
    rule = QmailRule(
        QmailHost(DirectoryView(os.fsencode(host)), settings, cache, clock)
    )
    lines = io.BytesIO()
    log = Logger(lines, now=lambda: clock() / 1e9)
    async with running(rule.ask) as front:
        front.door.observer = log
        async with await RawClient.connect(front.port) as client:

            async def deliver() -> list[int]:
                to = [b"alice@example.test", b"alice-new@example.test"]
                return await client.deliver(b"", to, b"x\r\n")

            assert await client.code() == 220
            assert await deliver() == [250, 250, 550, 354, 250]
            ahead = jump
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + jump)
            front.door.sweep()
            assert await deliver() == [250, 250, 550, 354, 250]
            (host / "home/alice/.qmail-new").write_text("./Maildir/\n")
            adopt(host, host / "home/alice/.qmail-new")
            assert await deliver() == [250, 250, 250, 354, 250]
            ahead = 0
            (host / "home/alice/.qmail-new").unlink()
            front.door.sweep()
            assert await deliver() == [250, 250, 550, 354, 250]
        assert front.fake.connections == 1
        await front.settled()
        log.flush()
    cache.close()
    written = lines.getvalue().decode()
    assert written.count("outcome=accepted") == 4
    assert written.count("verdict=reject") == 3
