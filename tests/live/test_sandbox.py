"""``serve`` under what the systemd unit forbids, as far as it can be had without
systemd."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.live.process import PATIENCE, Served, Settings, serving
from tests.live.surroundings import as_nobody, wants_root
from tests.live.test_privileges import mail_goes_through
from tests.live.test_serve import codes_for
from tests.support.backend import FakeQmail
from tests.test_deploy import allowed_calls

GIVEN = ("net_bind_service", "dac_read_search")

# prctl(2): PR_SET_MDWE, which is what MemoryDenyWriteExecute= does, or better.
_NO_NEW_CODE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def no_new_code() -> list[str]:
    within = [sys.executable, "-c", _NO_NEW_CODE]
    if subprocess.run([*within, "/bin/true"], timeout=60).returncode:
        pytest.skip("the kernel has no PR_SET_MDWE (Linux 6.3)")
    return within


async def a_life(served: Served) -> None:
    await mail_goes_through(served, b"alice@example.test")
    assert await codes_for(served, b"nobody@example.test") == [550]
    for page in ("/", "/metrics", "/readyz"):
        assert (await served.get(page))[0] == 200
    served.signal(SIGHUP)
    await served.said("configuration reloaded")


@pytest.mark.parametrize("workers", [1, 2])
async def test_memory_that_is_written_is_never_executed(
    tmp_path: Path, settings: Settings, fake: FakeQmail, workers: int
) -> None:
    within = no_new_code()
    if os.geteuid() == 0:
        setpriv = as_nobody(*GIVEN)
        setpriv[0] = "/usr/bin/setpriv"
        within = [*within, *setpriv]
    several = {**settings, "listen.workers": workers}
    async with serving(tmp_path, several, within=within) as served:
        await served.said(" serves ", times=workers)
        await a_life(served)


def may_trace() -> None:
    if subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode:
        pytest.skip("strace may trace nothing here")


def over(trace: Path, leader: str) -> bool:
    lines = trace.read_text().splitlines()
    return any(line.startswith(leader) and "+++ exited" in line for line in lines)


async def test_the_unit_allows_every_system_call(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    wants_root("strace", "setpriv")
    allowed = allowed_calls()
    # -DDD: what is traced stays the child, and gets the signals.
    trace = tmp_path / "trace"
    within = ["strace", "-DDD", "-f", "-o", str(trace), *as_nobody(*GIVEN)]
    may_trace()
    told = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1000000"}
    several = {**settings, "listen.workers": 2}
    async with serving(tmp_path, several, told, within=within) as served:
        await served.said(" serves ", times=2)
        await a_life(served)
        leader = f"{served.process.pid} "
    async with asyncio.timeout(PATIENCE):
        while not over(trace, leader):
            await asyncio.sleep(0.01)
    # Of setpriv itself, before it starts us, systemd does the like beforehand.
    _, _, text = trace.read_text().partition(f'execve("{sys.executable}"')
    used = set(re.findall(r"^\d+ +(\w+)\(", text, re.M))
    assert {"accept4", "capset", "wait4"} <= used
    assert used - allowed == set()
