"""The run scripts of deploy/ under the supervisors that they are for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.live.process import PATIENCE, Settings, environment, write_config

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
OURS = "/usr/local/backstop/bin/backstop"


class Supervisor(NamedTuple):
    """How it is started on a directory of services, and told about one of them."""

    name: str
    scan: tuple[str, ...]
    stop: tuple[str, ...]
    reload: tuple[str, ...]
    package: str


SUPERVISORS = [
    Supervisor("daemontools", ("svscan",), ("svc", "-d"), ("svc", "-h"), "daemontools"),
    Supervisor("runit", ("runsvdir",), ("sv", "down"), ("sv", "hup"), "runit"),
    Supervisor("s6", ("s6-svscan",), ("s6-svc", "-d"), ("s6-svc", "-h"), "s6"),
]


class Service:
    """One that a supervisor runs; its log is where multilog and its kin write."""

    def __init__(self, place: Path, log: Path, supervisor: Supervisor) -> None:
        self.place = place
        self._log = log
        self._supervisor = supervisor

    def log(self) -> str:
        current = self._log / "current"
        return current.read_text() if current.exists() else ""

    async def said(self, text: str) -> None:
        await until(lambda: text in self.log(), self.log)

    def tell(self, command: tuple[str, ...]) -> None:
        subprocess.run([*command, str(self.place)], check=True, timeout=PATIENCE)


async def until(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.02)
    assert condition(), told()


def install(supervisor: Supervisor, services: Path, log: Path, config: Path) -> Path:
    """The scripts as they lie in deploy/, but for our place, and users that this
    machine may lack."""
    place = services / "backstop"
    shutil.copytree(DEPLOY / supervisor.name, place)
    for script in place.rglob("run"):
        text = script.read_text().replace("/var/log/backstop", str(log))
        text = re.sub(r"(?:(?:s6-)?setuidgid|chpst -u) qmaill ", "", text)
        python = f"{sys.executable} -m proxy serve --config {config}"
        script.write_text(text.replace(f"{OURS} serve", python))
    return place


def end(supervisor: Supervisor, place: Path) -> None:
    """Both services, for good, and what supervises them."""
    svc = supervisor.stop[0]
    command = ("sv", "exit") if svc == "sv" else (svc, "-dx")
    for each in (place, place / "log"):
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run([*command, str(each)], timeout=PATIENCE)


@contextlib.asynccontextmanager
async def supervised(
    supervisor: Supervisor, directory: Path, settings: Settings
) -> AsyncIterator[Service]:
    services, log = directory / "services", directory / "log"
    services.mkdir()
    log.mkdir()
    config = write_config(directory / "config.toml", settings)
    place = install(supervisor, services, log, config)
    process = await asyncio.create_subprocess_exec(
        *supervisor.scan,
        str(services),
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    service = Service(place, log, supervisor)
    try:
        yield service
    finally:
        await asyncio.to_thread(end, supervisor, place)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            os.killpg(process.pid, signal.SIGTERM)
        await process.wait()


@pytest.fixture(params=SUPERVISORS, ids=lambda s: s.name)
def supervisor(request: pytest.FixtureRequest) -> Supervisor:
    found: Supervisor = request.param
    if shutil.which(found.scan[0]) is None:
        pytest.skip(f"apt-get install {found.package}")
    return found


async def test_it_starts_reloads_and_stops(
    supervisor: Supervisor, tmp_path: Path, settings: Settings
) -> None:
    async with supervised(supervisor, tmp_path, settings) as service:
        await service.said("qmail-backstop")
        if supervisor.name == "s6":
            waited = ["s6-svwait", "-U", "-t", "60000", str(service.place)]
            await asyncio.to_thread(subprocess.run, waited, check=True)
        service.tell(supervisor.reload)
        await service.said("configuration reloaded")
        service.tell(supervisor.stop)
        await service.said("text=stopped")
    assert service.log().count("qmail-backstop") == 1, "it was started twice"


async def test_it_is_started_again(
    supervisor: Supervisor, tmp_path: Path, settings: Settings
) -> None:
    """What dies is started again, by the same script."""
    async with supervised(supervisor, tmp_path, settings) as service:
        await service.said("qmail-backstop")
        kill = {"runit": ("sv", "kill")}.get(
            supervisor.name, (supervisor.stop[0], "-k")
        )
        service.tell(kill)
        await until(lambda: service.log().count("qmail-backstop") == 2, service.log)
