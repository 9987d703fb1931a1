"""K: whatever the client does, or does not do.

Where it is about time limits, the clock is handed in.
"""

from __future__ import annotations

import asyncio

import pytest

from proxy.front.door import DoorSettings
from proxy.observe.events import Disconnected, MessageEnded
from proxy.rules.verdict import Answer, Question
from proxy.smtp.driver import Limits
from tests.support.backend import FakeQmail
from tests.support.driver import codes
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

MESSAGE = b"Subject: x\r\n\r\nhello\r\n..dot\r\n\xff\x00 odd\r\n"
PLAIN = MESSAGE.replace(b"\r\n..", b"\r\n.")
ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n"
SESSION = (
    b"EHLO c\r\n" + ENVELOPE + b"RCPT TO:<nobody@example.test>\r\nDATA\r\n"
    + MESSAGE + b".\r\nQUIT\r\n"
)  # fmt: skip
SAID = [220, 250, 250, 250, 550, 354, 250, 221]


def endings(front: Front) -> list[tuple[str, bool]]:
    return [(e.outcome, e.heard) for e in front.of(MessageEnded)]  # type: ignore[union-attr]


def why_over(front: Front) -> list[str]:
    return [e.why for e in front.of(Disconnected)]  # type: ignore[union-attr]


async def in_the_message(front: Front, client: RawClient) -> None:
    """Everything before it is said; a part of it has reached the backend."""
    await client.reply()
    got = await client.deliver(
        b"a@b.test", [b"a@example.test"], b"half a message\r\nand more", dot=False
    )
    assert got == [250, 250, 354]
    await front.until(lambda: front.fake.bytes_read > 0)


async def nothing_arrived(front: Front) -> None:
    """The backend's connection is ended, without a dot, and is not kept."""
    await front.settled()
    await front.until(lambda: front.fake.open_connections == 0)
    assert front.fake.dots == 0
    assert not front.fake.received
    assert front.backend.connections == 0


# It leaves.


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_it_leaves_before_the_dot(how: str) -> None:
    """K-fin-before-dot, K-rst-before-dot."""
    async with running() as front:
        client = await RawClient.connect(front.port)
        await in_the_message(front, client)
        if how == "rst":
            client.reset()
        else:
            client.half_close()
            assert await client.rest() == b""
            await client.close()
        await nothing_arrived(front)
        assert endings(front) == [("aborted", False)]
        assert why_over(front) == ["client"]


async def test_it_falls_silent_in_the_message() -> None:
    """K-timeout-in-data."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await in_the_message(front, client)
        front.pass_time(front.door.settings.data_timeout + 1)
        assert codes(await client.rest()) == [421]
        await nothing_arrived(front)
        assert endings(front) == [("aborted", True)]
        assert why_over(front) == ["timeout"]


async def test_it_leaves_after_the_dot() -> None:
    """K-rst-after-dot: the answer is awaited all the same, and logged."""
    fake = FakeQmail()
    gate = asyncio.Event()
    async with running(fake=fake) as front:
        client = await RawClient.connect(front.port)
        await in_the_message(front, client)
        fake.gate = gate
        await client.send(b"\r\n.\r\n")
        await front.until(lambda: fake.dots == 1)
        client.reset()
        await front.settled()
        assert endings(front) == []
        gate.set()
        await front.until(lambda: bool(front.of(MessageEnded)))
        assert endings(front) == [("accepted", False)]
        assert len(fake.received) == 1


async def test_it_leaves_while_a_verdict_is_awaited() -> None:
    async def never(question: Question) -> Answer:
        await asyncio.Event().wait()
        return None

    async with running(never) as front:
        client = await RawClient.connect(front.port)
        await client.send(ENVELOPE)
        assert [await client.code() for _ in range(2)] == [220, 250]
        client.reset()
        await front.settled()
        assert front.fake.connections == 0


async def test_it_sends_no_more_but_listens() -> None:
    """K-halfclose-after-quit, K-pipelined-whole: every answer is said."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.send(SESSION)
        client.half_close()
        assert codes(await client.rest()) == SAID
        assert front.fake.received[0].message == PLAIN


async def test_it_listens_no_further_than_it_asked() -> None:
    """K-halfclose-without-quit."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.send(ENVELOPE)
        client.half_close()
        assert codes(await client.rest()) == [220, 250, 250]


# It keeps another order.


async def test_it_speaks_first() -> None:
    """K-early-talker: it is greeted and answered, as by qmail-smtpd
    (docs/replies.md says why)."""
    async with running() as front:
        client = await RawClient.connect(front.port)
        client.writer.write(SESSION)
        assert codes(await client.rest()) == SAID
        await client.close()
        assert len(front.fake.received) == 1


async def test_it_sends_byte_by_byte() -> None:
    """K-bytewise: the same transcript."""
    async with running() as front, await RawClient.connect(front.port) as client:
        for byte in SESSION:
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert codes(await client.rest()) == SAID
        assert front.fake.received[0].message == PLAIN


@pytest.mark.parametrize("restart", [b"RSET", b"MAIL FROM:<two@b.test>", b"EHLO c"])
async def test_it_begins_anew(restart: bytes) -> None:
    """K-rset-mid, K-mail-twice: nothing of the first transaction is left at the
    backend, which is told with RSET or EHLO, on the same connection."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<one@b.test>")
        await client.command(b"RCPT TO:<a@example.test>")
        assert (await client.command(restart))[:3] == b"250"
        assert (await client.command(b"DATA"))[:3] == b"503"
        got = await client.deliver(b"two@b.test", [b"b@example.test"], b"x\r\n")
        assert got == [250, 250, 354, 250]
        (mail,) = front.fake.received
        assert mail.mail == b"FROM:<two@b.test>"
        assert mail.recipients == [b"TO:<b@example.test>"]
        assert b"RSET" in front.fake.commands or b"EHLO c" in front.fake.commands
        assert front.fake.connections == 1


# The others of this kind need no socket: tests/dialogs has K-data-without-rcpt,
# K-rcpt-without-mail, K-helo-missing.


# It takes its time.


async def test_it_is_idle() -> None:
    """K-idle: 421 at the limit, once."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        front.pass_time(front.door.settings.command_timeout - 1)
        assert (await client.command(b"NOOP"))[:3] == b"250"
        front.pass_time(front.door.settings.command_timeout - 1)
        assert front.door.sessions
        front.pass_time(2)
        front.pass_time(1000)
        assert await client.rest() == b"421 4.4.2 timeout, closing connection\r\n"
        await front.settled()
        assert why_over(front) == ["timeout"]


async def test_it_sends_a_command_in_drops() -> None:
    """K-trickle: a part of a command is no command, and buys no time."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        (session,) = front.door.sessions
        for number in range(1, 12):
            front.pass_time(30)
            if front.of(Disconnected):
                break
            await client.send(b"N")
            await front.until(lambda n=number: session._dialogue.held == n)  # type: ignore[misc]
        assert number * 30 > front.door.settings.command_timeout
        assert codes(await client.rest()) == [421]
        assert why_over(front) == ["timeout"]


async def test_it_sends_a_message_slowly() -> None:
    """K-slow-data-legit: 1 KiB a second for ten minutes."""
    kibibyte = b"x" * 1022 + b"\r\n"
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.deliver(b"a@b.test", [b"a@example.test"], b"", dot=False)
        for number in range(1, 601):
            front.pass_time(1)
            await client.send(kibibyte)
            # All but the line end, which may begin the end of the message.
            sent = number * len(kibibyte) - 2
            await front.until(lambda n=sent: front.fake.bytes_read + 1024 > n)  # type: ignore[misc]
        await client.send(b".\r\n")
        assert await client.code() == 250
        assert len(front.fake.received[0].message) == 600 * 1024


async def test_it_sends_a_message_in_drops() -> None:
    """K-trickle-data: a byte each thirty seconds, and no more at last."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        await client.deliver(b"a@b.test", [b"a@example.test"], b"", dot=False)
        (session,) = front.door.sessions
        message = session._dialogue.transaction
        for number in range(1, 31):
            await client.send(b"x")
            await front.until(lambda n=number: message.message_size == n)  # type: ignore[misc]
            front.pass_time(30)
            if front.of(Disconnected):
                break
        front.pass_time(front.door.settings.data_timeout + 1)
        assert codes(await client.rest()) == [421]
        await nothing_arrived(front)


async def test_it_never_reads() -> None:
    """K-deaf: its commands are not taken any more, its time runs out, and the
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
        await front.until(lambda: not session._dialogue.waiting)
        front.pass_time(front.door.settings.command_timeout + 1)
        # It counts until its descriptor is closed, which is not long.
        front.pass_time(60)
        await front.settled()
        client.writer.transport.abort()
