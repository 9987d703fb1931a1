"""``backstop doctor`` against a running front door and a backend that is made up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.doctor import show
from proxy.doctor.result import GREEN, GREY, RED, YELLOW, Result, worst
from tests.live.process import run, serving, write_config
from tests.support import standin
from tests.support.backend import SILENT, FakeQmail
from tests.support.cdbmake import make_cdb
from tests.support.nameserver import nameserver
from tests.support.ports import own_port
from tests.support.rights import let_all_enter
from tests.support.small_host import lay_out

REFUSING = {"RCPT TO:<backstop-interlock@relay-test.invalid>": b"553 no\r\n"}
ZONE = {
    (f"{name}.test", "MX"): ["10 mx.example.test."]
    for name in ("example", "virt", "more")
}

Found = dict[str, list[tuple[str, str]]]


def settings(tmp_path: Path, fake: FakeQmail, **more: Any) -> dict[str, Any]:
    tmp_path.chmod(0o755)
    lay_out(tmp_path)
    return {
        "listen.addresses": [f"127.0.0.1:{own_port()}"],
        "status.address": f"127.0.0.1:{own_port()}",
        "qmail.root": str(tmp_path / "host"),
        "backend.address": f"127.0.0.1:{fake.port}",
        **{key.replace("__", "."): value for key, value in more.items()},
    }


async def examined(
    config: Path, *, env: Mapping[str, str] | None = None
) -> tuple[int, Found]:
    """Exit status, and levels with words by subject."""
    async with nameserver(ZONE) as server:
        asked = ("doctor", "-c", str(config), "--nameserver", server)
        status, out, err = await run(*asked, "--json", env=env)
    assert err == ""
    told = json.loads(out)
    found: Found = {}
    for each in told["results"]:
        assert each["remedy"] or each["level"] in (GREEN, GREY), each
        found.setdefault(each["subject"], []).append((each["level"], each["what"]))
    assert (told["level"] == RED) == (status == 1) or status == 2
    return status, found


def levels(found: Found, subject: str) -> list[str]:
    return [level for level, _ in found[subject]]


def words(found: Found, subject: str) -> str:
    return "; ".join(what for _, what in found[subject])


@pytest.fixture
async def fake() -> Any:
    backend = FakeQmail(script=dict(REFUSING))
    await backend.start()
    yield backend
    await backend.stop()


async def test_a_good_deployment(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake)
    async with serving(tmp_path, keys):
        status, found = await examined(tmp_path / "config.toml")
    assert status == 0
    port = keys["listen.addresses"][0].partition(":")[2]
    for subject in (
        "version",
        "configuration",
        "files",
        "relaying",
        "front door",
        "foreign recipient",
        "unknown recipient",
        f"port {port}",
        "status page",
        "DNS",
    ):
        assert levels(found, subject) == [GREEN], found[subject]
    assert levels(found, "backend") == [GREEN, GREEN], found["backend"]
    assert "it offers 8BITMIME, PIPELINING" in words(found, "backend")
    assert f"only this machine reaches 127.0.0.1:{fake.port}" in words(found, "backend")
    assert "553" in words(found, "foreign recipient")
    assert "is answered 550 5.1.1" in words(found, "unknown recipient")
    assert "answers as mx.example.test" in words(found, "front door")
    assert levels(found, "port 25") == [YELLOW]
    assert fake.received == []


async def test_observe_mode(tmp_path: Path, fake: FakeQmail) -> None:
    async with serving(tmp_path, settings(tmp_path, fake, mode="observe")):
        status, found = await examined(tmp_path / "config.toml")
    assert status == 0
    assert levels(found, "unknown recipient") == [GREEN]
    assert "observe mode lets it pass" in words(found, "unknown recipient")
    assert levels(found, "foreign recipient") == [GREEN]
    assert fake.received == []


async def test_nothing_runs(tmp_path: Path) -> None:
    fake = FakeQmail(port=own_port())
    keys = settings(tmp_path, fake)
    config = write_config(tmp_path / "config.toml", keys)
    status, found = await examined(config)
    assert status == 1
    port = keys["listen.addresses"][0].partition(":")[2]
    assert levels(found, "backend") == [RED]
    assert "does not answer" in words(found, "backend")
    assert levels(found, "front door") == [RED]
    assert found[f"port {port}"] == [(RED, "nobody listens")]
    assert levels(found, "status page") == [YELLOW]


async def test_a_backend_that_relays(tmp_path: Path, fake: FakeQmail) -> None:
    fake.script.clear()
    keys = settings(tmp_path, fake)
    config = write_config(tmp_path / "config.toml", keys)
    _, found = await examined(config)
    assert levels(found, "relaying") == [YELLOW]
    assert "would relay to any domain for us" in words(found, "relaying")


@pytest.mark.fault("H5")
@pytest.mark.parametrize("relays", [True, False])
async def test_clients_that_may_relay_by_tcprules_need_the_backend(
    tmp_path: Path, fake: FakeQmail, relays: bool
) -> None:
    if relays:
        fake.script.clear()
    keys = settings(tmp_path, fake, listen__tcprules="/tcp.cdb")
    rules = make_cdb([(b"10.", b"+RELAYCLIENT=\0"), (b"127.", b"+RELAYCLIENT=\0")])
    (tmp_path / "host/tcp.cdb").write_bytes(rules)
    _, found = await examined(write_config(tmp_path / "config.toml", keys))
    assert levels(found, "relaying") == [GREEN if relays else YELLOW]
    told = words(found, "relaying")
    assert ("as clients that may relay need it" in told) is relays
    assert ("cannot send to other domains" in told) is not relays


async def test_a_silent_backend(tmp_path: Path, fake: FakeQmail) -> None:
    fake.script["EHLO"] = SILENT
    keys = settings(tmp_path, fake, backend__command_timeout=0.2)
    config = write_config(tmp_path / "config.toml", keys)
    status, found = await examined(config)
    assert status == 1
    assert levels(found, "backend")[0] == RED
    assert "no answer to EHLO" in words(found, "backend")


async def test_somebody_else_listens_and_relays(
    tmp_path: Path, fake: FakeQmail
) -> None:
    """An open relay where the front door should be."""
    other = FakeQmail()
    await other.start()
    try:
        keys = settings(tmp_path, fake)
        keys["listen.addresses"] = [f"127.0.0.1:{other.port}"]
        config = write_config(tmp_path / "config.toml", keys)
        status, found = await examined(config)
    finally:
        await other.stop()
    assert status == 1
    assert levels(found, f"port {other.port}") == [RED]
    assert levels(found, "foreign recipient") == [RED]
    assert "an open relay" in words(found, "foreign recipient")
    assert levels(found, "unknown recipient") == [RED]
    assert other.received == []


async def test_who_may_relay_is_not_asked_about_it(
    tmp_path: Path, fake: FakeQmail
) -> None:
    keys = settings(tmp_path, fake, relay__trusted=["127.0.0.0/8"])
    async with serving(tmp_path, keys):
        _, found = await examined(tmp_path / "config.toml")
    assert levels(found, "foreign recipient") == [GREY]
    assert levels(found, "relaying") == [YELLOW]  # refuses what it is needed for


async def test_catch_alls_only(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake)
    catch_all = tmp_path / "host/var/qmail/alias/.qmail-default"
    catch_all.write_text("&alice\n")
    catch_all.chmod(0o644)
    (tmp_path / "host/var/qmail/control/rcpthosts").write_text("example.test\n")
    async with serving(tmp_path, keys):
        _, found = await examined(tmp_path / "config.toml")
    assert levels(found, "unknown recipient") == [YELLOW]


async def test_what_check_finds_is_told(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake)
    (tmp_path / "host/var/qmail/control/rcpthosts").unlink()
    config = write_config(tmp_path / "config.toml", keys)
    status, found = await examined(config)
    assert status == 1
    assert RED in levels(found, "configuration")
    assert "an open relay" in words(found, "configuration")


async def test_an_old_table(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake)
    etc = tmp_path / "host/etc"
    for name, seconds in (("aliases", 2000.0), ("aliases.cdb", 1000.0)):
        (etc / name).write_bytes(b"")
        os.utime(etc / name, (seconds, seconds))
    config = write_config(tmp_path / "config.toml", keys)
    _, found = await examined(config)
    assert levels(found, "tables") == [YELLOW]
    os.utime(etc / "aliases.cdb", (3000.0, 3000.0))
    _, found = await examined(config)
    assert levels(found, "tables") == [GREEN]


async def test_a_clock_that_is_behind(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake)
    ahead = 4_000_000_000.0
    os.utime(tmp_path / "host/var/qmail/control", (ahead, ahead))
    config = write_config(tmp_path / "config.toml", keys)
    _, found = await examined(config)
    assert levels(found, "clock") == [YELLOW]


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="wants to become another user")
async def test_it_looks_as_the_user_that_serves(
    tmp_path: Path, fake: FakeQmail
) -> None:
    keys = settings(
        tmp_path,
        fake,
        process__user="65534",
        process__group="65534",
        process__keep_read_capability=False,
    )
    let_all_enter(tmp_path)
    (tmp_path / "host/home/alice/.qmail-virt-sales").chmod(0o600)
    config = write_config(tmp_path / "config.toml", keys)
    _, found = await examined(config, env={"BACKSTOP_PROCESS__ALLOW_ROOT": "false"})
    assert levels(found, "files") == [YELLOW]
    assert "/home/alice/.qmail-virt-sales" in words(found, "files")


async def test_a_bad_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[limits]\nconnections = -1\n")
    status, found = await examined(config)
    assert (status, levels(found, "configuration")) == (2, [RED])


async def test_plain_lines(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake)
    config = write_config(tmp_path / "config.toml", keys)
    async with nameserver(ZONE) as server:
        asked = ("doctor", "-c", str(config), "--nameserver", server)
        status, out, _ = await run(*asked)
    lines = out.splitlines()
    assert status == 1
    assert any(line.startswith("red: front door: 127.0.0.1:") for line in lines)
    assert lines[-1].startswith("something is to be mended: ")


def test_grey_is_no_worse_than_green() -> None:
    good, unknown = Result(GREEN, "a", "b"), Result(GREY, "a", "b")
    assert worst([good, unknown]) == GREEN
    assert show.summary([good, unknown]) == "all is well: 1 grey, 1 green"
    assert worst([good, Result(YELLOW, "a", "b", "c")]) == YELLOW


async def test_a_program_for_a_backend(tmp_path: Path, fake: FakeQmail) -> None:
    keys = settings(tmp_path, fake, backend__address=None)
    program = Path(standin.__file__)
    keys["backend.command"] = [sys.executable, str(program), str(tmp_path)]
    async with serving(tmp_path, keys):
        status, found = await examined(tmp_path / "config.toml")
    assert status == 0
    assert levels(found, "backend") == [GREEN]
    assert levels(found, "relaying") == [GREY]
    assert levels(found, "foreign recipient") == [GREEN]
