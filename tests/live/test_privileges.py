"""Whose rights ``serve`` has once it serves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM

import pytest

from tests.live.conftest import adopt
from tests.live.process import Served, Settings, run, serving
from tests.live.process import write_config as write
from tests.live.surroundings import (
    NOBODY,
    NOT_ALLOWED,
    as_nobody,
    status_of,
    wants_root,
)
from tests.live.test_serve import codes_for
from tests.live.test_workers import children
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

READ = "0" * 15 + "4"
NONE = "0" * 16
DROPPED = {"process.user": str(NOBODY), "process.group": str(NOBODY)}


def rights_of(process: int) -> dict[str, str]:
    status = status_of(process)
    assert status["Uid"].split() == [str(NOBODY)] * 4
    assert status["Gid"].split() == [str(NOBODY)] * 4
    assert status["Groups"] == ""
    return status


async def mail_goes_through(served: Served, recipient: bytes) -> None:
    async with await RawClient.connect(served.port) as client:
        assert await client.code() == 220
        assert (await client.deliver(b"", [recipient], b"x\r\n"))[-1] == 250


@pytest.mark.parametrize("workers", [1, 2])
async def test_root_becomes_the_user_and_keeps_one_right(
    tmp_path: Path, closed: Path, settings: Settings, fake: FakeQmail, workers: int
) -> None:
    wants_root()
    several = {**settings, **DROPPED, "listen.workers": workers}
    async with serving(tmp_path, several, NOT_ALLOWED) as served:
        await served.said("may read every file")
        await served.said(" serves ", times=workers)
        those = [served.process.pid]
        if workers > 1:
            those += children(served)
        for process in those:
            status = rights_of(process)
            assert status["NoNewPrivs"] == "1"
            assert status["CapPrm"] == status["CapEff"] == READ
            assert {status[name] for name in ("CapInh", "CapBnd", "CapAmb")} == {NONE}
        # The home is closed to that user, and the verdicts are root's.
        await mail_goes_through(served, b"alice@example.test")
        asked = [b"alice-lists-x@example.test", b"alice-no@example.test"]
        assert await codes_for(served, *asked) == [250, 550]
        (closed / "home/alice/.qmail-new").write_text("./Maildir/\n")
        adopt(closed, closed / "home/alice/.qmail-new")
        (closed / "home/alice/.qmail-new").chmod(0o600)
        assert await codes_for(served, b"alice-new@example.test") == [250]
        # The configuration is root's own, too.
        served.config.chmod(0o600)
        served.signal(SIGHUP)
        await served.said("configuration reloaded", times=workers)


@pytest.mark.fault("C2")
async def test_without_the_right_closed_homes_are_deferred(
    public: Path, settings: Settings, fake: FakeQmail
) -> None:
    """Our own modules may be closed as well: they are read before."""
    wants_root()
    none = {**settings, **DROPPED, "qmail.root": str(public / "host")}
    none["process.keep_read_capability"] = False
    env = NOT_ALLOWED
    async with serving(public, none, env) as served:
        await served.said("reads what that user may")
        status = rights_of(served.process.pid)
        assert status["CapPrm"] == status["CapEff"] == NONE
        asked = [b"alice@example.test", b"bob@example.test", b"no@example.test"]
        assert await codes_for(served, *asked) == [451, 250, 550]
        for page in ("/", "/metrics", "/readyz"):
            assert (await served.get(page))[0] == 200
        named = {**none, "backend.address": f"localhost:{fake.port}"}
        await served.reload(named)
        await served.said("configuration reloaded")
        await mail_goes_through(served, b"bob@example.test")
        config = str(served.config)
        address = ("--json", "-c", config, "alice@example.test")
        code, out, err = await run("explain", *address, env=env)
        assert (code, json.loads(out)["verdict"]) == (75, "defer"), err
        code, out, err = await run("check", "-c", config, env=env)
        assert "home/alice: the front door's own user may not look" in out, err
        assert "home/bob" not in out
        assert code == 1
        assert re.search(r"etc/passwd: 1 of \d homes cannot be read", out)


@pytest.mark.fault("C2")
@pytest.mark.parametrize("shut", ["", ".qmail", ".qmail-program"])
async def test_check_fails_where_a_file_of_a_home_is_kept_from_us(
    public: Path, settings: Settings, shut: str
) -> None:
    """By the mode of the home, or by that of one file in it."""
    wants_root()
    kept = public / "host/home/bob" / shut
    kept.mkdir(exist_ok=True) if not shut else kept.write_text("./Maildir/\n")
    kept.chmod(0o600)
    (public / "host/home/alice").chmod(0o755)
    path, env = public / "config.toml", NOT_ALLOWED
    wanted = {**settings, **DROPPED, "qmail.root": str(public / "host")}
    write(path, {**wanted, "process.keep_read_capability": False})
    code, out, _ = await run("check", "-c", str(path), env=env)
    assert f"home/bob{shut and '/' + shut}: the front door's own user may not" in out
    assert re.search(r"error: .*etc/passwd: 1 of \d homes cannot be read", out)
    assert code == 1
    write(path, {**wanted, "process.keep_read_capability": True})
    code, out, _ = await run("check", "-c", str(path), env=env)
    assert (code, "error" in out) == (0, False), out


async def test_a_worker_that_dies_is_replaced_by_one_without_rights(
    tmp_path: Path, settings: Settings
) -> None:
    wants_root()
    several = {**settings, **DROPPED, "listen.workers": 2}
    async with serving(tmp_path, several, NOT_ALLOWED) as served:
        await served.said(" serves ", times=2)
        before = children(served)
        os.kill(before[0], SIGKILL)
        await served.said(" serves ", times=3)
        (new,) = set(children(served)) - set(before)
        assert rights_of(new)["CapEff"] == READ


REFUSED = {
    "root by name": (
        {"process.user": "root"},
        'process.user = "root": this is root (name another user, or set'
        " process.allow_root = true to run as root)",
    ),
    "root by number": ({"process.user": "0"}, 'process.user = "0": this is root'),
    "no such user": (
        {"process.user": "no-such-user"},
        'process.user = "no-such-user": no such user (make it: useradd --system'
        " --no-create-home no-such-user)",
    ),
    "no such group": (
        {**DROPPED, "process.group": "no-such-group"},
        'process.group = "no-such-group": no such group (make it: groupadd --system'
        " no-such-group)",
    ),
    "no group": (
        {"process.user": "3999999999"},
        'process.user = "3999999999": no passwd entry tells its group (set'
        " process.group too)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_it_does_not_go_on_as_root(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    wants_root()
    change, told = REFUSED[kind]
    config = write(tmp_path / "config.toml", {**settings, **change})
    status, out, err = await run("serve", "-c", str(config), env=NOT_ALLOWED)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"backstop: {told}")
    status, out, _ = await run("check", "-c", str(config), env=NOT_ALLOWED)
    assert status == 1
    assert "process." in out.splitlines()[0]


LACKING = {
    "cap_dac_read_search": (
        "process.keep_read_capability = true: started without CAP_DAC_READ_SEARCH"
    ),
    "cap_setuid": 'process.user = "65534": cannot become that user: Operation not',
}


@pytest.mark.parametrize("capability", LACKING)
async def test_a_right_that_is_not_there(
    tmp_path: Path, settings: Settings, capability: str
) -> None:
    wants_root("capsh")
    wanted = {**settings, **DROPPED, "process.keep_read_capability": True}
    config = write(tmp_path / "config.toml", wanted)
    without = ("capsh", f"--drop={capability}", "--", "-c", 'exec "$@"', "sh")
    status, _, err = await run(
        "serve", "-c", str(config), env=NOT_ALLOWED, within=without
    )
    assert status == 2
    (line,) = err.splitlines()
    told = LACKING[capability].replace('"65534"', '"nobody"')
    assert line.startswith((f"backstop: {told}", f"backstop: {LACKING[capability]}"))


async def test_root_where_a_key_says_so(tmp_path: Path, settings: Settings) -> None:
    wants_root()
    async with serving(tmp_path, {**settings, "process.allow_root": True}) as served:
        await served.said("runs as root")
        assert status_of(served.process.pid)["Uid"].split() == ["0"] * 4


@pytest.mark.parametrize(
    "given",
    [("net_bind_service", "dac_read_search"), ("dac_read_search",)],
    ids=["service", "socket"],
)
async def test_a_supervisor_that_gave_rights_sees_them_given_up(
    tmp_path: Path,
    closed: Path,
    settings: Settings,
    fake: FakeQmail,
    given: tuple[str, ...],
) -> None:
    """As under systemd, with AmbientCapabilities; what is kept is not ambient
    either, or programs that are started would have it."""
    rights = as_nobody(*given)
    async with serving(tmp_path, settings, within=rights) as served:
        await served.said("may read every file")
        status = rights_of(served.process.pid)
        assert status["CapPrm"] == status["CapEff"] == READ
        assert {status[name] for name in ("CapInh", "CapAmb")} == {NONE}
        await mail_goes_through(served, b"alice@example.test")


async def test_a_user_that_cannot_be_become_is_told_of(
    tmp_path: Path, settings: Settings
) -> None:
    """Not started as root: a warning, for who tries the configuration out."""
    rights = [] if os.geteuid() else as_nobody("dac_read_search")
    other = {**settings, "process.user": "root"}
    async with serving(tmp_path, other, within=rights) as served:
        line = await served.said('process.user = \\"root\\" has no effect')
        assert "level=warning" in line
        served.signal(SIGTERM)
        await served.finished()


@pytest.fixture(autouse=True)
def _known_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)
