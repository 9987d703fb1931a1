"""F-cancel-everywhere: whoever leaves, whenever, nothing is left behind.

:func:`~tests.support.front.running` holds at the end of each test that no
task, descriptor or connection is left; here it is held in between as well.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from proxy.backend.channel import Channel
from proxy.backend.settings import BackendSettings
from proxy.front.door import DoorSettings
from proxy.front.verdicts import served
from proxy.observe.events import MessageEnded
from proxy.smtp.driver import Pending
from tests.support.backend import CLOSE, RESET, SILENT, Behaviour, FakeQmail
from tests.support.driver import MemoryDriver, codes
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n"
SESSION = b"EHLO c\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\nRSET\r\n" + ENVELOPE
SESSION += b"QUIT\r\n"


async def nothing_left(front: Front) -> None:
    """No session, no attempt; connections to the backend only in the pool."""
    pool, fake = front.backend, front.fake
    await front.settled()
    await front.until(lambda: not pool._opening)
    await front.until(lambda: all(c.lost_why or c in pool._idle for c in pool._live))
    await front.until(lambda: fake.open_connections == len(pool._idle))
    assert all(channel.usable for channel in pool._idle)


def replies_to(prefix: bytes) -> int:
    """How many replies this beginning of a session gets, with the greeting."""
    driver = MemoryDriver(lambda recipient: Pending.ACCEPTED)
    driver.feed(prefix)
    return len(codes(driver.sent))


@pytest.mark.parametrize(
    ("how", "heard"),
    [("fin", True), ("rst", True), ("rst", False)],
    ids=["fin-answered", "rst-answered", "rst-at-once"],
)
async def test_the_client_leaves_after_every_prefix(how: str, heard: bool) -> None:
    settings = DoorSettings(received=False)
    async with running(settings=settings) as front:
        for length in range(len(SESSION)):
            client = await RawClient.connect(front.port)
            await client.send(SESSION[:length])
            for _ in range(replies_to(SESSION[:length]) if heard else 0):
                assert await client.code() in (220, 250, 354)
            if how == "rst":
                client.reset()
            else:
                client.half_close()
                await client.rest()
                await client.close()
            await nothing_left(front)
        outcomes = [e.outcome for e in front.of(MessageEnded)]  # type: ignore[union-attr]
        assert set(outcomes) <= {"accepted", "aborted"}
        assert outcomes.count("accepted") == len(front.fake.received)
        # All of them between the final dot and the end of the session.
        least = len(SESSION) - SESSION.index(b".\r\n") - 3 if heard else 0
        assert len(front.fake.received) >= least


STEPS = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "dot"]

# "x" and a dot are no commands, where they come instead of a message.
LATER = {"DATA": [250, 250, 451, 502, 502], "dot": [250, 250, 354, 451]}


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("step", STEPS)
async def test_the_client_leaves_while_the_backend_is_silent(
    step: str, how: str
) -> None:
    fake = FakeQmail({step: SILENT})
    # On the library's own clock; who is to be reached has longer.
    soon = BackendSettings(connect_timeout=0.2)
    settings = soon if step == "greeting" else BackendSettings()
    async with running(fake=fake, backend=settings) as front:
        client = await RawClient.connect(front.port)
        await client.send(ENVELOPE + b"DATA\r\nx\r\n.\r\n")
        await front.until(lambda: fake.stalled == 1)
        if how == "rst":
            client.reset()
            await front.settled()
            if step == "dot":  # its answer would be logged, if one came
                front.pass_time(10_000)
        else:
            client.half_close()  # it may still read: the answer is awaited
            if step != "greeting":
                front.pass_time(10_000)
            said = LATER.get(step, [250, 451, 503, 502, 502])
            assert codes(await client.rest()) == [220, *said]
            await client.close()
        await nothing_left(front)
        assert not front.backend._idle
        assert not fake.received
        ended = [(e.outcome, e.heard) for e in front.of(MessageEnded)]  # type: ignore[union-attr]
        assert ended == ([("unknown", how == "fin")] if step == "dot" else [])


async def test_a_forced_end_after_the_final_dot_is_told() -> None:
    """The backend may have the mail: the log says so, whoever ended the session."""
    async with running(fake=FakeQmail({"dot": SILENT})) as front:
        client = await RawClient.connect(front.port)
        await client.send(ENVELOPE + b"DATA\r\nx\r\n.\r\n")
        await front.until(lambda: front.fake.stalled == 1)
        (session,) = front.door.sessions
        assert session.shut_down(now=True)
        assert codes(await client.rest())[-1] == 421
        await client.close()
        front.pass_time(10_000)
        await nothing_left(front)
        (ended,) = front.of(MessageEnded)
        assert (ended.outcome, ended.heard) == ("unknown", False)  # type: ignore[union-attr]


SAYS = {
    "greeting": b"220 fake ESMTP\r\n",
    "EHLO": b"250-fake\r\n250 PIPELINING\r\n",
    "MAIL": b"250 ok\r\n",
    "RCPT": b"250 ok\r\n",
    "DATA": b"354 go ahead\r\n",
    "dot": b"250 ok 1700000000 qp 4711\r\n",
}


@pytest.mark.parametrize("how", [CLOSE, RESET])
@pytest.mark.parametrize("step", STEPS)
async def test_the_backend_dies_after_every_prefix(step: str, how: str) -> None:
    """Of each of its replies: the client hears 451, and never a false 250."""
    async with running(backend=BackendSettings(breaker_failures=0)) as front:
        for length in range(len(SAYS[step])):
            said: Behaviour = (SAYS[step][:length], how)
            front.fake.script[step] = said
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                got = await client.deliver(b"a@b.test", [b"a@example.test"], b"x\r\n")
                assert 451 in got
                assert got[-1] in (451, 503)
            await nothing_left(front)
            assert not front.backend._idle
        assert not front.fake.received


async def test_an_attempt_is_cancelled_at_every_await() -> None:
    """After every number of turns of the loop: no descriptor stays, and a
    connection that was made all the same is somebody's."""
    gate = asyncio.Event()
    async with running(fake=FakeQmail({"connect": gate})) as front:
        given: list[Channel] = []

        def failed(step: str, why: str, refusal: object) -> None:
            raise AssertionError(why)

        for turns in range(60):
            task = front.backend.open(None, given.append, failed)
            for turn in range(turns):
                await asyncio.sleep(0)
                if turn == 20:
                    gate.set()
            task.cancel()
            gate.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            while given:
                front.backend.discard(given.pop())
            await nothing_left(front)
            gate.clear()


async def test_a_client_that_could_not_be_told_in_time() -> None:
    """An attempt whose cancellation came too late: its connection is kept for
    the next client, and not held for one that is gone."""
    async with running() as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            (session,) = front.door.sessions
            assert served(session, b"a@example.test")
            session.relay_recipient(b"TO:<a@example.test>")
            conversation = session._conversation
            assert conversation is not None
            conversation._link._opening = None  # nobody will cancel it
        await front.settled()
        await nothing_left(front)
        assert len(front.backend._idle) == 1


async def test_closing_ends_attempts_at_every_await() -> None:
    """At once, however patient they are."""
    patient = BackendSettings(connect_timeout=10_000)
    async with running(fake=FakeQmail({"greeting": SILENT}), backend=patient) as front:
        given: list[Channel] = []
        for turns in range(30):
            front.backend.open(None, given.append, lambda *_: None)
            for _ in range(turns):
                await asyncio.sleep(0)
            await front.backend.close()
            await nothing_left(front)
        assert not given
