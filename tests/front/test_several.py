"""Several backends: who gets a message, and when another one is tried."""

from __future__ import annotations

import asyncio

import pytest

from proxy.backend.choice import Place
from proxy.observe.events import BackendFailed, MessageEnded, RecipientDecided
from proxy.rules.verdict import Question, Verdict
from tests.support.backend import CLOSE, RESET, SILENT, Behaviour, FakeQmail
from tests.support.front import Front, accept, reject
from tests.support.several import closed, place, running, started, told
from tests.support.smtp_client import RawClient

GOOD = [250, 250, 354, 250]
LATER = b"451 4.4.1 cannot pass mail on now\r\n"
OTHER = b"451 4.5.3 too many recipients, send to this one later\r\n"
A, B = b"u@a.test", b"u@b.test"


def anybody(question: Question) -> Verdict:
    return reject() if question.recipient.startswith(b"no") else accept()


def failed(front: Front) -> list[tuple[str, str]]:
    failures = [e for e in front.events if isinstance(e, BackendFailed)]
    return [(each.backend, each.step) for each in failures]


def name(fake: FakeQmail) -> str:
    return f"127.0.0.1:{fake.port}"


# Another one is tried.

UNSEEN: dict[str, tuple[dict[str, Behaviour], str]] = {
    "no greeting": ({"greeting": CLOSE}, "connect"),
    "reset": ({"connect": RESET}, "connect"),
    "greeting 421": ({"greeting": b"421 busy\r\n"}, "connect"),
    "greeting 554": ({"greeting": b"554 no\r\n"}, "connect"),
    "EHLO 421": ({"EHLO": b"421 busy\r\n"}, "EHLO"),
    "EHLO closed": ({"EHLO": CLOSE}, "idle"),
    "MAIL closed": ({"MAIL": CLOSE}, "envelope"),
    "RCPT 421": ({"RCPT": b"421 busy\r\n"}, "RCPT"),
    "RCPT garbage": ({"RCPT": b"hello\r\n"}, "envelope"),
}


@pytest.mark.parametrize("fault", UNSEEN)
async def test_another_one_takes_what_nothing_was_promised_for(fault: str) -> None:
    script, step = UNSEEN[fault]
    async with started(FakeQmail(dict(script)), FakeQmail()) as (bad, good):
        places = [place(bad), place(good, backup=True)]
        async with running(anybody, places=lambda _: places) as front:
            assert await told(front, A) == GOOD
            assert failed(front) == [(name(bad), step)]
            assert len(good.received) == 1
            (ended,) = front.of(MessageEnded)
            assert isinstance(ended, MessageEnded)
            assert ended.backend == name(good)


async def test_refused_connections() -> None:
    """The same where nobody listens; and 451 where that is so everywhere."""
    async with closed(FakeQmail(), FakeQmail()) as (gone, other):
        async with started(FakeQmail()) as (good,):
            places = [place(gone), place(good, backup=True)]
            async with running(anybody, places=lambda _: places) as front:
                assert await told(front, A) == GOOD
                assert failed(front) == [(name(gone), "connect")]
        places = [place(gone), place(other)]
        async with running(anybody, places=lambda _: places) as front:
            assert await told(front, A) == [250, 451, 503]
            assert sorted(failed(front)) == sorted(
                [(name(gone), "connect"), (name(other), "connect")]
            )


async def test_a_greeting_that_does_not_come() -> None:
    async with started(FakeQmail({"connect": SILENT}), FakeQmail()) as (bad, good):
        places = [place(bad, connect_timeout=0.05), place(good, backup=True)]
        async with running(anybody, places=lambda _: places) as front:
            assert await told(front, A) == GOOD
            assert failed(front) == [(name(bad), "connect")]


async def test_a_used_connection_is_replaced_where_it_was() -> None:
    """A kept connection that is dead says nothing about its backend."""
    async with started(FakeQmail(), FakeQmail()) as (one, other):
        places = [place(one), place(other, backup=True)]
        async with running(anybody, places=lambda _: places) as front:
            assert await told(front, A) == GOOD
            one.once["RSET"] = CLOSE
            assert await told(front, A) == GOOD
            assert len(one.received) == 2
            assert (one.connections, other.connections) == (2, 0)
            assert failed(front) == []


async def test_a_used_connection_and_then_the_backend_itself() -> None:
    async with started(FakeQmail(), FakeQmail()) as (one, other):
        places = [place(one), place(other, backup=True)]
        async with (
            running(anybody, places=lambda _: places) as front,
            await RawClient.connect(front.port) as client,
        ):
            await client.reply()
            assert await client.deliver(b"", [A], b"x\r\n") == GOOD
            one.once["MAIL"] = CLOSE
            one.script["greeting"] = CLOSE
            assert await client.deliver(b"", [A], b"x\r\n") == GOOD
            assert failed(front) == [(name(one), "connect")]
            assert [len(f.received) for f in (one, other)] == [1, 1]


PROMISED: dict[str, tuple[dict[str, Behaviour], list[int]]] = {
    "second RCPT": ({"RCPT TO:<v@a.test>": CLOSE}, [250, 250, 451, 451]),
    "DATA closed": ({"DATA": CLOSE}, [250, 250, 250, 451]),
    "DATA 421": ({"DATA": b"421 bye\r\n"}, [250, 250, 250, 451]),
    "message": ({"body": CLOSE}, [250, 250, 250, 354, 451]),
    "final dot": ({"dot": CLOSE}, [250, 250, 250, 354, 451]),
}


@pytest.mark.parametrize("fault", PROMISED)
async def test_never_inside_a_transaction(fault: str) -> None:
    script, codes = PROMISED[fault]
    async with started(FakeQmail(dict(script)), FakeQmail()) as (bad, good):
        places = [place(bad), place(good, backup=True)]
        async with (
            running(anybody, places=lambda _: places) as front,
            await RawClient.connect(front.port) as client,
        ):
            await client.reply()
            got = await client.deliver(b"", [A, b"v@a.test"], b"x\r\n")
            assert got == codes
            assert good.connections == 0
            bad.script.clear()
            assert await client.deliver(b"", [A], b"x\r\n") == GOOD


async def test_what_a_backend_answers_is_the_answer() -> None:
    """A refusal of one is no reason to ask another."""
    script: dict[str, Behaviour] = {"RCPT": b"451 greylisted\r\n"}
    async with started(FakeQmail(script), FakeQmail()) as (one, other):
        places = [place(one), place(other, backup=True)]
        async with running(anybody, places=lambda _: places) as front:
            assert await told(front, A) == [250, 451, 503]
            assert other.connections == 0


async def test_a_client_that_leaves_while_another_one_is_tried() -> None:
    async with (
        closed(FakeQmail()) as (gone,),
        started(FakeQmail({"greeting": SILENT})) as (slow,),
    ):
        places = [place(gone), place(slow, backup=True)]
        async with running(anybody, places=lambda _: places) as front:
            client = await RawClient.connect(front.port)
            await client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.test>\r\n")
            await front.until(lambda: slow.stalled == 1)
            client.reset()
            await front.settled()
            await client.close()


# Turns, and one that is left in peace.


async def test_weights() -> None:
    async with started(FakeQmail(), FakeQmail()) as (heavy, light):
        places = [place(heavy, weight=3), place(light)]
        async with running(anybody, places=lambda _: places) as front:
            for _ in range(8):
                assert await told(front, A) == GOOD
            assert [len(f.received) for f in (heavy, light)] == [6, 2]
            assert (heavy.connections, light.connections) == (1, 1)  # kept ones


async def test_no_client_has_to_find_out_whether_it_is_back() -> None:
    """F-breaker, with another one to take the mail."""
    gate = asyncio.Event()
    async with started(FakeQmail({"greeting": CLOSE}), FakeQmail()) as (bad, good):
        places = [
            place(bad, breaker_failures=2, breaker_seconds=10),
            place(good, backup=True),
        ]
        async with running(anybody, places=lambda _: places) as front:
            for _ in range(4):
                assert await told(front, A) == GOOD
            assert bad.connections == 2
            front.pass_time(9)
            assert bad.connections == 2
            bad.script["greeting"] = (gate, b"220 back\r\n")
            front.pass_time(2)
            await front.until(lambda: bad.connections == 3)
            assert await told(front, A) == GOOD  # nobody waits for it
            assert len(good.received) == 5
            gate.set()
            await front.until(lambda: not front.backend.resting)
            assert await told(front, A) == GOOD
            assert len(bad.received) == 1
            assert len(failed(front)) == 2


async def test_all_are_left_in_peace() -> None:
    """Then it is as with one: at once 451, without a connection."""
    script: dict[str, Behaviour] = {"greeting": CLOSE}
    async with started(FakeQmail(dict(script)), FakeQmail(dict(script))) as (one, two):
        places = [place(one, breaker_failures=1), place(two, breaker_failures=1)]
        async with running(anybody, places=lambda _: places) as front:
            for _ in range(4):
                assert await told(front, A) == [250, 451, 503]
            assert (one.connections, two.connections) == (1, 1)
            assert {step for _, step in failed(front)[2:]} == {"breaker"}


async def test_a_stand_by_that_failed_is_found_to_be_back() -> None:
    """Although nobody's mail goes there."""
    async with (
        started(FakeQmail({"RCPT": b"421 bye\r\n"}), FakeQmail()) as (one, spare),
        running(
            anybody, places=lambda _: [place(one), place(spare, backup=True)]
        ) as front,
    ):
        _, standby = front.door.backends
        await spare.go_down()
        assert await told(front, A) == [250, 451, 503]
        assert standby.up is False
        front.pass_time(1)
        await front.until(lambda: not standby.busy)
        assert standby.up is False
        await spare.start()
        front.pass_time(1)
        await front.until(lambda: standby.up is True)
        await front.until(lambda: not spare.open_connections)


# Caps.


async def holding(front: Front, recipient: bytes = A) -> RawClient:
    """A client in the middle of a transaction."""
    client = await RawClient.connect(front.port)
    await client.reply()
    await client.command(b"MAIL FROM:<>")
    assert (await client.command(b"RCPT TO:<%s>" % recipient))[:3] == b"250"
    return client


async def waiting(front: Front, recipient: bytes = A) -> RawClient:
    """A client that has asked, and has to wait."""

    def queued() -> int:
        return sum(len(backend._slots._queue) for backend in front.door.backends)

    before = queued()
    client = await RawClient.connect(front.port)
    await client.reply()
    await client.send(b"MAIL FROM:<>\r\nRCPT TO:<%s>\r\n" % recipient)
    assert await client.code() == 250
    await front.until(lambda: queued() > before)
    return client


async def test_a_cap_waits_for_a_connection_and_uses_it_again() -> None:
    """Those who wait are served in their order."""
    async with started(FakeQmail()) as (fake,):
        places = [place(fake, connections=1)]
        async with running(anybody, places=lambda _: places) as front:
            clients = [await holding(front), *[await waiting(front) for _ in "12"]]
            await clients[0].command(b"QUIT")
            assert (await clients[1].reply())[:3] == b"250"
            await clients[1].command(b"QUIT")
            assert (await clients[2].reply())[:3] == b"250"
            assert fake.connections == 1
            for client in clients:
                await client.close()
            await front.settled()


async def test_a_cap_makes_a_connection_in_place_of_one_that_is_lost() -> None:
    async with started(FakeQmail()) as (fake,):
        places = [place(fake, connections=1)]
        async with running(anybody, places=lambda _: places) as front:
            first = await holding(front)
            second = await waiting(front)
            fake.hang_up(reset=True)
            assert (await first.command(b"DATA"))[:3] == b"451"
            front.pass_time(1)
            assert (await second.reply())[:3] == b"250"
            assert fake.connections == 2
            await first.close()
            await second.close()


async def test_the_wait_for_a_connection_is_short() -> None:
    async with started(FakeQmail()) as (fake,):
        places = [place(fake, connections=1, connection_wait=5)]
        async with running(anybody, places=lambda _: places) as front:
            first = await holding(front)
            second = await waiting(front)
            front.pass_time(4)
            assert not front.backend._slots._queue[0].granted.done()
            front.pass_time(2)
            assert await second.reply() == LATER
            assert failed(front) == [(name(fake), "connections")]
            assert (await first.command(b"DATA"))[:3] == b"354"
            await first.close()
            await second.close()


async def test_no_wait_at_all() -> None:
    async with started(FakeQmail()) as (fake,):
        places = [place(fake, connections=1, connection_wait=0)]
        async with running(anybody, places=lambda _: places) as front:
            first = await holding(front)
            assert await told_rcpt(front) == LATER
            await first.close()


async def told_rcpt(front: Front) -> bytes:
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<>")
        return await client.command(b"RCPT TO:<u@a.test>")


async def test_who_waits_and_leaves_takes_nothing_with_it() -> None:
    async with started(FakeQmail()) as (fake,):
        places = [place(fake, connections=1)]
        async with running(anybody, places=lambda _: places) as front:
            first = await holding(front)
            second = await waiting(front)
            third = await waiting(front)
            second.reset()
            await front.until(lambda: len(front.door.sessions) == 2)
            await first.command(b"QUIT")
            assert (await third.reply())[:3] == b"250"
            assert fake.connections == 1
            for client in (first, second, third):
                await client.close()


async def test_what_is_too_much_for_one_goes_to_another() -> None:
    """And to the backup only when the others are full; then there is a wait."""
    async with started(FakeQmail(), FakeQmail(), FakeQmail()) as fakes:
        a, b, c = fakes
        places = [
            place(a, connections=1),
            place(b, connections=1),
            place(c, backup=True, connections=1),
        ]
        async with running(anybody, places=lambda _: places) as front:
            clients = [await holding(front) for _ in range(3)]
            assert [f.connections for f in fakes] == [1, 1, 1]
            last = await waiting(front)
            front.pass_time(6)
            assert await last.reply() == LATER
            for client in (*clients, last):
                await client.close()


# Domains.


def by_domain(a: FakeQmail, b: FakeQmail) -> list[Place]:
    return [place(a), place(b, b"b.test", b".b.test")]


async def test_one_message_goes_to_one_backend() -> None:
    """The others of its recipients are for another transaction, which may be
    of the same session."""
    async with (
        started(FakeQmail(), FakeQmail()) as (a, b),
        running(anybody, places=lambda _: by_domain(a, b)) as front,
    ):
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<>")
            assert (await client.command(b"RCPT TO:<u@a.test>"))[:3] == b"250"
            assert await client.command(b"RCPT TO:<u@b.test>") == OTHER
            assert (await client.command(b"RCPT TO:<v@a.test>"))[:3] == b"250"
            assert (await client.command(b"RCPT TO:<no@b.test>"))[:3] == b"550"
            assert (await client.command(b"DATA"))[:3] == b"354"
            await client.send(b"x\r\n.\r\n")
            assert await client.code() == 250
            assert await client.deliver(b"", [B], b"x\r\n") == GOOD
            assert await client.deliver(b"", [A], b"x\r\n") == GOOD
        assert [m.recipients for m in a.received] == [
            [b"TO:<u@a.test>", b"TO:<v@a.test>"],
            [b"TO:<u@a.test>"],
        ]
        assert [m.recipients for m in b.received] == [[b"TO:<u@b.test>"]]
        assert (a.connections, b.connections) == (1, 1)
        decided = [e for e in front.of(RecipientDecided) if e.rule == "backend"]  # type: ignore[union-attr]
        assert [(e.verdict, e.recipient) for e in decided] == [("defer", B)]  # type: ignore[union-attr]


async def test_a_mixed_message_in_one_packet() -> None:
    """While the first recipient's answer is awaited, it binds; the answers
    are in order."""
    async with (
        started(FakeQmail(), FakeQmail()) as (a, b),
        running(anybody, places=lambda _: by_domain(a, b)) as front,
    ):
        async with await RawClient.connect(front.port) as client:
            await client.send(
                b"MAIL FROM:<>\r\nRCPT TO:<u@X.B.test>\r\nRCPT TO:<u@a.test>\r\n"
                b"RCPT TO:<v@b.test>\r\nDATA\r\n"
            )
            codes = [await client.code() for _ in range(6)]
            assert codes == [220, 250, 250, 451, 250, 354]
            await client.send(b"x\r\n.\r\n")
            assert await client.code() == 250
        assert len(b.received[0].recipients) == 2
        assert a.connections == 0


@pytest.mark.parametrize("fault", ["refused", "MAIL refused", "lost"])
async def test_one_that_took_nobody_does_not_bind(fault: str) -> None:
    """The mail of some domains does not wait for the backend of others."""
    scripts: dict[str, dict[str, Behaviour]] = {
        "refused": {"RCPT": b"550 no\r\n"},
        "MAIL refused": {"MAIL": b"451 not now\r\n"},
        "lost": {"greeting": CLOSE},
    }
    async with (
        started(FakeQmail(scripts[fault]), FakeQmail()) as (a, b),
        running(anybody, places=lambda _: by_domain(a, b)) as front,
    ):
        got = await told(front, A, B, A, B)
        assert got[2] == got[4] == 250
        assert got[1] in (451, 550)
        assert got[3] == 451
        assert got[5:] == [354, 250]
        assert b.received[0].recipients == [b"TO:<u@b.test>"] * 2


async def test_a_transaction_whose_recipients_are_lost_does_not_move() -> None:
    """250 was said: the message is 451 for them, whoever else would take it."""
    async with (
        started(FakeQmail({"RCPT TO:<v@a.test>": CLOSE}), FakeQmail()) as (a, b),
        running(anybody, places=lambda _: by_domain(a, b)) as front,
    ):
        got = await told(front, A, b"v@a.test", B)
        assert got == [250, 250, 451, 451, 451]
        assert b.received == []


async def test_a_given_up_transaction_binds_nobody() -> None:
    async with (
        started(FakeQmail(), FakeQmail()) as (a, b),
        running(anybody, places=lambda _: by_domain(a, b)) as front,
    ):
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<>")
            assert (await client.command(b"RCPT TO:<u@a.test>"))[:3] == b"250"
            await client.command(b"RSET")
            assert await client.deliver(b"", [B], b"x\r\n") == GOOD
        assert await told(front, A) == GOOD
        assert (a.connections, b.connections) == (1, 1)
        assert [len(f.received) for f in (a, b)] == [1, 1]


async def test_a_recipient_given_up_while_its_backend_is_connected_to() -> None:
    gate = asyncio.Event()
    async with (
        started(FakeQmail({"connect": gate}), FakeQmail()) as (a, b),
        running(anybody, places=lambda _: by_domain(a, b)) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        await client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.test>\r\n")
        assert await client.code() == 250
        await front.until(lambda: a.connections == 1)
        gate.set()
        assert await client.code() == 250
        await client.command(b"RSET")
        assert await client.deliver(b"", [B], b"x\r\n") == GOOD


# Another configuration.


async def test_a_removed_one_finishes_what_it_has() -> None:
    async with (
        started(FakeQmail(), FakeQmail()) as (old, new),
        running(anybody, places=lambda _: [place(old)]) as front,
    ):
        other = [place(new), place(new, b"n.test")]
        assert await told(front, A) == GOOD  # an idle connection is there
        client = await holding(front)
        front.door.backends.use(other)
        assert (await client.command(b"DATA"))[:3] == b"354"
        await client.send(b"x\r\n.\r\n")
        assert await client.code() == 250
        assert await told(front, A, others=1) == GOOD
        await client.command(b"QUIT")
        await client.close()
        await front.settled()
        assert [len(f.received) for f in (old, new)] == [2, 1]
        await front.until(lambda: not old.open_connections)
        front.pass_time(1)
        assert not front.door.backends._retired


async def test_one_is_added() -> None:
    async with (
        started(FakeQmail(), FakeQmail()) as (old, new),
        running(anybody, places=lambda _: [place(old)]) as front,
    ):
        assert await told(front, A) == GOOD
        front.door.backends.use([place(old), place(new)])
        for _ in range(4):
            assert await told(front, A) == GOOD
        assert [len(f.received) for f in (old, new)] == [3, 2]
        # It stays the same; a reload ends what was idle.
        assert old.connections == 2


@pytest.mark.fault("N27")
async def test_a_session_stays_with_its_backend() -> None:
    """Though its connection is given back after each message."""
    async with started(FakeQmail(), FakeQmail()) as both:
        places = [place(fake) for fake in both]
        async with (
            running(anybody, places=lambda _: places) as front,
            await RawClient.connect(front.port) as client,
        ):
            await client.reply()
            for _ in range(4):
                assert await client.deliver(b"", [A], b"x\r\n") == GOOD
            assert sorted(len(f.received) for f in both) == [0, 4]
            assert sorted(f.connections for f in both) == [0, 1]
            assert await told(front, A, others=1) == GOOD
            assert sorted(len(f.received) for f in both) == [1, 4]
