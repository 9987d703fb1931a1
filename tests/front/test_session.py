"""A client, the front door, and a backend that behaves or does not."""

from __future__ import annotations

import asyncio
import smtplib

import pytest

from proxy.backend.pool import BackendSettings
from proxy.front.door import DoorSettings
from proxy.observe.events import (
    BackendFailed,
    BackendRefusedRecipient,
    Disconnected,
    MessageEnded,
    RecipientDecided,
    Turned,
)
from proxy.rules.verdict import Answer, Question
from proxy.smtp.driver import Limits
from tests.support.backend import CLOSE, RESET, SILENT, Behaviour, FakeQmail
from tests.support.driver import codes
from tests.support.front import Front, accept, ours_only, reject, running
from tests.support.smtp_client import RawClient

MESSAGE = b"Subject: x\r\n\r\nhello\r\n..dot\r\n\xff\x00 odd\r\n"
PLAIN = MESSAGE.replace(b"\r\n..", b"\r\n.")


def endings(front: Front) -> list[tuple[str, bool]]:
    return [(e.outcome, e.heard) for e in front.of(MessageEnded)]  # type: ignore[union-attr]


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


async def test_unknown_recipients_never_touch_the_backend() -> None:
    settings = DoorSettings(session=Limits(unknown_recipients=0))
    async with running(settings=settings) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            await client.send(b"RCPT TO:<nobody@example.test>\r\n" * 1000)
            assert {await client.code() for _ in range(1000)} == {550}
        await front.settled()
        assert front.fake.connections == 0
        assert len(front.of(RecipientDecided)) == 1000


async def test_a_session_in_one_packet_with_half_close() -> None:
    """K-halfclose-after-quit, K-pipelined-whole."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.send(
            b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n"
            b"RCPT TO:<nobody@example.test>\r\nDATA\r\n" + MESSAGE + b".\r\nQUIT\r\n"
        )
        client.half_close()
        got = codes(await client.rest())
        assert got == [220, 250, 250, 250, 550, 354, 250, 221]
        assert front.fake.received[0].message == PLAIN


async def test_half_close_while_a_recipient_waits() -> None:
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n")
        client.half_close()
        assert codes(await client.rest()) == [220, 250, 250]


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


async def test_the_backends_refusal_is_the_clients() -> None:
    script: dict[str, Behaviour] = {
        "RCPT TO:<full@example.test>": b"452 4.2.2 full\r\n",
        "RCPT TO:<gone@example.test>": b"550-5.1.1 gone\r\n550 really\r\n",
    }
    async with running(fake=FakeQmail(script)) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            assert (await client.command(b"RCPT TO:<full@example.test>"))[:3] == b"452"
            assert await client.command(b"RCPT TO:<gone@example.test>") == (
                b"550-5.1.1 gone\r\n550 really\r\n"
            )
            assert (await client.command(b"DATA"))[:3] == b"503"
            assert (await client.command(b"RCPT TO:<a@example.test>"))[:3] == b"250"
            assert (await client.command(b"DATA"))[:3] == b"354"
            await client.send(b"x\r\n.\r\n")
            assert await client.code() == 250
        assert len(front.of(BackendRefusedRecipient)) == 2
        assert front.fake.received[0].recipients == [b"TO:<a@example.test>"]


STEPS_BEFORE_DATA = ["connect", "greeting", "EHLO", "MAIL", "RCPT"]
FAULTS: dict[str, Behaviour] = {
    "close": CLOSE,
    "reset": RESET,
    "421": b"421 going\r\n",
    "garbage": b"\xff\xfe\r\n",
    "wrong-class": b"354 what\r\n",
    "endless": b"250-" + b"x" * 70000,
    "silent": SILENT,
}


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (step, fault)
        for step in [*STEPS_BEFORE_DATA, "DATA", "body", "dot"]
        for fault in FAULTS
        if (step, fault) != ("DATA", "wrong-class")  # 354 is right there
    ],
)
async def test_a_backend_fault_is_a_deferral(step: str, fault: str) -> None:
    """F: whatever the backend does at whatever step, the client is told to come
    again, at the step where it belongs, and its session lives."""
    fake = FakeQmail({step: FAULTS[fault]})
    if step == "EHLO" and fault == "wrong-class":
        fake.script["HELO"] = fault.encode()
    soon = BackendSettings(
        connect_timeout=0.3, command_timeout=0.3, final_timeout=0.3, data_timeout=0.3
    )
    async with running(fake=fake, backend=soon) as front:
        sweeping = asyncio.create_task(_sweep(front))
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            if step == "body" and fault != "silent":  # small: it fits the buffers
                got = await _interrupted(front, client)
            else:
                got = await client.deliver(b"a@b.test", [b"a@example.test"], MESSAGE)
            expected = {"DATA": [250, 250, 451], "body": [250, 250, 354, 451]}
            expected["dot"] = expected["body"]
            if step in STEPS_BEFORE_DATA:
                assert got[:2] == [250, 451]
                assert got[2] in (451, 503)
            else:
                assert got == expected[step]
            assert (await client.command(b"NOOP"))[:3] == b"250"
            fake.script.clear()
            await client.command(b"RSET")
            again = await client.deliver(b"a@b.test", [b"a@example.test"], MESSAGE)
            assert again == [250, 250, 354, 250]
        sweeping.cancel()
        await front.settled()
        assert front.of(BackendFailed)
        assert [m.message for m in fake.received] == [PLAIN]
        if step != "dot":
            assert fake.dots == 1


async def _interrupted(front: Front, client: RawClient) -> list[int]:
    """A message whose second half is sent when the backend has failed."""
    got = await client.deliver(b"a@b.test", [b"a@example.test"], MESSAGE * 2, dot=False)
    await front.until(lambda: bool(front.of(BackendFailed)))
    await client.send(b"MAIL FROM:<forged@b.test>\r\n.\r\n")
    return [*got, await client.code()]


async def _sweep(front: Front) -> None:
    while True:
        await asyncio.sleep(0.05)
        front.door.sweep()


@pytest.mark.parametrize(("helo", "step"), [(b"same", "RSET"), (b"other", "EHLO")])
async def test_a_kept_connection_that_dies_is_replaced_unseen(
    helo: bytes, step: str
) -> None:
    """Once, and while nothing was promised: the client sees no difference."""
    async with running() as front:
        for name in (b"same", helo):
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"HELO " + name)
                got = await client.deliver(b"a@b.test", [b"a@example.test"], b"x\r\n")
                assert got == [250, 250, 354, 250]
            await front.settled()
            # The next use of the kept connection is its end.
            front.fake.once[step] = CLOSE
        assert front.fake.connections == 2
        assert len(front.fake.received) == 2


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


async def test_no_reuse_after_a_message_was_cut_off() -> None:
    async with running() as front:
        client = await RawClient.connect(front.port)
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        await client.command(b"RCPT TO:<a@example.test>")
        await client.command(b"DATA")
        await client.send(b"half a message\r\nand more")
        await front.until(lambda: front.fake.bytes_read > 0)
        client.reset()
        await front.settled()
        assert endings(front) == [("aborted", False)]
        await front.until(lambda: front.fake.open_connections == 0)
        assert front.fake.dots == 0
        assert front.backend.connections == 0


async def test_a_client_that_leaves_after_the_dot_changes_nothing() -> None:
    """K-rst-after-dot: the answer is awaited all the same, and logged."""
    fake = FakeQmail()
    gate = asyncio.Event()
    async with running(fake=fake) as front:
        client = await RawClient.connect(front.port)
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        await client.command(b"RCPT TO:<a@example.test>")
        await client.command(b"DATA")
        fake.gate = gate
        await client.send(b"x\r\n.\r\n")
        await front.until(lambda: fake.dots == 1)
        client.reset()
        await front.settled()
        assert endings(front) == []
        gate.set()
        await front.until(lambda: bool(front.of(MessageEnded)))
        assert endings(front) == [("accepted", False)]
        assert len(fake.received) == 1


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


async def test_idle_clients_are_told_421_once() -> None:
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        (session,) = front.door.sessions
        session.deadline = 0.0
        front.door.sweep()
        assert codes(await client.rest()) == [421]
        await front.settled()
        (gone,) = front.of(Disconnected)
        assert isinstance(gone, Disconnected)
        assert gone.why == "timeout"


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


async def test_a_client_that_leaves_while_a_verdict_is_awaited() -> None:
    async def never(question: Question) -> Answer:
        await asyncio.Event().wait()
        return None

    async with running(never) as front:
        client = await RawClient.connect(front.port)
        await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n")
        await client.reply()
        await client.reply()
        client.reset()
        await front.settled()


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
            with smtplib.SMTP("127.0.0.1", front.port, timeout=20) as smtp:
                smtp.sendmail("a@b.test", ["a@example.test"], "Subject: y\n\nhi\n")
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    smtp.sendmail("a@b.test", ["nobody@example.test"], "x")

        await asyncio.to_thread(talk)
        assert front.fake.received[0].message == b"Subject: y\r\n\r\nhi\r\n"


async def test_a_client_that_never_reads_loses_its_connection() -> None:
    """Its commands are not taken any more, its time runs out, and the
    descriptor does not stay for the replies that it does not fetch."""
    settings = DoorSettings(session=Limits(commands=0))
    async with running(settings=settings) as front:
        client = await RawClient.connect(front.port)
        (session,) = front.door.sessions
        client.writer.transport.set_write_buffer_limits(0)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        flood = b"HELP\r\n" * 10_000
        while not session._dialogue._paused:
            client.writer.write(flood)
            await asyncio.sleep(0)
        assert session._dialogue.held <= 1 << 20
        session.deadline = 0.0
        front.door.sweep()
        assert not front.door.sessions
        front.door._lingering = [(0.0, t) for _, t in front.door._lingering]
        front.door.sweep()
        client.writer.transport.abort()
