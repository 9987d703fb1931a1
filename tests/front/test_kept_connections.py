"""What a kept backend connection is good for, and when it is given up."""

from __future__ import annotations

import base64
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.assemble import startup_files
from proxy.backend.choice import Place
from proxy.backend.settings import BackendSettings
from proxy.backend.startup_files import StartupFiles
from proxy.config.sources import load
from proxy.front.door import DoorSettings
from proxy.observe.events import BackendFailed, MessageEnded
from proxy.smtp.driver import Limits
from tests.support.backend import FakeQmail
from tests.support.front import Front, accept, running
from tests.support.smtp_client import RawClient

A = [b"a@example.test"]
BAD = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0wrong")
AUTH = DoorSettings(received=False, session=Limits(auth_needs_tls=False))


async def codes(front: Front, *recipients: bytes) -> list[int]:
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        return await client.deliver(b"", list(recipients) or A, b"x\r\n")


@pytest.fixture
def settled_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as old ones."""
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 10**10)


@pytest.mark.fault("N21")
@pytest.mark.parametrize("how", ["in place", "renamed", "new", "removed"])
@pytest.mark.usefixtures("settled_files")
async def test_a_changed_control_file_ends_what_was_kept(
    tmp_path: Path, how: str
) -> None:
    control = tmp_path / "control"
    control.mkdir()
    rcpthosts = control / "rcpthosts"
    rcpthosts.write_text("example.test\n")
    settings = BackendSettings(startup_files=(str(control),))
    async with running(lambda _: accept(), backend=settings) as front:
        for _ in range(2):
            assert await codes(front) == [250, 250, 354, 250]
        assert front.fake.connections == 1
        match how:
            case "in place":
                rcpthosts.write_text("example.test\nnew.test\n")
            case "renamed":
                (control / "new").write_text("example.test\nnew.test\n")
                (control / "new").rename(rcpthosts)
            case "new":
                (control / "badmailfrom").write_text("x@y.test\n")
            case "removed":
                rcpthosts.unlink()
        assert await codes(front) == [250, 250, 354, 250]
        assert front.fake.connections == 2
        await front.until(lambda: front.fake.open_connections == 1)


@pytest.mark.fault("N21")
@pytest.mark.usefixtures("settled_files")
async def test_changed_rules_of_tcpserver_end_what_was_kept(tmp_path: Path) -> None:
    rules = tmp_path / "tcp.smtp.cdb"
    rules.write_bytes(b"1")
    settings = BackendSettings(startup_files=(str(rules),))
    async with running(backend=settings) as front:
        await codes(front)
        rules.write_bytes(b"22")
        await codes(front)
        assert front.fake.connections == 2


@pytest.mark.fault("N21")
async def test_a_connection_begun_while_a_file_changed_is_used_once(
    tmp_path: Path,
) -> None:
    """A further change in the same tick of the file system's clock is not seen."""
    (tmp_path / "rcpthosts").write_text("example.test\n")
    files = StartupFiles([str(tmp_path)])
    assert files.identity() != files.identity()


@pytest.mark.fault("N21")
@pytest.mark.usefixtures("settled_files")
async def test_a_file_that_does_not_change_has_one_identity(tmp_path: Path) -> None:
    (tmp_path / "rcpthosts").write_text("example.test\n")
    files = StartupFiles([str(tmp_path), str(tmp_path / "missing")])
    assert files.identity() == files.identity()


@pytest.mark.fault("N21")
async def test_a_reload_ends_what_was_kept() -> None:
    async with running() as front:
        await codes(front)
        front.door.backends.use([Place(front.backend.settings)])
        await front.until(lambda: front.fake.open_connections == 0)
        await codes(front)
        assert front.fake.connections == 2


@pytest.mark.fault("N21")
@pytest.mark.parametrize(
    ("recipients", "expected"),
    [
        ([b"a@new.test"], [250, 250, 354, 250]),
        ([b"a@example.test", b"a@new.test"], [250, 250, 250, 354, 250]),
        ([b"a@new.test", b"a@example.test"], [250, 250, 250, 354, 250]),
        (
            [b"a@example.test", b"a@never.test", b"b@example.test", b"a@new.test"],
            [250, 250, 550, 250, 250, 354, 250],
        ),
    ],
)
async def test_a_refusal_over_a_used_connection_is_asked_again(
    recipients: list[bytes], expected: list[int]
) -> None:
    """The backend's files cannot be seen from here."""
    fake = FakeQmail()
    known = {b"example.test"}

    def judge(argument: bytes) -> bytes | None:
        domain = argument.rpartition(b"@")[2].rstrip(b">")
        if domain == b"never.test":
            return b"550 never\r\n"
        stale = fake.connections == 1
        return b"553 no\r\n" if stale and domain not in known else None

    fake.judge = judge
    async with running(lambda _: accept(), fake=fake) as front:
        assert await codes(front) == [250, 250, 354, 250]
        assert await codes(front, *recipients) == expected
        wanted = [b"TO:<%s>" % r for r in recipients if b"never" not in r]
        assert fake.received[-1].recipients == wanted
        assert len(fake.received) == 2


@pytest.mark.fault("N21")
async def test_more_recipients_than_are_remembered() -> None:
    """They cannot be told to a new connection: a refusal is put off, and never passed
    on from an old one; what was accepted stays accepted."""
    fake = FakeQmail()
    limits = Limits(recipients=0, commands=0)
    settings = DoorSettings(received=False, session=limits)
    async with running(lambda _: accept(), fake=fake, settings=settings) as front:
        assert await codes(front) == [250, 250, 354, 250]
        fake.script["RCPT TO:<refused@example.test>"] = b"550 perhaps\r\n"
        many = [b"%s%d@example.test" % (b"x" * 200, n) for n in range(400)]
        got = await codes(front, *many, b"refused@example.test")
        assert got == [250] + [250] * 400 + [451, 354, 250]
        assert len(fake.received[-1].recipients) == 400
        assert fake.connections == 1


@pytest.mark.fault("N21")
async def test_a_refused_sender_over_a_used_connection_is_asked_again() -> None:
    async with running() as front:
        assert await codes(front) == [250, 250, 354, 250]
        front.fake.once["MAIL"] = b"553 badmailfrom, once\r\n"
        assert await codes(front) == [250, 250, 354, 250]
        front.fake.script["MAIL"] = b"553 badmailfrom\r\n"
        assert await codes(front) == [250, 553, 503]


@pytest.mark.fault("N21")
async def test_an_accepted_recipient_that_is_refused_then_is_later() -> None:
    """No answer that was given is taken back: 451, and nothing is delivered."""
    fake = FakeQmail()

    def judge(argument: bytes) -> bytes | None:
        first = fake.connections == 1
        return b"553 no\r\n" if first == (b"new" in argument) else None

    async with running(lambda _: accept(), fake=fake) as front:
        assert await codes(front) == [250, 250, 354, 250]
        fake.judge = judge
        got = await codes(front, b"a@example.test", b"a@new.test")
        assert got == [250, 250, 451, 451]
        assert len(fake.received) == 1


@pytest.mark.fault("N8")
async def test_a_refused_auth_holds_no_connection() -> None:
    fake = FakeQmail(mechanisms=b"PLAIN", users={b"alice": b"right"})
    backend = BackendSettings(learn_auth=True)
    async with running(fake=fake, settings=AUTH, backend=backend) as front:
        await codes(front)  # learns that AUTH is offered
        async with AsyncExitStack() as stack:
            for _ in range(45):
                client = await stack.enter_async_context(
                    await RawClient.connect(front.port)
                )
                await client.reply()
                await client.command(b"EHLO c.test")
                assert (await client.command(BAD))[:3] == b"535"
            await front.until(lambda: front.backend.connections <= 1)
            assert len(front.door.sessions) == 45


@pytest.mark.fault("N27")
@pytest.mark.parametrize("kept", [0, 8])
async def test_an_ended_transaction_holds_no_connection(kept: int) -> None:
    """However it ended: RSET, EHLO, another MAIL, a message, a refusal."""
    ends = [b"RSET", b"EHLO c.test", b"MAIL FROM:<>", b"HELO c.test"]
    async with (
        running(backend=BackendSettings(kept=kept)) as front,
        AsyncExitStack() as stack,
    ):
        for number in range(45):
            client = await stack.enter_async_context(
                await RawClient.connect(front.port)
            )
            await client.reply()
            if number % 5 == 4:
                await client.deliver(b"", A, b"x\r\n")
            else:
                await client.command(b"MAIL FROM:<>")
                assert (await client.command(b"RCPT TO:<a@example.test>"))[:3] == b"250"
                assert (await client.command(ends[number % 5]))[:3] == b"250"
        if not kept:  # nobody else's: for as long as an idle one
            front.pass_time(front.backend.settings.kept_seconds + 1)
        await front.until(lambda: front.backend.connections <= 1)
        assert front.of(BackendFailed) == []


@pytest.mark.fault("N27")
async def test_clients_that_have_delivered_do_not_fill_the_backend() -> None:
    settings = BackendSettings(connections=2, connection_wait=0)
    async with running(backend=settings) as front, AsyncExitStack() as stack:
        for _ in range(4):
            client = await stack.enter_async_context(
                await RawClient.connect(front.port)
            )
            await client.reply()
            got = await client.deliver(b"", A, b"x\r\n")
            assert got == [250, 250, 354, 250]
        assert front.fake.connections == 1


@pytest.mark.fault("N18")
@pytest.mark.parametrize(
    ("said", "expected"), [(b"550 go away\r\n", 550), (b"450 later\r\n", 450)]
)
async def test_a_refusal_of_the_clients_name_is_not_walked_around(
    said: bytes, expected: int
) -> None:
    fake = FakeQmail(script={"EHLO": said})
    async with running(fake=fake) as front:
        assert await codes(front) == [250, expected, 503]
        assert not any(c.startswith(b"HELO") for c in fake.commands)
        assert "go away" in str(front.of(BackendFailed)) or expected == 450


@pytest.mark.fault("N18")
@pytest.mark.parametrize("said", [b"500 what\r\n", b"502 unimplemented\r\n"])
async def test_a_server_without_ehlo_hears_the_clients_own_name(said: bytes) -> None:
    fake = FakeQmail(script={"EHLO": said})
    async with running(fake=fake) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"EHLO client.test")
            assert (await client.deliver(b"", A, b"x\r\n"))[-1] == 250
        assert b"HELO client.test" in fake.commands


@pytest.mark.fault("N11")
@pytest.mark.parametrize("said", [b"550-x\r\n250 y\r\n", b"250-x\r\n550 y\r\n"])
async def test_a_reply_with_two_codes_is_none(said: bytes) -> None:
    async with running(fake=FakeQmail(script={"dot": said})) as front:
        assert await codes(front) == [250, 250, 354, 451]


@pytest.mark.fault("N12")
async def test_the_first_digit_counts() -> None:
    async with running(fake=FakeQmail(script={"dot": b"251 ok\r\n"})) as front:
        assert await codes(front) == [250, 250, 354, 251]
        (ended,) = front.of(MessageEnded)
        assert getattr(ended, "outcome", "") == "accepted"


@pytest.mark.fault("N21")
def test_files_are_looked_for_below_the_root(tmp_path: Path) -> None:
    """Where control/ is a link, as in Debian's packages, and the root is not /."""
    (tmp_path / "etc/qmail").mkdir(parents=True)
    (tmp_path / "var/qmail").mkdir(parents=True)
    (tmp_path / "var/qmail/control").symlink_to("/etc/qmail")
    file = tmp_path / "backstop.toml"
    file.write_text(
        f'[qmail]\nroot = "{tmp_path}"\n[listen]\ntcprules = "/etc/my.cdb"\n'
    )
    config = load(file, {})
    found = startup_files(config)
    assert found[0] == str(tmp_path / "etc/qmail")
    assert found[-1] == str(tmp_path / "etc/my.cdb")
    assert str(tmp_path / "etc/tcp.smtp.cdb") in found


@pytest.mark.fault("N18", "N21")
async def test_a_refused_name_over_a_used_connection_is_asked_again() -> None:
    async with running() as front:
        assert await codes(front) == [250, 250, 354, 250]
        front.fake.once["EHLO"] = b"550 as it was\r\n"
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"EHLO another.test")
            assert await client.deliver(b"", A, b"x\r\n") == [250, 250, 354, 250]
        assert front.fake.connections == 2
        assert front.of(BackendFailed) == []
