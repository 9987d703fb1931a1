"""A client, the front door, and a backend that behaves or does not."""

from __future__ import annotations

import asyncio
import smtplib

import pytest

from proxy.front.door import DoorSettings
from proxy.observe.events import (
    MessageEnded,
    RecipientDecided,
    Turned,
)
from proxy.rules.verdict import Answer, Question
from tests.support.backend import FakeQmail
from tests.support.driver import codes
from tests.support.front import accept, ours_only, reject, running
from tests.support.smtp_client import RawClient

MESSAGE = b"Subject: x\r\n\r\nhello\r\n..dot\r\n\xff\x00 odd\r\n"
PLAIN = MESSAGE.replace(b"\r\n..", b"\r\n.")


async def test_a_message_arrives_byte_for_byte() -> None:
    async with running() as front, await RawClient.connect(front.port) as client:
        assert await client.code() == 220
        assert (await client.command(b"EHLO me.test")).startswith(b"250-")
        got = await client.deliver(b"", [b"a@example.test"], MESSAGE)
        assert got == [250, 250, 354, 250]
        (mail,) = front.fake.received
        assert mail.message == PLAIN
        assert mail.mail == b"FROM:<>"
        assert mail.recipients == [b"TO:<a@example.test>"]
        assert mail.helo == b"me.test"


async def test_the_final_reply_is_the_backends() -> None:
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        assert await client.command(b"RCPT TO:<a@example.test>") == b"250 ok\r\n"
        await client.command(b"DATA")
        await client.send(b"x\r\n.\r\n")
        assert await client.reply() == b"250 ok 1700000000 qp 4711\r\n"
        (event,) = front.of(MessageEnded)
        assert isinstance(event, MessageEnded)
        assert event.reply == "250 ok 1700000000 qp 4711"


async def test_one_connection_serves_a_session_and_is_used_again() -> None:
    async with running() as front:
        for _ in range(3):
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"EHLO c.test")
                for _ in range(2):
                    got = await client.deliver(
                        b"a@b.test", [b"a@example.test"], b"x\r\n"
                    )
                    assert got == [250, 250, 354, 250]
                await client.command(b"QUIT")
            await front.settled()
        assert front.fake.connections == 1
        assert len(front.fake.received) == 6


async def test_an_aborted_transaction_is_reset_at_the_backend() -> None:
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<one@b.test>")
        await client.command(b"RCPT TO:<a@example.test>")
        await client.command(b"RSET")
        got = await client.deliver(b"two@b.test", [b"b@example.test"], b"x\r\n")
        assert got == [250, 250, 354, 250]
        (mail,) = front.fake.received
        assert mail.recipients == [b"TO:<b@example.test>"]
        assert b"RSET" in front.fake.commands
        assert front.fake.connections == 1


async def test_another_helo_name_is_told_on_a_kept_connection() -> None:
    async with running() as front:
        for name in (b"one.test", b"two.test", b"two.test"):
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"HELO " + name)
                await client.deliver(b"a@b.test", [b"a@example.test"], b"x\r\n")
            await front.settled()
        assert [m.helo for m in front.fake.received] == [
            b"one.test",
            b"two.test",
            b"two.test",
        ]
        assert front.fake.connections == 1


async def test_caps_on_connections() -> None:
    """L-per-ip-cap, L-global-cap."""
    settings = DoorSettings(connections=3, connections_per_client=2)
    async with running(settings=settings) as front:
        clients = [await RawClient.connect(front.port, f"127.0.0.{n}") for n in (1, 1)]
        assert [await c.code() for c in clients] == [220, 220]
        third = await RawClient.connect(front.port)
        assert await third.rest() == (
            b"421 4.3.2 too many connections, try again later\r\n"
        )
        other = await RawClient.connect(front.port, "127.0.0.2")
        assert await other.code() == 220
        last = await RawClient.connect(front.port, "127.0.0.3")
        assert codes(await last.rest()) == [421]
        assert [e.limit for e in front.of(Turned)] == [  # type: ignore[union-attr]
            "connections_per_client",
            "connections",
        ]
        for client in (*clients, third, other, last):
            await client.close()
        await front.settled()
        async with await RawClient.connect(front.port) as again:
            assert await again.code() == 220


async def test_awaited_verdicts() -> None:
    gate = asyncio.Event()

    async def slow(question: Question) -> Answer:
        await gate.wait()
        return accept() if question.recipient.startswith(b"a") else reject()

    async with running(slow) as front, await RawClient.connect(front.port) as client:
        await client.send(
            b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n"
            b"RCPT TO:<b@example.test>\r\nNOOP\r\n"
        )
        assert [await client.code() for _ in range(2)] == [220, 250]
        gate.set()
        assert [await client.code() for _ in range(3)] == [250, 550, 250]


async def test_a_rule_that_fails_is_a_deferral() -> None:
    def broken(question: Question) -> Answer:
        raise ValueError("secret")

    async with running(broken) as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        said = await client.command(b"RCPT TO:<a@example.test>")
        assert said == b"451 4.3.0 cannot check this recipient now\r\n"


async def test_observe_mode_lets_pass_and_says_so() -> None:
    async with running(observe=True) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            got = await client.deliver(b"a@b.test", [b"nobody@example.test"], b"x\r\n")
            assert got == [250, 250, 354, 250]
            await client.command(b"MAIL FROM:<a@b.test>")
            assert (await client.command(b"RCPT TO:<a@foreign.test>"))[:3] == b"553"
        first, second = front.of(RecipientDecided)
        assert isinstance(first, RecipientDecided)
        assert isinstance(second, RecipientDecided)
        assert (first.verdict, first.observed) == ("accept", "reject")
        assert (second.verdict, second.observed) == ("reject", "")


async def test_our_received_line_is_on_top() -> None:
    settings = DoorSettings(received=True)
    async with running(settings=settings) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"EHLO me.test")
            await client.deliver(b"a@b.test", [b"a@example.test"], b"Subject: x\r\n")
        head, _, rest = front.fake.received[0].message.partition(b";\r\n\t")
        start = (
            b"Received: from me.test ([127.0.0.1])\r\n\tby mx.example.test with ESMTP"
        )
        assert head.startswith(start + b" id ")
        assert rest.endswith(b"+0000\r\nSubject: x\r\n")


async def test_mail_parameters_pass_where_the_backend_offers_them() -> None:
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test> SIZE=10 BODY=8BITMIME RET=FULL X=1")
        await client.command(b"RCPT TO:<a@example.test> NOTIFY=NEVER")
        assert b"MAIL FROM:<a@b.test> BODY=8BITMIME" in front.fake.commands
        assert b"RCPT TO:<a@example.test>" in front.fake.commands


async def test_a_backend_without_pipelining_is_asked_one_by_one() -> None:
    async with running(fake=FakeQmail(pipelining=False)) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.send(
                b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n"
                b"RCPT TO:<b@example.test>\r\nDATA\r\nx\r\n.\r\n"
            )
            assert [await client.code() for _ in range(5)] == [250, 250, 250, 354, 250]
        assert len(front.fake.received[0].recipients) == 2


async def test_pythons_smtplib() -> None:
    async with running(ours_only) as front:

        def talk() -> None:
            with smtplib.SMTP("127.0.0.1", front.port, timeout=60) as smtp:
                smtp.sendmail("a@b.test", ["a@example.test"], "Subject: y\n\nhi\n")
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    smtp.sendmail("a@b.test", ["nobody@example.test"], "x")

        await asyncio.to_thread(talk)
        assert front.fake.received[0].message == b"Subject: y\r\n\r\nhi\r\n"
