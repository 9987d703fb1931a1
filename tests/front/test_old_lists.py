"""Mail to old lists has good and dead addresses; guessers have only the latter."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from proxy.front.door import DoorSettings
from proxy.front.harvest import (
    CREDIT_MAX,
    GUESSES_PER_MESSAGE,
    REFUSE,
    Harvest,
    HarvestSettings,
)
from proxy.observe.events import LimitHit
from proxy.smtp.driver import Limits
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

LIMIT = 20
SETTINGS = DoorSettings(
    received=False,
    harvest=HarvestSettings(),
    session=Limits(unknown_recipients=LIMIT),
)
GOOD = [b"a%d@example.test" % number for number in range(60)]
DEAD = [b"no%d@example.test" % number for number in range(40)]


async def send(front: Front, recipients: list[bytes]) -> dict[bytes, int]:
    """One message, by a client that sends one RCPT after the other."""
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<list@b.test>")
        said = {}
        for each in recipients:
            said[each] = int((await client.command(b"RCPT TO:<%s>" % each))[:3])
        assert (await client.command(b"DATA"))[:3] == b"354"
        assert (await client.command(b"x\r\n."))[:3] == b"250"
    return said


def limits(front: Front) -> set[str]:
    return {event.limit for event in front.events if isinstance(event, LimitHit)}


@pytest.mark.fault("N16")
@pytest.mark.parametrize("order", range(5))
async def test_the_good_ones_go_through_at_once_and_the_dead_in_time(
    order: int,
) -> None:
    """As a mail server does: it tries again those that were 4xx."""
    rest = [*GOOD, *DEAD]
    random.Random(order).shuffle(rest)
    rest.insert(0, b"first@example.test")
    async with running(settings=SETTINGS) as front:
        said = await send(front, rest)
        assert {code for each, code in said.items() if each not in DEAD} == {250}
        dead = [said[each] for each in DEAD]
        assert dead.count(550) == LIMIT
        assert dead.count(450) == len(DEAD) - LIMIT
        rest = [each for each, code in said.items() if code == 450]
        said = await send(front, [b"first@example.test", *rest])
        assert [said[each] for each in rest] == [550] * len(rest)
        # Not what the jail for guessers looks for.
        assert limits(front) <= {"harvest_delay_after"}


@pytest.mark.fault("N16")
async def test_who_knows_nobody_is_cut_off_as_before() -> None:
    settings = replace(SETTINGS, harvest=None)
    async with running(settings=settings) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<>")
            for each in DEAD[:LIMIT]:
                assert (await client.command(b"RCPT TO:<%s>" % each))[:3] == b"550"
            assert (await client.command(b"RCPT TO:<a@example.test>"))[:3] == b"421"
        assert limits(front) == {"unknown_per_session"}


@pytest.mark.fault("N16")
async def test_each_delivered_message_begins_the_count_anew() -> None:
    async with (
        running(settings=SETTINGS) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        for _ in range(3):
            await client.command(b"MAIL FROM:<>")
            assert (await client.command(b"RCPT TO:<a@example.test>"))[:3] == b"250"
            for each in DEAD[:15]:
                assert (await client.command(b"RCPT TO:<%s>" % each))[:3] == b"550"
            assert (await client.command(b"DATA"))[:3] == b"354"
            assert (await client.command(b"x\r\n."))[:3] == b"250"


@pytest.mark.fault("N9")
def test_one_message_buys_few_guesses() -> None:
    settings = HarvestSettings(delay_after=10, refuse_after=50)
    harvest = Harvest(settings)
    harvest.delivered(1, 0.0)
    answers = [harvest.guessed(1, 1.0) for _ in range(2000)]
    assert answers.index(REFUSE) <= GUESSES_PER_MESSAGE + settings.refuse_after + 1


@pytest.mark.fault("N9")
def test_credit_grows_with_accepted_mail_and_ends() -> None:
    harvest = Harvest(HarvestSettings(delay_after=10, refuse_after=50))
    for _ in range(10):
        harvest.delivered(1, 0.0)
    good = [harvest.guessed(1, 1.0) for _ in range(10 * GUESSES_PER_MESSAGE)]
    assert set(good) == {0.0}
    for _ in range(1000):
        harvest.delivered(2, 0.0)
    many = [harvest.guessed(2, 1.0) for _ in range(CREDIT_MAX + 100)]
    assert REFUSE in many
    harvest.delivered(3, 0.0)
    late = HarvestSettings().remember_seconds + 1
    assert harvest.guessed(3, late) == 0.0
    assert max(harvest.guessed(3, late) for _ in range(15)) > 0


@pytest.mark.fault("N9")
def test_guesses_between_messages_add_up() -> None:
    """A message now and then does not wipe out what was guessed between."""
    harvest = Harvest(HarvestSettings(delay_after=10, refuse_after=50))
    for _ in range(100):
        harvest.delivered(1, 0.0)
        if any(harvest.guessed(1, 0.0) == REFUSE for _ in range(45)):
            return
    pytest.fail("it may guess for ever")
