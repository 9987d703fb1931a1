"""O-every-refusal: a reason, a log line, a metric and a place in the documents.

And what the client is told when the front door itself is at fault: nothing.
"""

from __future__ import annotations

import io
import logging
import pathlib

import pytest

from proxy.front.door import DoorSettings
from proxy.observe.events import Disconnected, RecipientDecided
from proxy.observe.log import Logger
from proxy.observe.metrics import Metrics
from proxy.qmail.decide import Outcome
from proxy.qmail.host import HostSettings, QmailHost
from proxy.rules.qmail import _ANSWERS, QmailRule
from proxy.rules.verdict import Kind
from proxy.smtp.driver import Limits
from tests.support.files import ALICE, Files, mail_host_files
from tests.support.front import running
from tests.support.smtp_client import RawClient
from tests.support.vpopmail_host import (
    DOMAIN,
    HOME,
    account,
    cdb_accounts,
    own,
    vpopmail_files,
    vpopmail_keys,
)

REPLIES = (pathlib.Path(__file__).parents[2] / "docs/replies.md").read_text()
FREE = DoorSettings(received=False, session=Limits(command_length=0))


def bad_sender(files: Files) -> None:
    files.control(b"badmailfrom", b"you@there.test\n")


def broken(files: Files) -> None:
    files.special(b"/var/qmail/control/rcpthosts", 0o010000)  # a FIFO


def deferred(files: Files) -> None:
    files.file(b"/home/alice/.qmail", b"./none/Maildir/\n", uid=ALICE, gid=ALICE)


REFUSALS = {
    Outcome.BOUNCE: (b"nobody@example.test", None),
    Outcome.DISCARD: (b'""@example.test', None),
    Outcome.DEFER: (b"alice@example.test", deferred),
    Outcome.SYNTAX: (b"x" * 900 + b"@example.test", None),
    Outcome.BAD_SENDER: (b"alice@example.test", bad_sender),
    Outcome.NOT_RELAYED: (b"alice@elsewhere.test", None),
    Outcome.BROKEN: (b"alice@example.test", broken),
}


# On a host with vpopmail, by the keys of its table.
VPOPMAIL: dict[Outcome, dict[str, object]] = {
    Outcome.OVER_QUOTA: {"over_quota": "reject"},
    Outcome.OVER_QUOTA_NOW: {"over_quota": "defer"},
    # And nobody there who could ask the database.
    Outcome.NEEDS: {"source": "pgsql", "usable": frozenset({"pgsql"})},
}


def test_these_are_all() -> None:
    refusing = {o for o, (kind, *_) in _ANSWERS.items() if kind is not Kind.ACCEPT}
    assert {*REFUSALS, *VPOPMAIL} == refusing


def host_for(outcome: Outcome) -> tuple[bytes, QmailHost]:
    """A recipient, and a host on which that becomes of it."""
    if outcome in VPOPMAIL:
        files = vpopmail_files()
        cdb_accounts(files, [account(b"ann", quota=b"1S")])
        own(files, DOMAIN + b"/ann/Maildir/maildirsize", b"1S\n1 1\n")
        own(files, HOME + b"/etc/vpopmail.pgsql", b"localhost|1|u|p|d\n")
        keys = vpopmail_keys(**{"source": "cdb", **VPOPMAIL[outcome]})
        settings = HostSettings(vpopmail=keys)
        return b"ann@v.test", QmailHost(files, settings, clock=lambda: files.now_ns)
    recipient, change = REFUSALS[outcome]
    files = mail_host_files()
    if change is not None:
        change(files)
    return recipient, QmailHost(files, HostSettings())


@pytest.mark.parametrize("outcome", [*REFUSALS, *VPOPMAIL], ids=lambda o: o.value)
async def test_o_every_refusal(outcome: Outcome) -> None:
    recipient, host = host_for(outcome)
    rule = QmailRule(host)
    async with running(rule.ask, settings=FREE) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<you@there.test>")
            said = await client.command(b"RCPT TO:<" + recipient + b">")
        (event,) = front.of(RecipientDecided)
        assert front.fake.connections == 0
    assert isinstance(event, RecipientDecided)
    kind, reply, _ = _ANSWERS[outcome]
    assert said == reply.wire
    assert (event.verdict, event.reply) == (kind.value, reply.text)
    assert event.reason
    assert f"`{reply.text}`" in REPLIES
    stream = io.BytesIO()
    Logger(stream)(event)
    assert f"verdict={kind.value} ".encode() in stream.getvalue()
    metrics = Metrics()
    metrics(event)
    assert metrics.recipients == {(kind.value, "qmail"): 1}


async def test_a_fault_of_ours_tells_the_client_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback, no text, no permanent refusal: the connection ends, which
    asks a client to come again; the log has what happened."""

    def fail(question: object) -> None:
        raise RuntimeError("secret /path")

    async with running() as front:
        monkeypatch.setattr(front.door.engine, "ask", fail)
        with caplog.at_level(logging.ERROR, "asyncio"):
            async with await RawClient.connect(front.port) as client:
                await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@b.test>\r\n")
                text = await client.rest()
            await front.settled()
        assert b"secret" not in text
        assert b"\r\n5" not in text
        (gone,) = front.of(Disconnected)
        assert isinstance(gone, Disconnected)
    assert "secret /path" in caplog.text
