"""AUTH through the front door, before a backend that has it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import smtplib
from collections.abc import AsyncIterator

import pytest

from proxy.backend.offers import AGAIN_SECONDS, RETRY_SECONDS, Offers
from proxy.backend.settings import BackendSettings
from proxy.front.door import DoorSettings
from proxy.observe.events import AuthEnded, BackendFailed, LimitHit
from proxy.observe.lines import Formatter
from proxy.rules.verdict import Answer, Question
from proxy.smtp.driver import Limits
from tests.support.backend import CLOSE, RESET, SILENT, Behaviour, FakeQmail
from tests.support.driver import codes
from tests.support.front import Front, accept, ours_only, running
from tests.support.offers import known
from tests.support.smtp_client import RawClient

PASSWORD = b"wonder land"
SETTINGS = DoorSettings(received=False, session=Limits(auth_needs_tls=False))
FOREIGN = b"x@elsewhere.test"


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


GOOD = b"AUTH PLAIN " + b64(b"\0alice\0" + PASSWORD)
BAD = b"AUTH PLAIN " + b64(b"\0alice\0wrong")


def qmail(**more: object) -> FakeQmail:
    return FakeQmail(
        mechanisms=b"PLAIN LOGIN CRAM-MD5",
        users={b"alice": PASSWORD},
        **more,  # type: ignore[arg-type]
    )


def relaying(question: Question) -> Answer:
    """As the rule ``qmail``: RELAYCLIENT opens every domain."""
    if question.relayclient is not None:
        return accept()
    answer = ours_only(question)
    return answer


@contextlib.asynccontextmanager
async def authenticating(
    fake: FakeQmail | None = None, settings: DoorSettings = SETTINGS
) -> AsyncIterator[Front]:
    """A front door that knows what its backend offers."""
    backend = BackendSettings(learn_auth=True)
    fake = fake or qmail()
    async with (
        running(relaying, fake=fake, settings=settings, backend=backend) as front,
        known(front),
    ):
        fake.connections = 0
        fake.commands.clear()
        yield front


@contextlib.asynccontextmanager
async def session(front: Front, name: bytes = b"me.test") -> AsyncIterator[RawClient]:
    """A client after its EHLO."""
    async with await RawClient.connect(front.port) as client:
        assert await client.code() == 220
        said = await client.command(b"EHLO " + name)
        assert said.endswith(b"\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n")
        yield client


async def code(client: RawClient, line: bytes) -> int:
    return int((await client.command(line))[:3])


def ends(front: Front) -> list[tuple[bytes, str, int, bytes]]:
    return [e[2:] for e in front.events if isinstance(e, AuthEnded)]


def in_the_log(front: Front) -> str:
    """All that was told, as lines of every form, and as Python shows it."""
    lines = [repr(front.events)]
    for form in (Formatter("logfmt"), Formatter("json")):
        lines += [form.line(event, 0.0) for event in front.events]
    return "\n".join(lines)


async def test_it_relays_to_a_foreign_domain_and_without_it_is_refused() -> None:
    async with authenticating() as front:
        async with session(front) as client:
            got = await client.deliver(b"a@b.test", [FOREIGN], b"x\r\n")
            assert got == [250, 553, 503]
            assert await code(client, b"RSET") == 250
            assert front.fake.connections == 0
            assert await code(client, GOOD) == 235
            got = await client.deliver(b"a@b.test", [FOREIGN], b"x\r\n")
            assert got == [250, 250, 354, 250]
            # And again, and ours, on the same connection.
            got = await client.deliver(b"", [FOREIGN, b"a@example.test"], b"x\r\n")
            assert got == [250, 250, 250, 354, 250]
            assert await code(client, b"QUIT") == 221
        await front.settled()
        assert [m.recipients[0] for m in front.fake.received] == [
            b"TO:<x@elsewhere.test>"
        ] * 2
        assert front.fake.connections == 1
        assert front.fake.commands[:2] == [b"EHLO me.test", GOOD]
        assert ends(front) == [(b"PLAIN", "accepted", 235, b"alice")]
        assert PASSWORD.decode() not in in_the_log(front)
        assert "mechanism=PLAIN outcome=accepted code=235 user=alice" in in_the_log(
            front
        )


async def test_the_connection_is_never_anybody_elses() -> None:
    """Neither after AUTH, nor after one that failed."""
    async with authenticating() as front:
        for line, expected in ((GOOD, 235), (BAD, 535)):
            async with session(front) as client:
                assert await code(client, line) == expected
                got = await client.deliver(b"", [b"a@example.test"], b"x\r\n")
                assert got[-1] == 250
                await client.command(b"QUIT")
            await front.settled()
            # After a refusal the mail went over another one, which is anybody's.
            left = 0 if expected == 235 else 1
            await front.until(lambda: front.fake.open_connections == left)  # noqa: B023
            assert front.fake.commands.count(b"QUIT") == 1 + left
            assert front.backend.connections == left
        before = front.fake.connections
        async with session(front) as client:
            assert await code(client, b"MAIL FROM:<>") == 250
            assert await code(client, b"RCPT TO:<%s>" % FOREIGN) == 553
            assert await code(client, b"RCPT TO:<a@example.test>") == 250
        assert front.fake.connections == before  # that of the mail after the refusal


async def test_a_kept_connection_is_not_used_for_auth() -> None:
    """What had been used for somebody's mail is given back."""
    async with authenticating() as front:
        async with session(front) as client:
            await client.deliver(b"", [b"a@example.test"], b"x\r\n")
            assert front.fake.connections == 1
            assert await code(client, GOOD) == 235
            assert front.fake.connections == 2
            got = await client.deliver(b"", [FOREIGN], b"x\r\n")
            assert got[-1] == 250
            assert front.backend.connections == 2
        await front.settled()
        assert front.backend.connections == 1  # the one without AUTH


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("initial", [True, False])
async def test_pythons_smtplib(mechanism: str, initial: bool) -> None:
    async with authenticating() as front:
        front.fake.mechanisms = mechanism.encode()
        front.backend.auth_offered = b"AUTH " + mechanism.encode()

        def talk() -> None:
            with smtplib.SMTP("127.0.0.1", front.port, timeout=60) as smtp:
                smtp.ehlo("me.test")
                with pytest.raises(smtplib.SMTPAuthenticationError) as trouble:
                    smtp.login("alice", "wrong", initial_response_ok=initial)
                assert trouble.value.smtp_code == 535
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    smtp.sendmail("a@b.test", [FOREIGN.decode()], "x")
                smtp.login("alice", PASSWORD.decode(), initial_response_ok=initial)
                smtp.sendmail("a@b.test", [FOREIGN.decode()], "x")

        await asyncio.to_thread(talk)
        await front.settled()
        assert [e[1:] for e in ends(front)] == [
            ("refused", 535, b""),
            ("accepted", 235, b"alice"),
        ]
        assert len(front.fake.received) == 1
        for secret in (PASSWORD, b64(PASSWORD), b"wrong", b64(b"wrong")):
            assert secret.decode() not in in_the_log(front)


async def test_the_rest_of_a_pipelined_session_is_held() -> None:
    """RSET, MAIL, RCPT and DATA behind AUTH in one segment; also bytewise."""
    data = (
        b"AUTH LOGIN\r\n" + b64(b"alice") + b"\r\n" + b64(PASSWORD) + b"\r\n"
        b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<x@elsewhere.test>\r\nDATA\r\nx\r\n.\r\n"
        b"QUIT\r\n"
    )
    async with authenticating() as front:
        for pieces in ([data], [bytes([b]) for b in data]):
            async with session(front) as client:
                for piece in pieces:
                    await client.send(piece)
                    await asyncio.sleep(0)
                said = codes(await client.rest())
                assert said == [334, 334, 235, 250, 250, 250, 354, 250, 221]
            await front.settled()
        assert len(front.fake.received) == 2


async def test_cancelled_and_refused_by_the_backend() -> None:
    async with authenticating() as front, session(front) as client:
        assert await code(client, b"AUTH LOGIN") == 334
        assert await code(client, b"*") == 501
        assert await code(client, b"AUTH PLAIN ?") == 501
        assert await code(client, BAD) == 535
        assert await code(client, GOOD) == 421
        assert await client.rest() == b""
        assert len(ends(front)) == 3
        assert [e.limit for e in front.events if isinstance(e, LimitHit)] == [
            "auth_failures"
        ]


async def test_the_envelope_is_reset_before_another_auth() -> None:
    async with authenticating() as front, session(front) as client:
        assert await code(client, BAD) == 535
        await client.command(b"MAIL FROM:<>")
        assert await code(client, b"RCPT TO:<a@example.test>") == 250
        assert await code(client, GOOD) == 503
        assert await code(client, b"RSET") == 250
        assert await code(client, GOOD) == 235


@pytest.mark.parametrize(
    ("mail", "auth", "told"),
    [
        (b"MAIL FROM:<a@b.test> AUTH=joe SIZE=3", True, b"FROM:<a@b.test> AUTH=joe"),
        (b"MAIL FROM:<a@b.test> AUTH=joe SIZE=3", False, b"FROM:<a@b.test>"),
    ],
)
async def test_the_parameter_auth(mail: bytes, auth: bool, told: bytes) -> None:
    """It is the word of the authenticated (RFC 4954 §5), and nobody else's."""
    async with authenticating() as front, session(front) as client:
        if auth:
            assert await code(client, GOOD) == 235
        await client.command(mail)
        await client.command(b"RCPT TO:<a@example.test>")
        await client.command(b"DATA")
        await client.command(b"x\r\n.")
        assert front.fake.received[0].mail == told


@pytest.mark.parametrize(
    ("greeting", "word"), [(b"EHLO me.test", b"ESMTPA"), (b"HELO me.test", b"ESMTPA")]
)
async def test_received_names_the_protocol_and_the_user(
    greeting: bytes, word: bytes
) -> None:
    settings = DoorSettings(session=Limits(auth_needs_tls=False))
    async with authenticating(settings=settings) as front, session(front) as client:
        await client.command(greeting)
        assert await code(client, GOOD) == 235
        await client.deliver(b"", [FOREIGN], b"x\r\n")
        head = front.fake.received[0].message
        assert b" with " + word + b" id " in head
        assert b"(authenticated as alice)" in head


# Loss.


async def lose(front: Front, *, reset: bool = False) -> None:
    front.fake.hang_up(reset=reset)


@pytest.mark.parametrize("reset", [False, True])
async def test_lost_between_two_transactions(reset: bool) -> None:
    """There is no going on as nobody: the session ends."""
    async with authenticating() as front, session(front) as client:
        assert await code(client, GOOD) == 235
        await client.deliver(b"", [FOREIGN], b"x\r\n")
        await lose(front, reset=reset)
        assert await client.rest() == (
            b"421 4.4.2 authenticate anew, closing connection\r\n"
        )
        await front.settled()
        assert front.fake.connections == 1
        assert len([e for e in front.events if isinstance(e, BackendFailed)]) == 1


async def test_lost_at_rcpt_is_not_tried_on_a_fresh_connection() -> None:
    async with authenticating(qmail(once={"RCPT": RESET})) as front:
        async with session(front) as client:
            assert await code(client, GOOD) == 235
            await client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\n")
            assert codes(await client.rest()) == [250, 451, 421]
        await front.settled()
        assert front.fake.connections == 1


async def test_lost_at_the_second_transactions_rcpt() -> None:
    """Where it had been used before, and others are replaced in silence."""
    async with authenticating() as front, session(front) as client:
        assert await code(client, GOOD) == 235
        await client.deliver(b"", [FOREIGN], b"x\r\n")
        front.fake.once["RCPT"] = CLOSE
        await client.send(b"MAIL FROM:<>\r\nRCPT TO:<%s>\r\n" % FOREIGN)
        assert codes(await client.rest()) == [250, 451, 421]
        await front.settled()
        assert front.fake.connections == 1
        (failure,) = [e for e in front.events if isinstance(e, BackendFailed)]
        assert failure.step == "envelope"  # what really was the trouble


async def test_lost_after_a_message_that_was_too_big() -> None:
    """The transaction is cut off, and the authentication with it."""
    settings = DoorSettings(
        received=False, session=Limits(auth_needs_tls=False, message_size=20)
    )
    async with authenticating(settings=settings) as front, session(front) as client:
        assert await code(client, GOOD) == 235
        got = await client.deliver(b"", [FOREIGN], b"x" * 30 + b"\r\n")
        assert got[-1] == 552
        await client.send(b"MAIL FROM:<>\r\nRCPT TO:<%s>\r\n" % FOREIGN)
        assert codes(await client.rest()) == [250, 451, 421]
        assert front.fake.connections == 1
        assert front.fake.received == []


FAULTS: dict[str, tuple[dict[str, Behaviour], int]] = {
    "connect": ({"connect": RESET}, 451),
    "greeting": ({"greeting": b"421 no\r\n"}, 451),
    "EHLO-fin": ({"EHLO": CLOSE}, 451),
    "EHLO-421": ({"EHLO": b"421 no\r\n"}, 451),
    "AUTH-fin": ({"AUTH": CLOSE}, 451),
    "AUTH-rst": ({"AUTH": RESET}, 451),
    "AUTH-421": ({"AUTH": b"421 no\r\n"}, 451),
    "AUTH-454": ({"AUTH": b"454 later\r\n"}, 454),
    "AUTH-wrong-class": ({"AUTH": b"250 ok\r\n"}, 451),
    "AUTH-garbage": ({"AUTH": b"?\r\n"}, 451),
    "AUTH-two-replies": ({"AUTH": b"535 no\r\n235 ok\r\n"}, 451),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_backend_faults(name: str) -> None:
    """The client hears something; it is not trusted; the session lives."""
    script, expected = FAULTS[name]
    async with authenticating() as front, session(front) as client:
        front.fake.script = script
        assert await code(client, GOOD) == expected
        front.fake.script = {}
        await client.command(b"MAIL FROM:<>")
        assert await code(client, b"RCPT TO:<%s>" % FOREIGN) == 553
        assert await code(client, b"RCPT TO:<a@example.test>") == 250
        ((_, outcome, _, user),) = ends(front)
        assert outcome == ("deferred" if expected == 454 else "lost")
        assert user == b""
        for secret in (PASSWORD, b64(b"\0alice\0" + PASSWORD)):
            assert secret.decode() not in in_the_log(front)


async def test_silent_at_auth() -> None:
    """The step in the log is AUTH; the line that was sent is not in it."""
    fake = qmail(script={"AUTH": SILENT})
    async with authenticating(fake) as front, session(front) as client:
        assert await code(client, b"AUTH LOGIN") == 334
        assert await code(client, b64(b"alice")) == 334
        await client.send(b64(PASSWORD) + b"\r\n")
        await front.until(lambda: fake.stalled == 1)
        front.pass_time(61)
        assert await client.code() == 451
        (failure,) = [e for e in front.events if isinstance(e, BackendFailed)]
        assert failure.step == "AUTH"
        assert failure.why == "AUTH: no answer in time"
        assert b64(PASSWORD).decode() not in in_the_log(front)


async def test_lost_within_an_exchange() -> None:
    async with authenticating() as front, session(front) as client:
        assert await code(client, b"AUTH LOGIN") == 334
        await lose(front)
        await front.until(lambda: bool(front.of(BackendFailed)))
        assert await code(client, b64(b"alice")) == 451
        assert await code(client, GOOD) == 235
        assert front.fake.connections == 2


async def test_a_client_that_leaves_within_an_exchange() -> None:
    """QUIT would be its password: the connection is just closed."""
    async with authenticating() as front:
        async with session(front) as client:
            assert await code(client, b"AUTH LOGIN") == 334
            client.reset()
        await front.settled()
        await front.until(lambda: not front.fake.open_connections)
        assert front.fake.commands[1] == b"AUTH LOGIN"
        assert b"QUIT" not in front.fake.commands


async def test_a_client_that_thinks_too_long() -> None:
    async with authenticating() as front, session(front) as client:
        assert await code(client, b"AUTH LOGIN") == 334
        front.pass_time(299)
        await client.send(b"half a line")
        front.pass_time(2)
        assert await client.code() == 421


# What is offered.


async def test_learning_what_is_offered() -> None:
    fake = qmail()
    async with running(fake=fake, backend=BackendSettings(learn_auth=True)) as front:
        await fake.go_down()
        offers = Offers(front.backend)
        offers.tick()
        await front.until(lambda: front.backend.up is False)
        assert front.backend.auth_offered == b""
        await fake.start()
        offers.tick()  # not yet
        await asyncio.sleep(0)
        assert fake.connections == 0
        front.pass_time(RETRY_SECONDS)
        offers.tick()
        await front.until(lambda: front.backend.auth_offered != b"")
        await front.until(lambda: fake.commands == [b"EHLO mx.example.test", b"QUIT"])
        fake.mechanisms = b"PLAIN"
        front.pass_time(AGAIN_SECONDS)
        offers.tick()
        await front.until(lambda: front.backend.auth_offered == b"AUTH PLAIN")
        # What is heard on the way of mail counts as well.
        fake.mechanisms = b"LOGIN"
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.deliver(b"", [b"a@example.test"], b"x\r\n")
        assert front.backend.auth_offered == b"AUTH LOGIN"
        offers.close()


@pytest.mark.parametrize("behaviour", [SILENT, CLOSE, b"500 no\r\n"])
async def test_a_question_that_is_not_answered(behaviour: Behaviour) -> None:
    fake = qmail(script={"EHLO": behaviour})
    async with running(fake=fake, backend=BackendSettings(learn_auth=True)) as front:
        offers = Offers(front.backend)
        for times in (1, 2):
            offers.tick()
            await front.until(
                lambda: fake.commands.count(b"EHLO mx.example.test") == times  # noqa: B023
            )
            front.pass_time(61)
            await front.until(lambda: not fake.open_connections)
        assert front.backend.auth_offered == b""
        offers.tick()
        offers.close()


async def test_without_the_key_nothing_is_asked_or_offered() -> None:
    async with running(fake=qmail(), settings=SETTINGS) as front:
        Offers(front.backend).tick()
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            assert b"AUTH" not in await client.command(b"EHLO c.test")
            assert await code(client, GOOD) == 502
            await client.deliver(b"", [b"a@example.test"], b"x\r\n")
            assert b"AUTH" not in await client.command(b"EHLO c.test")
        assert front.fake.connections == 1
        assert ends(front) == []


async def test_strangers_do_not_reach_the_backend() -> None:
    async with authenticating() as front:
        for _ in range(10):
            async with session(front) as client:
                assert await code(client, b"AUTH GSSAPI x") == 504
                await client.command(b"QUIT")
        assert front.fake.connections == 0


STEPS = [
    b"AUTH LOGIN",
    b64(b"alice"),
    b64(PASSWORD),
    b"MAIL FROM:<>",
    b"RCPT TO:<x@elsewhere.test>",
    b"DATA",
    b"x\r\n.",
]


@pytest.mark.parametrize("answered", range(len(STEPS) + 1))
@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_that_leaves_anywhere(answered: int, reset: bool) -> None:
    """After so many answers, with the next line on its way: nothing is left, and
    the next one's AUTH has a connection of its own."""
    async with authenticating() as front:
        async with session(front) as client:
            for line in STEPS[:answered]:
                assert (await code(client, line)) < 400
            await client.send(b"\r\n".join([*STEPS, b""][answered : answered + 1]))
            if reset:
                client.reset()
        await front.settled()
        await front.until(lambda: not front.fake.open_connections)
        assert front.backend.connections == 0
        before = front.fake.connections
        async with session(front, b"next.test") as client:
            assert await code(client, GOOD) == 235
        assert front.fake.connections == before + 1
        assert front.fake.commands[-2:] == [b"EHLO next.test", GOOD]
