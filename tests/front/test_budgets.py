"""Budgets of sessions and clients, with a clock that is handed in."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.backend.settings import BackendSettings
from proxy.front.common import Common
from proxy.front.door import Door, DoorSettings
from proxy.front.harvest import HarvestSettings
from proxy.front.pressure import STEPS
from proxy.front.trusted import Trusted
from proxy.observe.events import (
    Disconnected,
    Event,
    LimitHit,
    MessageEnded,
    PressureChanged,
    RecipientDecided,
    Turned,
)
from proxy.rules.engine import Engine
from proxy.rules.verdict import Verdict
from proxy.smtp import replies
from proxy.smtp.driver import Limits
from tests.support.backend import STOP_READING, FakeQmail
from tests.support.clock import Clock
from tests.support.driver import codes
from tests.support.front import CallRule, Front, ours_only, reject, running
from tests.support.smtp_client import RawClient

MAIL = b"MAIL FROM:<a@b.test>"
GOOD = b"RCPT TO:<a@example.test>"
REFUSAL = replies.NO_SUCH_RECIPIENT
BAD = b"RCPT TO:<nobody@example.test>"
HARVEST = HarvestSettings(delay_after=3, refuse_after=6)
SUSPICIOUS = DoorSettings(
    received=False, harvest=HARVEST, session=Limits(unknown_recipients=0)
)


class Timed:
    """A front door whose clock stands still until it is told otherwise."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.clock = Clock()
        front.door._clock = self.clock
        front.door.sweep()

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.front.door.sweep()

    @property
    def limits(self) -> list[str]:
        return [event.limit for event in self.front.of(LimitHit)]  # type: ignore[union-attr]


@contextlib.asynccontextmanager
async def timed(
    settings: DoorSettings, fake: FakeQmail | None = None
) -> AsyncIterator[tuple[Timed, Front]]:
    async with running(settings=settings, fake=fake) as front:
        yield Timed(front), front


async def ready(front: Front, source: str = "127.0.0.1") -> RawClient:
    client = await RawClient.connect(front.port, source)
    assert await client.code() == 220
    return client


async def said(client: RawClient, *commands: bytes) -> list[int]:
    """The codes of the answers, one command after the other."""
    return [int((await client.command(each))[:3] or b"0") for each in commands]


async def held_back(front: Front) -> None:
    """Until a refusal is held back."""
    await front.until(lambda: any(s._held is not None for s in front.door.sessions))


# Time.


async def in_data(front: Front) -> RawClient:
    client = await ready(front)
    assert await said(client, MAIL, GOOD, b"DATA") == [250, 250, 354]
    return client


async def feed(front: Front, client: RawClient, data: bytes) -> None:
    """Send, and wait until the dialogue has it."""
    (session,) = front.door.sessions
    dialogue = session._dialogue
    size = dialogue.transaction.message_size + len(data.rstrip(b"\r\n"))
    await client.send(data)
    await front.until(lambda: dialogue.transaction.message_size >= size)


async def test_a_slow_message_that_keeps_its_pace_is_taken() -> None:
    """K-slow-data-legit: 1 KiB a second for ten minutes."""
    async with timed(DoorSettings(received=False)) as (time, front):
        client = await in_data(front)
        for _ in range(60):
            await feed(front, client, b"x" * 10238 + b"\r\n")
            time.pass_time(10)
        await client.send(b".\r\n")
        assert await client.code() == 250
        assert time.limits == []
        await client.close()


async def test_a_trickle_is_ended() -> None:
    """K-trickle: a byte every thirty seconds, never silent for long."""
    async with timed(DoorSettings(received=False)) as (time, front):
        client = await in_data(front)
        for _ in range(4):
            await feed(front, client, b"x")
            time.pass_time(30)
        await feed(front, client, b"x")
        time.pass_time(31)
        assert await client.rest() == replies.TOO_SLOW.wire
        await client.close()
        await front.settled()
        assert time.limits == ["data_rate"]
        (ended,) = front.of(MessageEnded)
        assert isinstance(ended, MessageEnded)
        assert ended.outcome == "aborted"
        assert front.fake.dots == 0


async def test_the_backends_slowness_is_not_charged_to_the_client() -> None:
    fake = FakeQmail({"body": STOP_READING})
    settings = DoorSettings(received=False, data_timeout=100.0)
    async with timed(settings, fake) as (time, front):
        client = await in_data(front)
        (session,) = front.door.sessions
        sending = asyncio.create_task(client.send(b"line\r\n" * 4_000_000))
        await front.until(lambda: not session._reading)
        time.pass_time(10_000)
        assert front.door.sessions == {session}
        assert time.limits == []
        session.relay_writable()  # the backend takes more
        pace = session._pace
        assert pace is not None
        assert pace.ends >= time.clock.now + 50
        session.shut_down(now=True)
        client.reset()
        with contextlib.suppress(ConnectionError):
            await sending


async def test_a_silent_client_is_told_which_limit() -> None:
    """K-idle, in a message too."""
    async with timed(DoorSettings(received=False, data_rate=0)) as (time, front):
        idle, busy = await ready(front), await in_data(front)
        time.pass_time(181)
        assert await busy.rest() == replies.IDLE.wire
        time.pass_time(120)
        assert await idle.rest() == replies.IDLE.wire
        assert time.limits == ["data_timeout", "command_timeout"]
        for client in (idle, busy):
            await client.close()


async def test_a_look_at_the_rate_buys_no_time() -> None:
    """A client that falls silent has its data_timeout, whenever that begins."""
    settings = DoorSettings(received=False, data_timeout=50.0, data_rate=1)
    async with timed(settings) as (time, front):
        client = await in_data(front)
        time.pass_time(40)
        await feed(front, client, b"x" * 100)
        time.pass_time(21)  # a window has ended
        assert front.door.sessions
        time.pass_time(30)
        assert await client.rest() == replies.IDLE.wire
        assert time.limits == ["data_timeout"]
        await client.close()


AGE = DoorSettings(received=False, session_age=1000.0)


async def test_an_old_session_ends_when_nothing_is_open() -> None:
    async with timed(AGE) as (time, front):
        client = await ready(front)
        for _ in range(9):
            time.pass_time(110)
            assert await said(client, b"NOOP") == [250]
        time.pass_time(20)
        assert await client.rest() == replies.TOO_OLD.wire
        assert time.limits == ["session_age"]
        await client.close()


async def test_an_old_session_may_finish_its_message() -> None:
    async with timed(AGE) as (time, front):
        client = await ready(front)
        for _ in range(9):
            time.pass_time(105)
            await said(client, b"NOOP")
        assert await said(client, MAIL, GOOD) == [250, 250]
        time.pass_time(100)
        assert await said(client, b"DATA") == [354]
        for _ in range(20):
            await feed(front, client, b"x" * 6000)
            time.pass_time(50)
        await client.send(b"\r\n.\r\n")
        # Then it is over, before the next one can begin.
        assert codes(await client.rest()) == [250, 421]
        assert len(front.fake.received) == 1
        assert time.limits == ["session_age"]
        await client.close()


async def test_an_envelope_does_not_keep_a_session_for_ever() -> None:
    async with timed(AGE) as (time, front):
        client = await ready(front)
        assert await said(client, MAIL, GOOD) == [250, 250]
        for _ in range(13):
            time.pass_time(99)
            assert await said(client, b"NOOP") == [250]
        time.pass_time(20)
        assert await client.rest() == replies.TOO_OLD.wire
        await client.close()


# Guessing.


async def test_refusals_of_a_guesser_are_held_back_by_the_coarse_clock() -> None:
    """No task, no timer, no connection to the backend; later input waits."""
    async with timed(SUSPICIOUS) as (time, front):
        client = await ready(front)
        tasks = asyncio.all_tasks()
        assert await said(client, MAIL, BAD, BAD, BAD) == [250, 550, 550, 550]
        await client.send(BAD + b"\r\nNOOP\r\n")
        await held_back(front)
        assert asyncio.all_tasks() == tasks
        time.pass_time(0.9)
        (session,) = front.door.sessions
        assert session._held is not None
        time.pass_time(0.2)
        assert [await client.code() for _ in range(2)] == [550, 250]
        await client.send(BAD + b"\r\n")
        await held_back(front)
        time.pass_time(1.9)
        assert session._held is not None
        time.pass_time(0.2)
        assert await client.code() == 550
        assert front.fake.connections == 0
        assert time.limits == ["harvest_delay_after"]
        assert len(front.of(RecipientDecided)) == 5
        await client.close()


async def guess(front: Front, time: Timed, count: int, source: str) -> bytes:
    """Guess in one session, as fast as it goes; what was said last."""
    client = await ready(front, source)
    last = await client.command(MAIL)
    for _ in range(count):
        await client.send(BAD + b"\r\n")
        answer = asyncio.create_task(client.reply())
        while not answer.done():
            time.pass_time(5)
            await asyncio.sleep(0.001)
        last = await answer
    await client.close()
    await front.settled()
    return last


async def test_a_guesser_is_refused_everywhere_and_others_are_not() -> None:
    async with timed(SUSPICIOUS) as (time, front):
        begun = time.clock.now
        assert await guess(front, time, 7, "127.0.0.1") == replies.TOO_MANY_GUESSES.wire
        assert time.limits[-1] == "harvest_refuse_after"
        gone = front.of(Disconnected)[-1]
        assert isinstance(gone, Disconnected)
        assert gone.why == "harvest_defence"
        again = await RawClient.connect(front.port)
        assert await again.rest() == replies.TOO_MANY_GUESSES.wire
        await again.close()
        assert front.of(Turned) == [Turned("127.0.0.1", "harvest_defence")]
        other = await ready(front, "127.0.0.2")
        got = await other.deliver(
            b"", [b"nobody@example.test", b"a@example.test"], b"x\r\n"
        )
        assert got == [250, 550, 250, 354, 250]
        await other.close()
        assert time.clock.now < begun + HARVEST.refuse_seconds
        time.pass_time(HARVEST.refuse_seconds)
        await (await ready(front)).close()


async def test_guessing_goes_on_in_another_session() -> None:
    async with timed(SUSPICIOUS) as (time, front):
        for _ in range(3):
            assert (await guess(front, time, 1, "127.0.0.1")).startswith(b"550 ")
        assert time.limits == []
        await guess(front, time, 1, "127.0.0.1")
        assert time.limits == ["harvest_delay_after"]


async def test_a_client_whose_mail_was_accepted_may_be_wrong_often() -> None:
    async with timed(SUSPICIOUS) as (time, front):
        client = await ready(front)
        got = await client.deliver(b"", [b"a@example.test"], b"x\r\n")
        assert got[-1] == 250
        await said(client, MAIL)
        assert await said(client, *[BAD] * 20) == [550] * 20
        assert time.limits == []
        await client.close()


async def test_a_trusted_client_may_be_wrong_often() -> None:
    networks = Trusted([ipaddress.ip_network("127.0.0.0/24")])
    async with timed(replace(SUSPICIOUS, trusted=networks)) as (time, front):
        client = await ready(front)
        assert await said(client, MAIL, *[BAD] * 100) == [250, *[550] * 100]
        assert time.limits == []
        await client.close()


async def test_a_session_with_an_accepted_recipient_is_not_held_back() -> None:
    """It has a connection to the backend, which nobody is to wait with."""
    async with timed(SUSPICIOUS) as (_, front):
        client = await ready(front)
        assert await said(client, MAIL, GOOD, *[BAD] * 6) == [250, 250, *[550] * 6]
        # Its message is not cut off; a later session is turned away.
        assert await said(client, BAD) == [550]
        await client.close()
        await front.settled()
        late = await RawClient.connect(front.port)
        assert await late.code() == 421
        await late.close()


async def test_relaying_is_no_guess() -> None:
    async with timed(SUSPICIOUS) as (time, front):
        client = await ready(front)
        foreign = b"RCPT TO:<a@elsewhere.test>"
        assert await said(client, MAIL, *[foreign] * 50) == [250, *[553] * 50]
        assert time.limits == []
        await client.close()


async def test_what_the_backend_does_not_know_is_a_guess_too() -> None:
    """Where only a patched qmail-smtpd knows the mailboxes."""
    fake = FakeQmail({"RCPT TO:<b@example.test>": b"550 5.1.1 unknown\r\n"})
    async with timed(SUSPICIOUS, fake) as (_, front):
        client = await ready(front)
        await said(client, MAIL)
        assert await said(client, *[b"RCPT TO:<b@example.test>"] * 7) == [550] * 7
        await client.close()
        again = await RawClient.connect(front.port)
        assert await again.rest() == replies.TOO_MANY_GUESSES.wire
        await again.close()


async def test_observe_mode_suspects_nobody() -> None:
    async with running(observe=True, settings=SUSPICIOUS) as front:
        client = await ready(front)
        assert await said(client, MAIL, *[BAD] * 50) == [250] * 51
        await client.close()


async def test_a_verdict_that_was_awaited_is_held_back_too() -> None:
    async def slow(question: object) -> Verdict:
        await asyncio.sleep(0)
        return reject()

    async with running(slow, settings=SUSPICIOUS) as front:
        time = Timed(front)
        client = await ready(front)
        assert await said(client, MAIL, *[BAD] * 3) == [250, *[550] * 3]
        await client.send(BAD + b"\r\n")
        await held_back(front)
        time.pass_time(2)
        assert await client.code() == 550
        await client.close()


async def test_a_guesser_that_leaves_while_it_waits() -> None:
    async with timed(SUSPICIOUS) as (time, front):
        client = await ready(front)
        await said(client, MAIL, *[BAD] * 3)
        await client.send(BAD + b"\r\n")
        await held_back(front)
        client.reset()
        await front.settled()
        time.pass_time(60)


# Pressure.


def pressures(front: Front) -> list[tuple[int, int]]:
    """Steps, and the connections at which they were entered or left."""
    events = [e for e in front.events if isinstance(e, PressureChanged)]
    return [(event.step, event.connections) for event in events]


def steps(front: Front) -> list[int]:
    return [step for step, _ in pressures(front)]


async def test_patience_becomes_shorter_near_the_cap() -> None:
    """L-stress-mode enters and leaves."""
    settings = DoorSettings(connections=20, received=False)
    async with timed(settings) as (time, front):
        door = front.door
        usual = door.patience
        clients = [await ready(front) for _ in range(14)]
        assert pressures(front) == []
        clients.append(await ready(front))
        assert pressures(front) == [(1, 15)]
        assert door.patience.command_timeout == STEPS[1].command_timeout
        clients += [await ready(front) for _ in range(3)]
        assert pressures(front)[1:] == [(2, 18)]
        # Who has been idle all the time has ten seconds more.
        talker = clients[-1]
        time.pass_time(8)
        assert await said(talker, b"NOOP") == [250]
        time.pass_time(3)
        for client in clients[:-1]:
            assert await client.rest() == replies.IDLE.wire
        assert await said(talker, b"NOOP", *[b"FOO"] * 3) == [250, *[502] * 3]
        await front.until(lambda: len(door.sessions) == 1)
        assert steps(front) == [1, 2, 1, 0]
        assert door.patience == usual
        assert set(time.limits) == {"command_timeout"}
        new = await ready(front)
        time.pass_time(250)
        assert await said(new, b"NOOP") == [250]
        for client in (talker, new, *clients):
            await client.close()


async def test_sessions_that_begin_under_pressure_are_granted_fewer_errors() -> None:
    settings = DoorSettings(connections=10, received=False)
    async with timed(settings) as (time, front):
        clients = [await ready(front) for _ in range(10)]
        assert await said(clients[-1], MAIL, *[BAD] * 4) == [250, *[550] * 3, 421]
        assert await said(clients[0], MAIL, *[BAD] * 5) == [250, *[550] * 5]
        assert time.limits == ["unknown_per_session"]
        for client in clients:
            await client.close()


async def test_idle_connections_to_the_backend_go_sooner() -> None:
    settings = DoorSettings(connections=4, received=False)
    async with running(settings=settings, backend=BackendSettings(kept=4)) as front:
        client = await ready(front)
        await client.deliver(b"", [b"a@example.test"], b"x\r\n")
        await client.close()
        await front.settled()
        assert front.backend.connections == 1
        front.backend._idle[0].deadline -= 5  # it has been idle for so long
        front.backend.sweep()
        assert front.backend.connections == 1
        clients = [await ready(front) for _ in range(4)]
        front.backend.sweep()
        assert front.backend.connections == 0
        for client in clients:
            await client.close()


async def test_a_reload_counts_anew() -> None:
    settings = DoorSettings(connections=4, received=False)
    async with timed(settings) as (_, front):
        door = front.door
        clients = [await ready(front) for _ in range(3)]
        assert steps(front) == [1]
        door.configure(door.engine, b"mx", replace(settings, connections=100))
        assert steps(front) == [1, 0]
        door.configure(door.engine, b"mx", settings)
        assert door.patience.command_timeout == STEPS[1].command_timeout
        for client in clients:
            await client.close()


# Several workers.


async def test_workers_count_together() -> None:
    """Two doors stand for two processes."""
    common = Common(2)
    async with running() as front:
        events: list[Event] = []
        settings = replace(
            SUSPICIOUS, connections=6, connections_per_client=2, connections_here=5
        )
        one, two = (
            Door(
                engine=Engine([CallRule(ours_only)]),
                backends=front.door.backends,
                observer=events.append,
                hostname=b"mx",
                settings=settings,
                common=common.column(number),
            )
            for number in range(2)
        )
        sessions = [_Nobody() for _ in range(8)]

        def enter(door: Door, number: int, client: str) -> bytes:
            reply = door.enter(sessions[number], client)  # type: ignore[arg-type]
            return reply.wire if reply else b""

        full = replies.TOO_MANY_CONNECTIONS.wire
        assert [enter(one, 0, "::1"), enter(two, 1, "::2")] == [b"", b""]
        assert [enter(one, 2, "::3"), enter(two, 2, "::4")] == [full, full]
        one.leave(sessions[0], "::1")  # type: ignore[arg-type]
        assert enter(two, 0, "::1") == b""
        assert [enter(one, n, f"192.0.2.{n}") for n in range(2, 6)] == [b""] * 4
        assert [enter(one, 6, "192.0.2.6"), enter(two, 6, "192.0.2.6")] == [full] * 2
        assert events[-1] == Turned("192.0.2.6", "connections")
        # Guesses at one count at the other, a second later.
        for _ in range(HARVEST.refuse_after + 1):
            one.guessed("s1", "192.0.2.9", REFUSAL)
        one.delivered("192.0.2.10")
        two.sweep()
        assert two._harvest.refused
        told = two.guessed("s2", "192.0.2.9", REFUSAL)
        assert told == (replies.TOO_MANY_GUESSES, 0.0)
        for _ in range(20):  # which its message has bought
            assert two.guessed("s3", "192.0.2.10", REFUSAL) == (REFUSAL, 0.0)
        assert PressureChanged(2, 6, 6) in events
        for door in (one, two):
            door.sessions.clear()


class _Nobody:
    """A session of another process, as far as the door knows."""

    deadline = float("inf")

    def hurry(self) -> None:
        """There is nobody to hurry."""


# Many at once.


async def test_a_dictionary_attack_beside_a_good_client() -> None:
    """L-dictionary: 10,000 unknown recipients over 100 sessions."""
    settings = DoorSettings(received=False, connections_per_client=200)
    async with running(settings=settings) as front:

        async def attack(source: str) -> list[int]:
            client = await RawClient.connect(front.port, source)
            await client.send(MAIL + b"\r\n" + (BAD + b"\r\n") * 100)
            got = codes(await client.rest())
            await client.close()
            return got

        attacks = asyncio.gather(*(attack(f"127.0.1.{n}") for n in range(1, 101)))
        served = 0
        while not attacks.done():
            client = await ready(front)
            got = await client.deliver(b"", [b"a@example.test"], b"x\r\n")
            assert got[-1] == 250
            await client.close()
            served += 1
        assert await attacks == [[220, 250, *[550] * 20, 421]] * 100
        await front.settled()
        assert len(front.fake.received) == served > 0
        assert front.fake.connections <= served
        limits = [e.limit for e in front.of(LimitHit)]  # type: ignore[union-attr]
        assert limits == ["unknown_per_session"] * 100


async def test_a_new_client_is_greeted_beside_many_idle_ones() -> None:
    """L-2000-idle."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4500:
        pytest.skip("ulimit -n is less than 4500")
    settings = DoorSettings(received=False)
    async with running(settings=settings) as front:
        clients = []
        for number in range(2000):
            source = f"127.0.{2 + number // 50}.1"
            clients.append(await RawClient.connect(front.port, source))
        await front.until(lambda: len(front.door.sessions) == 2000)
        new = await ready(front)
        got = await new.deliver(b"", [b"a@example.test"], b"x\r\n")
        assert got[-1] == 250
        await new.close()
        for client in clients:
            client.writer.transport.abort()
        await front.settled()
