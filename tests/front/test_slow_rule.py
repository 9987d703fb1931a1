"""L-slow-rule: whoever waits for a rule's answer holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from proxy.observe.events import RecipientDecided
from proxy.rules.verdict import Answer, Question
from proxy.smtp import replies
from tests.support.front import accept, running
from tests.support.smtp_client import RawClient

SLOW = b"RCPT TO:<slow@example.test>"


class Source:
    """Knows ``slow`` only after ``answered`` is set."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.asked = 0

    def __call__(self, question: Question) -> Answer | Awaitable[Answer]:
        if question.recipient != b"slow@example.test":
            return accept()
        self.asked += 1
        return self._answer()

    async def _answer(self) -> Answer:
        await self.answered.wait()
        return accept()


async def test_l_slow_rule_slows_no_other_session() -> None:
    source = Source()
    async with (
        running(source) as front,
        await RawClient.connect(front.port) as patient,
        await RawClient.connect(front.port) as other,
    ):
        for client in (patient, other):
            await client.reply()
        await patient.command(b"MAIL FROM:<a@b.test>")
        await patient.send(SLOW + b"\r\nNOOP\r\n")
        await front.until(lambda: source.asked == 1)
        got = await other.deliver(b"a@b.test", [b"quick@example.test"], b"x\r\n")
        assert got == [250, 250, 354, 250]
        assert len(front.fake.received) == 1
        source.answered.set()
        assert [await patient.code(), await patient.code()] == [250, 250]


async def test_l_slow_rule_over_its_limit_is_a_deferral() -> None:
    async with (
        running(Source(), rule_limit=0.01) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        assert await client.command(SLOW) == replies.RECIPIENT_DEFERRED.wire
        (event,) = front.of(RecipientDecided)
        assert isinstance(event, RecipientDecided)
        assert (event.verdict, event.reason[:24]) == (
            "defer",
            "the rule failed: Timeout",
        )
        # The session goes on.
        got = await client.deliver(b"a@b.test", [b"quick@example.test"], b"x\r\n")
        assert got == [250, 250, 354, 250]
