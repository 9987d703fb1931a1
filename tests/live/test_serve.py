"""The service as a process: its main job, its signals, its refusals to start."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals

import pytest

from tests.live.conftest import adopt
from tests.live.process import (
    Served,
    Settings,
    environment,
    run,
    serving,
)
from tests.live.process import write_config as write
from tests.support.backend import FakeQmail
from tests.support.cdbmake import make_cdb
from tests.support.smtp_client import RawClient

MESSAGE = b"Subject: x\r\n\r\nhello\r\n..dot\r\n\xff\x00 odd\r\n"
PLAIN = MESSAGE.replace(b"\r\n..", b"\r\n.")


async def codes_for(served: Served, *recipients: bytes) -> list[int]:
    """The replies to RCPT, asked in a session of their own."""
    async with await RawClient.connect(served.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        said = [await client.command(b"RCPT TO:<%s>" % each) for each in recipients]
        return [int(reply[:3]) for reply in said]


async def with_data_begun(served: Served) -> RawClient:
    """A client in the middle of its message."""
    client = await RawClient.connect(served.port)
    assert await client.code() == 220
    got = await client.deliver(b"", [b"bob@example.test"], b"x\r\n", dot=False)
    assert got == [250, 250, 354]
    return client


async def test_the_main_job(
    tmp_path: Path, settings: Settings, fake: FakeQmail, loop: Mapping[str, str]
) -> None:
    async with serving(tmp_path, settings, loop) as served:
        async with await RawClient.connect(served.port) as client:
            greeting = await client.reply()
            assert greeting.startswith(b"220 mx.example.test ")
            assert (await client.command(b"EHLO me.test")).startswith(b"250-")
            recipients = [b"alice@example.test", b"nobody@example.test"]
            recipients += [b"x@closed.test", b"x@foreign.test", b"sales@virt.test"]
            got = await client.deliver(b"a@b.test", recipients, MESSAGE)
            assert got == [250, 250, 550, 550, 553, 250, 354, 250]
            assert (await client.command(b"QUIT")).startswith(b"221 ")
        await served.said("event=disconnect")
        served.signal(SIGTERM)
        await served.finished()
    (mail,) = fake.received
    assert mail.mail == b"FROM:<a@b.test>"
    assert mail.recipients == [b"TO:<alice@example.test>", b"TO:<sales@virt.test>"]
    ours, _, theirs = mail.message.partition(b" +0000\r\n")
    assert ours.startswith(b"Received: from me.test ([127.0.0.1])\r\n")
    assert theirs == PLAIN
    verdicts = [line for line in served.lines if "event=recipient" in line]
    assert [line.count("verdict=reject") for line in verdicts] == [0, 1, 1, 1, 0]
    assert "recipient=nobody@example.test verdict=reject rule=qmail" in verdicts[1]
    assert "outcome=accepted" in await served.said("event=message")
    assert served.lines[-1].endswith("event=notice text=stopped")


async def test_the_status_server(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, settings) as served:
        assert await served.get("/healthz") == (200, "ok\n")
        assert await served.get("/readyz") == (200, "ready\n")
        asked = [b"alice@example.test", b"one@closed.test", b"two@closed.test"]
        assert await codes_for(served, *asked) == [250, 550, 550]
        status, metrics = await served.get("/metrics")
        assert status == 200
        lines = metrics.splitlines()
        assert "backstop_connections_total 1.0" in lines
        assert "backstop_backend_up 1.0" in lines
        for verdict, count in (("accept", 1), ("reject", 2)):
            labels = f'{{rule="qmail",verdict="{verdict}"}}'
            assert f"backstop_recipients_total{labels} {count}.0" in lines
        status, page = await served.get("/")
        assert status == 200
        assert "one@closed.test" in page
        assert f"127.0.0.1:{served.port}" in page
        assert (await served.get("/nothing"))[0] == 404


async def test_readiness_follows_the_backend(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    await fake.go_down()
    async with serving(tmp_path, settings) as served:
        assert await codes_for(served, b"alice@example.test") == [451]
        status, text = await served.get("/readyz")
        assert status == 503
        assert text.startswith(f"backend 127.0.0.1:{fake.port}: connect: ")
        assert (await served.get("/healthz"))[0] == 200
        assert "backstop_backend_up 0.0" in (await served.get("/metrics"))[1]
        await fake.start()  # on the same port
        assert await codes_for(served, b"alice@example.test") == [250]
        assert await served.get("/readyz") == (200, "ready\n")


async def test_without_a_status_address_there_is_none(
    tmp_path: Path, settings: Settings
) -> None:
    async with serving(tmp_path, {**settings, "status.address": None}) as served:
        assert await codes_for(served, b"alice@example.test") == [250]
    assert "status page" not in served.log


async def test_two_addresses(tmp_path: Path, settings: Settings) -> None:
    addresses = ["127.0.0.1:0", "127.0.0.1:0"]
    async with serving(tmp_path, {**settings, "listen.addresses": addresses}) as served:
        assert len(set(served.ports)) == 2
        for port in served.ports:
            async with await RawClient.connect(port) as client:
                assert await client.code() == 220


async def test_d_sighup_good_counts_for_the_next_session(
    tmp_path: Path, settings: Settings, loop: Mapping[str, str]
) -> None:
    async with serving(tmp_path, settings, loop) as served:
        async with await RawClient.connect(served.port) as old:
            await old.reply()
            await old.command(b"MAIL FROM:<a@b.test>")
            await served.reload({**settings, "mode": "observe"})
            await served.said("configuration reloaded")
            assert await codes_for(served, b"nobody@example.test") == [250]
            assert "observed=reject" in await served.said("verdict=accept")
            assert await codes_for(served, b"x@foreign.test") == [553]
            said = await old.command(b"RCPT TO:<nobody@example.test>")
            assert said.startswith(b"550 "), "an open session keeps its rules"
        await served.reload(settings)
        await served.said("configuration reloaded", times=2)
        assert await codes_for(served, b"nobody@example.test") == [550]
        metrics = (await served.get("/metrics"))[1]
        assert 'backstop_reloads_total{outcome="taken"} 2.0' in metrics
        served.signal(SIGTERM)
        await served.finished()


async def test_another_backend_after_a_reload(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    other = FakeQmail()
    await other.start()
    try:
        async with serving(tmp_path, settings) as served:
            assert await codes_for(served, b"alice@example.test") == [250]
            changed = {**settings, "backend.address": f"127.0.0.1:{other.port}"}
            await served.reload(changed)
            await served.said("configuration reloaded")
            assert await codes_for(served, b"bob@example.test") == [250]
        assert b"RCPT TO:<alice@example.test>" in fake.commands
        assert b"RCPT TO:<bob@example.test>" in other.commands
    finally:
        await other.stop()


BAD = {
    "unknown key": ({"qmail.hom": "/var/qmail"}, "home"),
    "wrong value": ({"mode": "obsrve"}, "observe"),
    "open relay": ({"qmail.home": "/var/bare"}, "control/rcpthosts does not exist"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_d_sighup_bad_keeps_the_old_and_says_so(
    tmp_path: Path, host: Path, settings: Settings, kind: str
) -> None:
    bare = host / "var/bare"
    (bare / "control").mkdir(parents=True)
    adopt(host, bare, bare / "control")
    change, hint = BAD[kind]
    async with serving(tmp_path, settings) as served:
        await served.reload({**settings, **change})
        line = await served.said("reload failed, the old stays")
        assert "level=error" in line
        assert hint in line
        asked = [b"nobody@example.test", b"alice@example.test"]
        assert await codes_for(served, *asked) == [550, 250]
        metrics = (await served.get("/metrics"))[1]
        assert 'backstop_reloads_total{outcome="failed"} 1.0' in metrics
        assert "backstop_configuration_current 0.0" in metrics
        assert "reload failed, the old stays" in (await served.get("/"))[1]
        assert await served.get("/readyz") == (200, "ready\n"), "mail is still taken"
        await served.reload(settings)
        await served.said("configuration reloaded")
        metrics = (await served.get("/metrics"))[1]
        assert "backstop_configuration_current 1.0" in metrics


async def test_a_configuration_that_is_gone_keeps_the_old(
    tmp_path: Path, settings: Settings
) -> None:
    async with serving(tmp_path, settings) as served:
        served.config.unlink()
        served.signal(SIGHUP)
        assert str(served.config) in await served.said("reload failed")
        assert await codes_for(served, b"alice@example.test") == [250]


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
async def test_d_sigterm_idle_sessions_are_told_421(
    tmp_path: Path, settings: Settings, number: Signals, loop: Mapping[str, str]
) -> None:
    async with serving(tmp_path, settings, loop) as served:
        async with await RawClient.connect(served.port) as client:
            assert await client.code() == 220
            served.signal(number)
            assert await client.rest() == (
                b"421 4.3.2 service not available, try again later\r\n"
            )
        await served.finished()
    assert "why=shutdown" in served.log


async def test_d_sigterm_mid_data_finishes_within_the_grace(
    tmp_path: Path, settings: Settings, fake: FakeQmail, loop: Mapping[str, str]
) -> None:
    patient = {**settings, "shutdown_grace": 3600}
    async with serving(tmp_path, patient, loop) as served:
        idle = await RawClient.connect(served.port)
        assert await idle.code() == 220
        async with await with_data_begun(served) as client:
            served.signal(SIGTERM)
            assert (await idle.rest()).startswith(b"421 ")
            # Now it drains: nobody comes in any more.
            with pytest.raises(ConnectionRefusedError):
                await RawClient.connect(served.port)
            await client.send(b"y\r\n.\r\n")
            assert await client.code() == 250
            assert (await client.rest()).startswith(b"421 ")
        await idle.close()
        await served.finished()
    (mail,) = fake.received
    assert mail.message.endswith(b" +0000\r\nx\r\ny\r\n")


async def test_d_grace_exceeded_a_transaction_is_cut_off(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    hasty = {**settings, "shutdown_grace": 0.2}
    async with serving(tmp_path, hasty) as served:
        async with await with_data_begun(served) as client:
            served.signal(SIGTERM)
            assert (await client.rest()).startswith(b"421 ")
        await served.finished()
    assert fake.dots == 0
    assert "outcome=aborted" in served.log
    # The exit status is that of any TERM (docs/operation.md); the log tells.
    assert "1 transactions did not finish: cut off" in served.log


async def test_d_second_sigterm_ends_at_once(
    tmp_path: Path, settings: Settings, fake: FakeQmail, loop: Mapping[str, str]
) -> None:
    patient = {**settings, "shutdown_grace": 3600}
    async with serving(tmp_path, patient, loop) as served:
        idle = await RawClient.connect(served.port)
        assert await idle.code() == 220
        async with await with_data_begun(served) as client:
            served.signal(SIGTERM)
            assert (await idle.rest()).startswith(b"421 ")
            served.signal(SIGTERM)
            assert (await client.rest()).startswith(b"421 ")
        await idle.close()
        await served.finished()
    assert fake.dots == 0
    assert "outcome=aborted" in served.log


@pytest.mark.parametrize("key", ["listen.addresses", "status.address"])
@pytest.mark.parametrize("state", ["listening", "only bound"])
async def test_d_bind_in_use_is_one_clear_line(
    tmp_path: Path, settings: Settings, key: str, state: str
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, state != "listening")
        taken.bind(("127.0.0.1", 0))
        if state == "listening":
            taken.listen()
        else:  # as of another front door that starts in the same moment
            second = socket.socket()
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            second.bind(taken.getsockname())
            second.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        value = [address] if key == "listen.addresses" else address
        config = write(tmp_path / "config.toml", {**settings, key: value})
        status, out, err = await run("serve", "-c", str(config))
        if state != "listening":
            second.close()
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line == (
        f'backstop: cannot listen on {key} "{address}": Address already in use'
        " (another program listens there; see: ss -ltnp)"
    )


async def test_without_rcpthosts_it_does_not_start(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    rcpthosts = host / "var/qmail/control/rcpthosts"
    rcpthosts.unlink()
    config = write(tmp_path / "config.toml", settings)
    status, out, err = await run("serve", "-c", str(config))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"backstop: {rcpthosts} does not exist")
    assert "relay.allow_missing_rcpthosts = true" in line
    allowed = {**settings, "relay.allow_missing_rcpthosts": True}
    async with serving(tmp_path, allowed) as served:
        assert await codes_for(served, b"x@foreign.test") == [250]


@pytest.mark.fault("H2")
async def test_rules_that_open_the_relay_do_not_start(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    (host / "tcp.cdb").write_bytes(make_cdb([(b"", b"+RELAYCLIENT=\0")]))
    rules = {**settings, "listen.tcprules": "/tcp.cdb"}
    config = write(tmp_path / "config.toml", rules)
    status, out, err = await run("serve", "-c", str(config))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "its rule for everybody sets RELAYCLIENT" in line
    assert "relay.everybody = true" in line
    async with serving(tmp_path, {**rules, "relay.everybody": True}) as served:
        assert await codes_for(served, b"x@foreign.test") == [250]


async def test_rcpthosts_that_vanishes_makes_no_open_relay(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    async with serving(tmp_path, settings) as served:
        assert await codes_for(served, b"x@foreign.test") == [553]
        (host / "var/qmail/control/rcpthosts").unlink()
        assert await codes_for(served, b"x@foreign.test") == [451]


async def test_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    config = write(tmp_path / "config.toml", {"limits.conections": 1})
    status, out, err = await run("serve", "-c", str(config))
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert "limits.conections = 1: unknown key: did you mean connections?" in err


async def test_mailboxes_made_and_removed_count_at_the_next_rcpt(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    """Extensions, users and domains, all in one session."""
    async with (
        serving(tmp_path, settings) as served,
        await RawClient.connect(served.port) as client,
    ):

        async def code(recipient: bytes) -> int:
            return int((await client.command(b"RCPT TO:<%s>" % recipient))[:3])

        home = host / "home/alice"
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        for _ in range(3):
            assert await code(b"alice-new@example.test") == 550
            (home / ".qmail-new").write_text("./Maildir/\n")
            adopt(host, home / ".qmail-new")
            assert await code(b"alice-new@example.test") == 250
            (home / ".qmail-new").unlink()
        assert await code(b"alice-new@example.test") == 550

        passwd = host / "etc/passwd"
        before = passwd.read_text()
        line = before.splitlines()[-1].replace("bob", "carol")
        home = host / "home/carol"
        shutil.copytree(host / "home/alice/Maildir", home / "Maildir")
        adopt(host, home, home / "Maildir", *(home / "Maildir").iterdir())
        assert await code(b"carol@example.test") == 550
        passwd.write_text(f"{before}{line}\n")
        assert await code(b"carol@example.test") == 250
        assert await code(b"carol-x@example.test") == 550
        passwd.write_text(before)
        shutil.rmtree(home)
        assert await code(b"carol@example.test") == 550

        rcpthosts = host / "var/qmail/control/rcpthosts"
        assert await code(b"x@new.test") == 553
        rcpthosts.write_text(rcpthosts.read_text() + "new.test\n")
        assert await code(b"x@new.test") == 250


async def test_the_environment_has_the_last_word(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    secret = tmp_path / "name"
    secret.write_text("other.example.test\n")
    env = {
        "BACKSTOP_MODE": "observe",
        "BACKSTOP_BACKEND__ADDRESS": f"127.0.0.1:{fake.port}",
        "BACKSTOP_LISTEN__HOSTNAME_FILE": str(secret),
    }
    wrong = {**settings, "backend.address": "127.0.0.1:1"}
    async with serving(tmp_path, wrong, env) as served:
        assert "mode observe" in await served.said(" serves ")
        async with await RawClient.connect(served.port) as client:
            assert (await client.reply()).startswith(b"220 other.example.test ")
        assert await codes_for(served, b"nobody@example.test") == [250]
        assert b"RCPT TO:<nobody@example.test>" in fake.commands


async def test_the_configuration_named_by_the_environment(
    tmp_path: Path, settings: Settings
) -> None:
    config = write(tmp_path / "named.toml", settings)
    env = {"BACKSTOP_CONFIG": str(config), "BACKSTOP_LISTEN__ADDRESSES": "1.2.3:x"}
    status, _, err = await run("serve", env=env)
    assert status == 2
    assert "BACKSTOP_LISTEN__ADDRESSES" in err


async def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[listen]\naddresses = ["127.0.0.1:0"]\n'
        f'[qmail]\nroot = "{tmp_path}/absent"\n'
        '[backend]\naddress = "127.0.0.1:1"\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "proxy", "serve", "-c", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert b"No such file or directory (are qmail.root" in errors
    assert b"Traceback" not in errors
