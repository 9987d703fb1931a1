"""Plugins of qmail-spp in the dialogue: at DATA, after AUTH, and what they change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.backend.settings import BackendSettings
from proxy.front.door import DoorSettings
from proxy.observe.events import (
    AuthEnded,
    Event,
    MessageEnded,
    Notice,
    RecipientDecided,
)
from proxy.qmail.host import QmailHost
from proxy.rules.verdict import Question, Rule, Verdict
from proxy.smtp import replies
from proxy.smtp.driver import Limits
from tests.front.test_auth import GOOD, qmail
from tests.support.asked import Asked
from tests.support.backend import FakeQmail
from tests.support.files import Files
from tests.support.front import CallRule, Front, accept, running
from tests.support.offers import known
from tests.support.smtp_client import RawClient

SETTINGS = DoorSettings(received=True, session=Limits(auth_needs_tls=False))
BOB = b"bob@example.test"


STANDIN = Path(__file__).parent.parent / "support/standin.py"


def plugins(
    root: Path, texts: dict[str, str], keys: dict[str, Any], **more: Any
) -> Asked:
    lines = []
    for name, text in texts.items():
        path = root / "var/qmail/plugins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        lines += [f"[{name}]", f"plugins/{name}"]
    files = Files()
    files.control(b"smtpplugins", "\n".join([*lines, ""]).encode())
    return Asked("qmail-spp", keys, os.fsencode(root), QmailHost(files), **more)


@contextlib.asynccontextmanager
async def front_with(
    root: Path,
    texts: dict[str, str],
    *,
    fake: FakeQmail | None = None,
    observe: bool = False,
    auth: bool = False,
    **keys: Any,
) -> AsyncIterator[tuple[Front, RawClient]]:
    """A front door with these plugins, and a client that has been greeted."""
    it = plugins(root, texts, keys)
    backend = BackendSettings(learn_auth=auth)
    async with running(
        fake=fake, settings=SETTINGS, backend=backend, first=[it.rule], observe=observe
    ) as front:
        async with contextlib.AsyncExitStack() as stack:
            if auth:
                await stack.enter_async_context(known(front))
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"EHLO me.test")
                yield front, client
            await front.settled()
        await it.rule.close()


async def envelope(client: RawClient, recipient: bytes = BOB) -> list[int]:
    await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<%s>\r\n" % recipient)
    return [await client.code(), await client.code()]


def messages(front: Front) -> list[tuple[str, str]]:
    found: list[Event] = front.of(MessageEnded)
    return [(e.outcome, e.reply) for e in found if isinstance(e, MessageEnded)]


async def test_header_lines_go_behind_our_received_line(tmp_path: Path) -> None:
    texts = {
        "connection": "echo HX-One: 1",
        "rcpt": "printf 'HX-Two: 2\\nH\\tfolded\\nHno field\\n'",
        "data": "echo 'HX-Three: 3'",
    }
    async with front_with(tmp_path, texts) as (front, client):
        for _ in range(2):
            got = await client.deliver(b"a@b.test", [BOB], b"Subject: x\r\n\r\ny\r\n")
            assert got == [250, 250, 354, 250]
        first, second = (each.message for each in front.fake.received)
        assert first.startswith(b"Received: from me.test ")
        head = b"\r\nX-One: 1\r\nX-Two: 2\r\n\tfolded\r\nX-Three: 3\r\nSubject: x\r\n"
        assert head in first
        # The section connection is run once, and its line was in the first message.
        assert b"X-One" not in second
        assert b"\r\nX-Two: 2\r\n\tfolded\r\nX-Three: 3\r\nSubject: x\r\n" in second


@pytest.mark.parametrize("between", [b"RSET", b"NOOP"])
async def test_rset_takes_header_lines_away(tmp_path: Path, between: bytes) -> None:
    rcpt = "[ $SMTPRCPTTO = no@example.test ] && echo 'HX-A: b'; exit 0"
    async with front_with(tmp_path, {"rcpt": rcpt}) as (front, client):
        assert await envelope(client, b"no@example.test") == [250, 550]
        await client.command(between)
        got = await client.deliver(b"a@b.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        (one,) = front.fake.received
        assert (b"X-A: b" in one.message) is (between == b"NOOP")


async def test_data_may_be_refused_and_the_transaction_stays(tmp_path: Path) -> None:
    """As qmail-smtpd with the patch: DATA can be said again."""
    sign = tmp_path / "ok"
    data = f"[ -e {sign} ] || printf 'P450-first\\nE450 4.7.1 later\\n'"
    async with front_with(tmp_path, {"data": data, "rcpt": "true"}) as (front, client):
        assert await envelope(client) == [250, 250]
        assert await client.command(b"DATA") == b"450-first\r\n450 4.7.1 later\r\n"
        assert b"DATA" not in front.fake.commands
        assert messages(front) == [("deferred", "450 first")]
        sign.touch()
        await client.send(b"DATA\r\n")
        assert await client.code() == 354
        await client.send(b"x\r\n.\r\n")
        assert await client.code() == 250
        assert front.fake.received[0].recipients == [b"TO:<%s>" % BOB]


async def test_after_a_refused_data_another_transaction(tmp_path: Path) -> None:
    data = '[ "$SMTPMAILFROM" = a@b.test ] && echo "E554 no"; exit 0'
    async with front_with(tmp_path, {"data": data, "rcpt": "true"}) as (front, client):
        assert await envelope(client) == [250, 250]
        assert await client.command(b"DATA") == b"554 no\r\n"
        got = await client.deliver(b"c@d.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        assert [m.mail for m in front.fake.received] == [b"FROM:<c@d.test>"]


@pytest.mark.parametrize(
    ("says", "wire"),
    [("R554 go", b"554 go\r\n"), ("D", replies.HANG_UP.wire)],
)
@pytest.mark.parametrize("section", ["rcpt", "data"])
async def test_the_end_of_the_connection(
    tmp_path: Path, section: str, says: str, wire: bytes
) -> None:
    texts = {"rcpt": "true", section: f"echo '{says}'"}
    async with front_with(tmp_path, texts) as (front, client):
        await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<%s>\r\nDATA\r\n" % BOB)
        before = 1 + (section == "data")
        assert [await client.code() for _ in range(before)] == [250] * before
        assert await client.rest() == wire
        assert not front.fake.received


async def test_an_answer_stored_for_data(tmp_path: Path) -> None:
    async with front_with(tmp_path, {"rcpt": "echo 'LD451 later'"}) as (_, client):
        assert await envelope(client) == [250, 250]
        assert await client.command(b"DATA") == b"451 later\r\n"
        assert await client.command(b"DATA") == b"451 later\r\n"


async def test_a_plugin_that_fails_at_data_is_a_deferral(tmp_path: Path) -> None:
    texts = {"rcpt": "true", "data": "kill -9 $$"}
    async with front_with(tmp_path, texts) as (_, client):
        assert await envelope(client) == [250, 250]
        assert await client.command(b"DATA") == replies.INTERNAL.wire


async def test_one_that_is_slow_is_a_deferral(tmp_path: Path) -> None:
    slow = front_with(tmp_path, {"rcpt": "true", "data": "exec sleep 600"}, timeout=2)
    async with slow as (_, client):
        assert await envelope(client) == [250, 250]
        assert await client.command(b"DATA") == replies.INTERNAL.wire
        assert await client.command(b"NOOP") == replies.OK.wire


async def test_the_backend_is_lost_while_a_plugin_thinks(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    texts = {"rcpt": "true", "data": f": > {ready}; exec sleep 600"}
    async with front_with(tmp_path, texts) as (front, client):
        assert await envelope(client) == [250, 250]
        await client.send(b"DATA\r\nNOOP\r\n")
        await front.until(ready.exists)
        front.fake.hang_up()
        assert [await client.code(), await client.code()] == [451, 250]
        assert await envelope(client) == [250, 250]


async def test_the_client_leaves_while_a_plugin_thinks(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    texts = {"rcpt": "true", "data": f": > {ready}; exec sleep 600"}
    async with front_with(tmp_path, texts) as (front, client):
        assert await envelope(client) == [250, 250]
        await client.send(b"DATA\r\n")
        await front.until(ready.exists)
        client.reset()
        await front.settled()
        assert not front.fake.dots


async def test_observe_mode_lets_all_pass_and_changes_nothing(tmp_path: Path) -> None:
    texts = {"rcpt": "echo Cx@example.test", "data": "printf 'HX-A: b\\nE554 no\\n'"}
    async with front_with(tmp_path, texts, observe=True) as (front, client):
        got = await client.deliver(b"a@b.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        (one,) = front.fake.received
        assert one.recipients == [b"TO:<%s>" % BOB]
        assert b"X-A" not in one.message
        (told,) = front.of(Notice)
        assert isinstance(told, Notice)
        assert told.text.endswith(
            'DATA would have been answered "554 no": plugins/data says E554 no'
        )


@pytest.mark.parametrize("found", ["accept", "pass"])
async def test_a_changed_recipient(tmp_path: Path, found: str) -> None:
    """C: the rules that follow are asked for the other address, and the backend is
    told of it."""
    rcpt = """case $SMTPRCPTTO in
a@*) echo 'Cq"u\\o>te@example.test';; b@*) echo Cno@example.test;; esac"""
    made = front_with(tmp_path, {"rcpt": rcpt}, found=found)
    async with made as (front, client):
        await client.command(b"MAIL FROM:<a@b.test>")
        got = [
            await client.command(b"RCPT TO:<%s@example.test>" % name)
            for name in (b"a", b"b", b"c")
        ]
        second = 250 if found == "accept" else 550
        assert [int(each[:3]) for each in got] == [250, second, 250]
        await client.send(b"DATA\r\n")
        assert await client.code() == 354
        await client.send(b"x\r\n.\r\n")
        assert await client.code() == 250
        told = [b'TO:<q\\"u\\\\o\\>te@example.test>', b"TO:<c@example.test>"]
        if found == "accept":
            told.insert(1, b"TO:<no@example.test>")
        assert front.fake.received[0].recipients == told
        asked = [e.recipient for e in front.events if isinstance(e, RecipientDecided)]
        assert asked == [b"a@example.test", b"b@example.test", b"c@example.test"]


@pytest.mark.parametrize("to", ["@x:y@example.test", "tab\\there@example.test"])
async def test_an_address_that_cannot_be_said_is_not_made(
    tmp_path: Path, to: str
) -> None:
    async with front_with(tmp_path, {"rcpt": f"printf 'C{to}\\n'"}) as (front, client):
        got = await client.deliver(b"a@b.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        assert front.fake.received[0].recipients == [b"TO:<%s>" % BOB]


async def test_auth_is_heard_by_plugins(tmp_path: Path) -> None:
    auth = (
        '[ "$SMTPAUTHUSER $SMTPAUTHMETHOD $SMTPHELOHOST" = "alice plain me.test" ]'
        " || echo E535 odd; exit 0"
    )
    made = front_with(tmp_path, {"auth": auth}, fake=qmail(), auth=True)
    async with made as (front, client):
        assert (await client.command(GOOD))[:3] == b"235"
        got = await client.deliver(b"a@b.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        assert front.fake.commands.count(GOOD) == 1


@pytest.mark.parametrize(
    ("says", "code", "outcome"),
    [
        ("E535 not you", 535, "refused"),
        ("R554 no", 554, "refused"),
        ("D", 421, "deferred"),
    ],
)
async def test_whom_a_plugin_refuses_after_auth_is_nobody(
    tmp_path: Path, says: str, code: int, outcome: str
) -> None:
    """Not to us, and not to the backend."""
    texts = {"auth": f"echo '{says}'", "rcpt": "true"}
    made = front_with(tmp_path, texts, fake=qmail(), auth=True)
    async with made as (front, client):
        assert int((await client.command(GOOD))[:3]) == code
        ended = [e for e in front.events if isinstance(e, AuthEnded)]
        assert [(e.outcome, e.code, e.user) for e in ended] == [(outcome, code, b"")]
        if says[0] in "RD":
            assert await client.rest() == b""
            return
        before = front.fake.connections
        got = await client.deliver(b"a@b.test", [b"x@elsewhere.test"], b"x\r\n")
        assert got == [250, 553, 503]
        got = await client.deliver(b"a@b.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        assert front.fake.connections == before + 1


async def test_the_backend_is_lost_while_a_plugin_thinks_of_auth(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    texts = {"auth": f": > {ready}; exec sleep 600"}
    async with front_with(tmp_path, texts, fake=qmail(), auth=True) as (front, client):
        await client.send(GOOD + b"\r\n")
        await front.until(ready.exists)
        front.fake.hang_up()
        assert await client.code() == 451
        got = await client.deliver(b"a@b.test", [b"x@elsewhere.test"], b"x\r\n")
        assert got == [250, 553, 503]


async def test_other_sessions_go_on_meanwhile(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    os.mkfifo(go)
    data = f"case $SMTPMAILFROM in a@*) : > {ready}; cat {go};; esac"
    texts = {"rcpt": "true", "data": data}
    async with (
        front_with(tmp_path, texts) as (front, client),
        await RawClient.connect(front.port) as other,
    ):
        await other.reply()
        assert await envelope(client) == [250, 250]
        await client.send(b"DATA\r\n")
        await front.until(ready.exists)
        got = await other.deliver(b"c@b.test", [BOB], b"x\r\n")
        assert got == [250, 250, 354, 250]
        await asyncio.to_thread(go.write_text, "E550 no\n")
        assert await client.code() == 550


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("x@y.test", b"FROM:<x@y.test> BODY=8BITMIME"),
        ("", b"FROM:<> BODY=8BITMIME"),
        ('q"u>o@y.test', b'FROM:<q\\"u\\>o@y.test> BODY=8BITMIME'),
    ],
)
async def test_a_changed_sender(tmp_path: Path, to: str, told: bytes) -> None:
    """C at MAIL: the backend is told of it, with the client's own parameters, and so
    are the plugins and rules that follow; another mail has its own."""
    mail = f"case $SMTPMAILFROM in a@*) echo 'C{to}';; esac"
    texts = {
        "mail": mail,
        "rcpt": 'echo "HX-From: $SMTPMAILFROM"',
        "data": "echo HX: y",
    }
    async with front_with(tmp_path, texts) as (front, client):
        for sender in (b"a@b.test", b"c@b.test"):
            await client.command(b"MAIL FROM:<%s> BODY=8BITMIME" % sender)
            for user, code in ((b"no", 550), (b"bob", 250), (b"eve", 250)):
                rcpt = b"RCPT TO:<%s@example.test>" % user
                assert int((await client.command(rcpt))[:3]) == code
            await client.command(b"DATA")
            await client.send(b"x\r\n.\r\n")
            assert await client.code() == 250
        first, second = front.fake.received
        assert first.mail == told
        assert b"X-From: %s\r\n" % to.encode() * 3 in first.message
        assert second.mail == b"FROM:<c@b.test> BODY=8BITMIME"
        ended = [e.sender for e in front.events if isinstance(e, MessageEnded)]
        assert ended == [to.encode(), b"c@b.test"]
        asked = [e.sender for e in front.events if isinstance(e, RecipientDecided)]
        assert asked[:3] == [b"a@b.test", b"a@b.test", to.encode()]


@pytest.mark.parametrize("observe", [True, False])
async def test_a_sender_that_cannot_be_said_or_changed_stays(
    tmp_path: Path, observe: bool
) -> None:
    says = "x@y.test" if observe else "tab\\there@y.test"
    texts = {"mail": f"printf 'C{says}\\n'"}
    async with front_with(tmp_path, texts, observe=observe) as (front, client):
        got = await client.deliver(b"a@b.test", [BOB, BOB], b"x\r\n")
        assert got == [250, 250, 250, 354, 250]
        assert front.fake.received[0].mail == b"FROM:<a@b.test>"
        assert len(front.of(Notice)) == (not observe)


async def test_a_sender_that_the_backend_knows_stays(tmp_path: Path) -> None:
    """A rule before the plugins has let a recipient in; so MAIL is over."""
    it = plugins(tmp_path, {"mail": "echo Cx@y.test"}, {})

    def known(question: Question) -> Verdict | None:
        return accept() if question.recipient.startswith(b"alice") else None

    first: list[Rule] = [CallRule(known), it.rule]
    async with (
        running(settings=SETTINGS, first=first) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        to = [b"alice@example.test", BOB, BOB]
        got = await client.deliver(b"a@b.test", to, b"x\r\n")
        assert got == [250, 250, 250, 250, 354, 250]
        assert front.fake.received[0].mail == b"FROM:<a@b.test>"
        (told,) = front.of(Notice)
        assert isinstance(told, Notice)
        assert "the sender should become x@y.test: not done" in told.text
    await it.rule.close()


async def test_pass_may_refuse_and_change(tmp_path: Path) -> None:
    texts = {
        "rcpt": "true",
        "pass": "case $SMTPRCPTTO in a@*) echo 'E550 5.7.1 full';;"
        " b@*) echo Cc@example.test;; d@*) echo Cx@elsewhere.test;; esac",
    }
    async with front_with(tmp_path, texts) as (front, client):
        to = [b"%s@example.test" % each for each in (b"a", b"no", b"b", b"d")]
        got = await client.deliver(b"a@b.test", to, b"x\r\n")
        assert got == [250, 550, 550, 250, 250, 354, 250]
        assert front.fake.received[0].recipients[0] == b"TO:<c@example.test>"


@pytest.mark.parametrize("within", [False, True])
async def test_variables_for_a_program_in_the_backends_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    """Those that plugins have set or taken away when it is started; another mail of
    the session gets another program, if they are others."""
    texts = {
        "connection": "printf 'SONE=1\\nSRELAYCLIENT=\\nUTHREE\\n'",
        "mail": 'echo "STWO=$SMTPMAILFROM"',
    }
    monkeypatch.setenv("THREE", "x")
    it = plugins(tmp_path, texts, {}, tells_backend=True)
    told = tmp_path / "told"
    show = 'echo "$ONE $TWO ${THREE-none} ${RELAYCLIENT-none}" >> "$0"; exec "$@"'
    command = ("/bin/sh", "-c", show, str(told), sys.executable, "-I", str(STANDIN))
    backend = BackendSettings(command=(*command, str(tmp_path)))
    mails = [b"a@b.test", b"a@b.test", b"c@b.test"]
    async with (
        running(settings=SETTINGS, backend=backend, first=[it.rule]) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        for sender in mails:
            if within:  # in the middle of another one
                await client.send(b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (sender, BOB))
                assert [await client.code(), await client.code()] == [250, 250]
                await client.command(b"RSET")
            got = await client.deliver(sender, [BOB, BOB], b"x\r\n")
            assert got == [250, 250, 250, 354, 250]
    await it.rule.close()
    assert told.read_text() == "1 a@b.test none none\n1 c@b.test none none\n"
    assert sum(name.startswith("mail-") for name in os.listdir(tmp_path)) == len(mails)
