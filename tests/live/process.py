"""``serve`` as a stranger runs it: a child process with a configuration file.

Knows: how to start it, where it says what it listens on, how it ends.  Ports
are chosen by the system and learnt from the log.  Every wait is for something
that the process says or does; the time limits only keep a test from hanging.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import proxy

PATIENCE = 60.0

_SERVES = re.compile(r'event=notice text="qmail-backstop \S+ serves ([^",]+),')
_STATUS = re.compile(r'event=notice text="status page on (http://\S+)"')

Settings = Mapping[str, Any]
"""Keys of the configuration, dotted, with their values."""

USUAL: Settings = {
    "listen.addresses": ["127.0.0.1:0"],
    "status.address": "127.0.0.1:0",
    "qmail.default_delivery": "./Maildir/",
    # Scripted backends hear nothing but what the test makes clients say.
    "relay.interlock_interval": 0,
}


def write_config(path: Path, settings: Settings) -> Path:
    """``settings`` over the usual ones, as TOML; ``None`` leaves a key out."""
    keys = {**USUAL, **settings}
    lines = [f"{k} = {toml(v)}\n" for k, v in keys.items() if v is not None]
    path.write_text("".join(lines) + '[[rules]]\ntype = "qmail"\n')
    return path


def toml(value: object) -> str:
    """Text, numbers, truth and lists look alike in JSON and TOML; tables do not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For child processes: nothing of the developer's own configuration."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BACKSTOP_")}
    # Without an installed package too.
    above = str(Path(proxy.__file__).parent.parent)
    places = [above, *kept.get("PYTHONPATH", "").split(os.pathsep)]
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    # Tests are about other things than whose rights it has; those that are not
    # set it themselves (tests/live/privileged.py).
    kept["BACKSTOP_PROCESS__ALLOW_ROOT"] = "true"
    return {**kept, **(more or {})}


def without_uvloop(directory: Path) -> dict[str, str]:
    """An environment in which uvloop is not installed."""
    directory.mkdir()
    (directory / "uvloop.py").write_text("raise ImportError('not installed')\n")
    usual = environment()["PYTHONPATH"]
    return {"PYTHONPATH": f"{directory}{os.pathsep}{usual}"}


async def run(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    given: bytes = b"",
    within: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> tuple[int, str, str]:
    """Run the command to its end: exit status, standard output and error."""
    process = await asyncio.create_subprocess_exec(
        *within,
        *(sys.executable, "-m", "proxy", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env),
        pass_fds=pass_fds,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(given), PATIENCE)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Served:
    """A running front door.

    Its lines come late, some at a time, and from several processes: what is
    counted in its log, or not found there, is true of the whole log only.  So
    there is no log before it has ended; until then, wait with :meth:`said`.
    """

    def __init__(self, process: asyncio.subprocess.Process, config: Path) -> None:
        self.process = process
        self.config = config
        self.ports: list[int] = []
        self.status = ""
        self._lines: list[str] = []
        self._over = False
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @property
    def port(self) -> int:
        """The first listening address's."""
        return self.ports[0]

    @property
    def lines(self) -> list[str]:
        """All that it has logged, once no process of it is left."""
        assert self._over, "it still logs: wait with said(), or look after `serving`"
        return self._lines

    @property
    def log(self) -> str:
        """:attr:`lines` as one text."""
        return "\n".join(self.lines)

    @property
    def so_far(self) -> str:
        """What has come of the log by now; to be shown, never to be judged by."""
        return "\n".join(self._lines)

    async def said(self, text: str, times: int = 1) -> str:
        """Wait for the line with ``text``, the last of so many; that line."""

        def found() -> bool:
            return len(self._with(text)) >= times or self._over

        with contextlib.suppress(TimeoutError):
            await self._until(found)
        lines = self._with(text)
        assert len(lines) >= times, f"{text!r} is not in the log:\n{self.so_far}"
        return lines[times - 1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def reload(self, settings: Settings) -> None:
        """Write another configuration and ask for it; it is not awaited."""
        write_config(self.config, settings)
        self.signal(signal.SIGHUP)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the status server."""
        return await asyncio.to_thread(_get, self.status, path)

    async def finished(self) -> None:
        """Wait for the end, which is to be clean, and nothing left of it."""
        status = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await self._reader
        assert "Traceback" not in self.log, self.log
        assert status == 0, self.log
        assert not group_exists(self.process.pid), "it left processes behind"

    async def kill(self) -> None:
        """Whatever has happened, leave nothing behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await self._reader

    async def started(self, *, page: bool) -> None:
        """Wait until it says what it listens on, and where its status ``page`` is;
        of several workers, one that has no page may be the first."""
        serves = _SERVES.search(await self.said("qmail-backstop"))
        assert serves, self.so_far
        self.ports = [int(a.rpartition(":")[2]) for a in serves[1].split()]
        if page:
            status = _STATUS.search(await self.said("status page on"))
            assert status, self.so_far
            self.status = status[1]

    def _with(self, text: str) -> list[str]:
        return [line for line in self._lines if text in line]

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(condition), PATIENCE)

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self._lines.append(line.decode().rstrip("\n"))
            await self._tell()
        self._over = True
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


def group_exists(leader: int) -> bool:
    """Whether any process of that process group is there, even a dead one."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def _get(url: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def serving(
    directory: Path,
    settings: Settings,
    env: Mapping[str, str] | None = None,
    *,
    within: Sequence[str] = (),
    python: str = sys.executable,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Served]:
    """Start ``serve`` with a configuration written to ``directory``.

    ``within`` is a command that starts the command that follows it, in its own
    place.  At the end it is told to stop, unless the test did, and has to end well.
    """
    config = write_config(directory / "config.toml", settings)
    process = await asyncio.create_subprocess_exec(
        *within,
        *(python, "-m", "proxy", "serve", "-c", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env),
        cwd=directory,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    served = Served(process, config)
    try:
        await served.started(page=bool({**USUAL, **settings}["status.address"]))
        yield served
        if process.returncode is None:
            served.signal(signal.SIGTERM)
        await served.finished()
    finally:
        await served.kill()
