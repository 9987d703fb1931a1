"""I: nothing that a stranger or a backend says becomes a command, a reply, a
log line, a label or a file name of its own.
"""

from __future__ import annotations

import io
import re

import pytest

from proxy.front.door import DoorSettings
from proxy.observe.events import BackendRefusedRecipient, Event, RecipientDecided
from proxy.observe.lines import Form
from proxy.observe.log import Logger
from proxy.observe.metrics import Metrics
from proxy.rules.verdict import Answer, Kind, Question, Verdict
from proxy.smtp.driver import Limits
from proxy.smtp.reply import Reply
from tests.support.backend import FakeQmail
from tests.support.driver import codes
from tests.support.files import ALICE, ask, mail_host_files
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

MAIL = b"MAIL FROM:<a@b.test>"
RCPT = b"RCPT TO:<a@example.test>"
FREE = DoorSettings(received=False, session=Limits(unknown_recipients=0, errors=0))


async def said(port: int, *lines: bytes) -> list[bytes]:
    """The replies to these lines, each sent with CRLF."""
    async with await RawClient.connect(port) as client:
        await client.reply()
        return [await client.command(line) for line in lines]


# Commands.

ENCODED = b"=?utf-8?q?x=40evil.test=3E=0D=0ARCPT_TO=3A=3Cy=40evil.test=3E?="


@pytest.mark.parametrize(
    "local",
    [
        pytest.param(ENCODED, id="I-encoded-word-crlf"),
        pytest.param(b"=?utf-8?q?postmaster?=", id="I-encoded-word-local"),
        pytest.param(b"=?utf-8?b?cG9zdG1hc3Rlcg==?=", id="I-encoded-word-base64"),
        pytest.param(b"a(comment)", id="I-comment"),
        pytest.param(b"a%0d%0aRCPT TO:x", id="I-percent"),
        pytest.param(b"a+0D+0A", id="I-xtext"),
    ],
)
async def test_an_address_is_not_decoded(local: bytes) -> None:
    """The rules and the backend get the bytes; for qmail they are a name."""
    asked = []

    def rule(question: Question) -> Answer:
        asked.append(question.recipient)
        return Verdict(Kind.ACCEPT, Reply(250, b"ok"), "test", "test")

    line = b"RCPT TO:<" + local + b"@example.test>"
    async with running(rule) as front:
        assert codes((await said(front.port, MAIL, line))[1]) == [250]
        assert asked == [local + b"@example.test"]
        assert [c for c in front.fake.commands if c[:4] == b"RCPT"] == [line]
    files = mail_host_files()
    files.file(b"/var/qmail/alias/.qmail-postmaster", b"&alice\n")
    assert ask(files, local + b"@example.test").outcome.value == "bounce"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param(b"EHLO a\rMAIL FROM:<evil@b.test>", 501, id="I-helo-cr"),
        pytest.param(b"EHLO a\0b", 501, id="I-helo-nul"),
        pytest.param(b"HELO a\x1b[31m", 501, id="I-helo-ansi"),
        pytest.param(b"MAIL FROM:<a@b.test> SIZE=1\rRSET", 501, id="I-param-cr"),
        pytest.param(b"MAIL FROM:<a@b.test> X=\0", 501, id="I-param-nul"),
        pytest.param(b"RCPT TO:<a@example.test> ORCPT=x\rRSET", 501, id="I-orcpt-cr"),
        pytest.param(b"RCPT TO:<a@example.test> ORCPT=\x7f", 501, id="I-orcpt-del"),
    ],
)
async def test_a_control_byte_is_refused(line: bytes, code: int) -> None:
    async with running() as front:
        assert codes((await said(front.port, line))[0]) == [code]
        assert front.fake.commands == []


@pytest.mark.parametrize(
    ("line", "evil"),
    [
        pytest.param(b"EHLO a\r\nEVIL x", b"EVIL", id="I-helo-crlf"),
        pytest.param(b"EHLO a\nEVIL x", b"EVIL", id="I-helo-lf"),
        pytest.param(MAIL + b" SIZE=1\r\nEVIL x", b"EVIL", id="I-param-crlf"),
        pytest.param(RCPT + b" ORCPT=x\r\nEVIL x", b"EVIL", id="I-orcpt-crlf"),
        pytest.param(RCPT + b" ORCPT=x+0D+0AEVIL", b"EVIL", id="I-orcpt-xtext"),
    ],
)
async def test_a_line_end_ends_the_command_here(line: bytes, evil: bytes) -> None:
    """What follows is a command of its own, judged here: the backend gets
    whole lines that were made here, and none of it."""
    async with running() as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.send(line + b"\r\n" + MAIL + b"\r\n" + RCPT + b"\r\nQUIT\r\n")
            await client.rest()
        await front.settled()
        told = b"\n".join(front.fake.commands)
        assert MAIL in told
        assert evil not in told


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("late", [False, True])
async def test_i_rcpt_crlf_via_every_rule_output(kind: Kind, late: bool) -> None:
    """I-rcpt-crlf-via-every-rule-output: a rule's texts may come from anywhere;
    none ends a line."""
    code = {Kind.ACCEPT: 250, Kind.REJECT: 550, Kind.DEFER: 451}[kind]
    evil = b"x\r\nRCPT TO:<evil@evil.test>\r\n250 ok"
    text = evil.decode()

    async def awaited() -> Answer:
        return Verdict(kind, Reply(code, evil), text, text)

    def rule(question: Question) -> Answer:
        return Verdict(kind, Reply(code, evil), text, text)

    async with running((lambda q: awaited()) if late else rule) as front:
        replies = await said(front.port, MAIL, RCPT, b"NOOP")
        assert codes(b"".join(replies)) == [250, code, 250]
        assert replies[1].count(b"\n") == 1
        assert not any(b"evil" in command for command in front.fake.commands)
        assert_one_line_each(front.events)


async def test_a_helo_that_is_no_name_is_not_in_our_received_line() -> None:
    async with running(settings=DoorSettings()) as front:
        for helo in (b"a (x) by evil;", b"\xff\xfe", b"[1.2.3.4]\tx"):
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"EHLO " + helo)
                got = await client.deliver(b"", [b"a@example.test"], b"x\r\n")
                assert got[-1] == 250
            top = front.fake.received[-1].message.partition(b"+0000\r\n")[0]
            assert top.startswith(b"Received: from [127.0.0.1] ([127.0.0.1])\r\n")


# Replies.

LINE = re.compile(rb"[2-5][0-9][0-9][ -][ -~]{0,506}\r\n")
REPLIES = {
    "I-reply-multiline": (b"%d-one\r\n%d-two\r\n%d three\r\n", 3),
    "I-reply-utf8": (b"%d caf\xc3\xa9 \xff\r\n", 1),
    "I-reply-ctrl": (b"%d a\x1b[31m\0\x07\tb\r\n", 1),
    "I-reply-cr-inside": (b"%d a\r250 evil\r\n", 1),
    "I-reply-lf-only": (b"%d a\n", 1),
    "I-reply-no-text": (b"%d\r\n", 1),
    "I-reply-2KB": (b"%d " + b"x" * 2048 + b"\r\n", 1),
    "I-reply-200-lines": (b"%d-x\r\n" * 99 + b"%d x\r\n", 100),
}


@pytest.mark.parametrize(("text", "lines"), REPLIES.values(), ids=[*REPLIES.keys()])
@pytest.mark.parametrize(
    ("step", "code"),
    [
        *(("RCPT", 250), ("RCPT", 452), ("RCPT", 554), ("DATA", 452)),
        *(("DATA", 554), ("dot", 250), ("dot", 452), ("dot", 554)),
    ],
)
async def test_a_backends_reply(text: bytes, lines: int, step: str, code: int) -> None:
    """Well-formed ASCII lines reach the client, and the code stays."""
    wire = text % ((code,) * text.count(b"%d"))
    async with running(fake=FakeQmail({step: wire})) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(MAIL)
            reply = await client.command(RCPT)
            if step != "RCPT":
                reply = await client.command(b"DATA")
            if step == "dot":
                await client.send(b"x\r\n.\r\n")
                reply = await client.reply()
            assert codes(reply) == [code]
            found = reply.splitlines(keepends=True)
            assert len(found) == lines
            assert all(LINE.fullmatch(each) for each in found)
            assert (await client.command(b"NOOP"))[:3] == b"250"
        await front.settled()
        assert_one_line_each(front.events)


# The log and the metrics.


def assert_one_line_each(events: list[Event]) -> None:
    forms: list[Form] = ["logfmt", "bare", "json"]
    for form in forms:
        stream = io.BytesIO()
        logger = Logger(stream, form=form, level="debug", now=lambda: 0.0)
        for event in events:
            logger(event)
        lines = stream.getvalue().split(b"\n")
        assert lines.pop() == b""
        assert len(lines) == len(events)
        assert all(re.fullmatch(rb"[ -~]+", line) for line in lines)


async def hostile_session(front: Front) -> None:
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        # C1 controls: a terminal may take 0x9b for the beginning of a sequence.
        await client.command(b"EHLO \x9b31m\x85 level=error\xff")
        await client.command(b'MAIL FROM:<"a\\" verdict=accept \x9b"@b.test>')
        for number in range(200):
            line = b'RCPT TO:<no%d\\"} 1\x85event=x\t\x9b2J@example.test>' % number
            assert (await client.command(line))[:3] == b"550"
        await client.command(b"EVIL \x9b31m")
        await client.command(b"RCPT TO:<full\x9b@example.test>")
    await front.settled()


async def test_i_log_newline_and_i_log_ansi() -> None:
    """I-log-newline, I-log-ansi: one line for each event, whatever is in it."""
    fake = FakeQmail({"RCPT": b"550-\x1b[2Jgone\x9b\r\n550 level=error event=x\r\n"})
    async with running(fake=fake, settings=FREE) as front:
        await hostile_session(front)
        assert len(front.of(RecipientDecided)) == 201
        assert len(front.of(BackendRefusedRecipient)) == 1
        assert_one_line_each(front.events)


async def test_bad_commands_are_not_logged_at_all() -> None:
    """So nobody can fill the log with them."""
    bad = [b"EVIL", b"RCPT TO:<a\0>", b"x" * 4000, b"", b"DATA", b"\xff" * 100]
    async with (
        running(settings=FREE) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        before = len(front.events)
        await client.send(b"".join(line + b"\r\n" for line in bad) * 100)
        for _ in range(600):
            assert await client.code() in (500, 501, 502, 503)
        assert len(front.events) == before


async def test_i_metrics_label() -> None:
    """I-metrics-label: nothing of what is sent is one; the number of series stays."""
    metrics = Metrics()
    fake = FakeQmail({"RCPT": b"550 gone \x9b\r\n"})
    async with running(fake=fake, settings=FREE) as front:
        await hostile_session(front)
        for event in front.events:
            metrics(event)
        once = metrics.render()
        for _ in range(3):
            for event in front.events:
                metrics(event)
    series = [line.rpartition(b" ")[0] for line in once.splitlines()]
    again = [line.rpartition(b" ")[0] for line in metrics.render().splitlines()]
    assert series == again
    for text in (b"no1", b"full", b"\x9b", b"level=error", b"127.0.0.1"):
        assert text not in b"\n".join(series)


# Files.


@pytest.mark.parametrize(
    "local",
    [
        b"../../../etc/passwd",
        b"alice-../../../etc/passwd",
        b"alice-/etc/passwd",
        b"alice-x/../../bob/.qmail",
        b"alice-../bob/.qmail",
        b"/etc/passwd",
        b"alice-..",
        b"alice-/",
        b".",
        b"alice-" + b"x" * 250,
        b"alice-" + b"a/" * 125,
        b"alice-" + b"-" * 250,
        b"alice-x\0/../../../etc/passwd",
    ],
    ids=repr,
)
def test_i_path(local: bytes) -> None:
    """I-path: a name is looked up as it is; no file outside of the home is
    opened, and above all not one whose name was sent."""
    files = mail_host_files()
    files.dir(b"/home/alice/.qmail-x", 0o755, ALICE, ALICE)
    files.file(b"/home/alice/.qmail-default", b"./Mailbox\n", uid=ALICE, gid=ALICE)
    before = set(files.opened)
    ask(files, local + b"@example.test")
    opened = set(files.opened) - before
    control = b"/var/qmail/control/"
    assert {name for name in opened if not name.startswith(control)} <= {
        b"/etc/passwd",  # the table of accounts itself
        b"/etc/group",
        b"/home/alice/.qmail",
        b"/home/alice/.qmail-default",
    }
