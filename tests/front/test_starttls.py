"""STARTTLS, and TLS from the start: what the matrix calls the T family."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from proxy.front.door import DoorSettings
from proxy.front.tls import ServerTls
from proxy.front.tls_session import TlsSession
from proxy.front.told import client_of
from proxy.observe.events import (
    Disconnected,
    LimitHit,
    MessageEnded,
    TlsFailed,
    TlsStarted,
)
from tests.support.backend import FakeQmail
from tests.support.certificates import client_context, server_context, server_tls
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
MESSAGE = b"Subject: x\r\n\r\n..hello\r\n"


def offering(tls: ServerTls | None = None, *, received: bool = False) -> DoorSettings:
    return DoorSettings(received=received, tls=tls or server_tls())


async def greeted(port: int) -> RawClient:
    client = await RawClient.connect(port)
    assert await client.code() == 220
    return client


async def extensions(client: RawClient) -> list[bytes]:
    reply = await client.command(b"EHLO c.test")
    return [line[4:] for line in reply.splitlines()[1:]]


@contextlib.asynccontextmanager
async def implicit(front: Front) -> AsyncIterator[int]:
    """A port where TLS comes first, before the same door."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TlsSession(front.door), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("version", [V12, V13])
async def test_a_message_through_starttls(version: ssl.TLSVersion) -> None:
    async with running(settings=offering(received=True)) as front:
        async with await greeted(front.port) as client:
            assert b"STARTTLS" in await extensions(client)
            await client.encrypt(client_context(version))
            (session,) = front.door.sessions
            who = client_of(session)
            assert (who.address, who.local_port) == ("127.0.0.1", front.port)
            assert b"STARTTLS" not in await extensions(client)
            said = await client.deliver(b"a@b.test", [b"x@example.test"], MESSAGE)
            assert said == [250, 250, 354, 250]
            assert (await client.command(b"QUIT"))[:3] == b"221"
            assert await client.rest() == b""
        (event,) = front.of(TlsStarted)
        assert isinstance(event, TlsStarted)
        assert event.version == f"TLSv1.{version - 0x301}"
        assert event.discarded == 0
        (mail,) = front.fake.received
        line, _, message = mail.message.partition(b"\r\n\tby ")
        assert line == b"Received: from c.test ([127.0.0.1])"
        used = f"mx.example.test with ESMTPS ({event.version} {event.cipher}) id "
        assert message.startswith(used.encode())
        assert message.endswith(b"\r\nSubject: x\r\n\r\n.hello\r\n")
        await front.settled()
        (end,) = front.of(Disconnected)
        assert isinstance(end, Disconnected)
        assert (end.why, end.messages) == ("quit", 1)


async def test_helo_has_no_name_of_its_own_under_tls() -> None:
    async with running(settings=offering(received=True)) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            await client.command(b"HELO c.test")
            await client.deliver(b"", [b"x@example.test"], MESSAGE)
        (mail,) = front.fake.received
        assert b" with SMTP (TLSv1.3 " in mail.message


async def test_without_a_certificate_there_is_no_starttls() -> None:
    async with running() as front, await greeted(front.port) as client:
        assert b"STARTTLS" not in await extensions(client)
        assert (await client.command(b"STARTTLS"))[:3] == b"502"
        said = await client.deliver(b"", [b"x@example.test"], MESSAGE)
        assert said == [250, 250, 354, 250]


@pytest.mark.parametrize("cut", [False, True])
async def test_t_starttls_injection(cut: bool) -> None:
    """What stands behind STARTTLS in the clear is never read (CVE-2011-0411)."""
    injected = (
        b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<x@example.test>\r\nNOOP" + b"\r\n" * 2
    )
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            command = b"EHLO c.test\r\nSTARTTLS\r\n" + injected
            await client.send(command[:-3] if cut else command)
            assert await client.code() == 250
            assert await client.code() == 220
            await client.start_tls(client_context())
            # An answer to anything that was injected would come first.
            assert (await client.command(b"HELP"))[:3] == b"214"
            assert (await client.command(b"RCPT TO:<x@example.test>"))[:3] == b"503"
            assert (await client.command(b"QUIT"))[:3] == b"221"
        (event,) = front.of(TlsStarted)
        assert isinstance(event, TlsStarted)
        assert event.discarded == len(injected) - 3 * cut
        assert front.fake.connections == 0


async def test_t_starttls_injection_behind_220_is_no_handshake() -> None:
    """In a segment of its own it is read as a handshake, and is none."""
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            assert (await client.command(b"STARTTLS"))[:3] == b"220"
            await client.send(
                b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<x@example.test>\r\n"
            )
            assert b"250" not in await client.rest()
        await front.settled()
        assert len(front.of(TlsFailed)) == 1


async def test_t_starttls_twice() -> None:
    async with (
        running(settings=offering()) as front,
        await greeted(front.port) as client,
    ):
        await client.encrypt(client_context())
        assert (await client.command(b"STARTTLS"))[:3] == b"503"
        said = await client.deliver(b"", [b"x@example.test"], MESSAGE)
        assert said == [250, 250, 354, 250]


async def test_starttls_takes_no_parameter() -> None:
    async with (
        running(settings=offering()) as front,
        await greeted(front.port) as client,
    ):
        assert (await client.command(b"STARTTLS now"))[:3] == b"501"
        await client.encrypt(client_context())


async def test_t_starttls_resets_helo_and_envelope() -> None:
    """Also at the backend, which gets the name that was said under TLS."""
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            await client.command(b"EHLO before.test")
            await client.command(b"MAIL FROM:<a@b.test>")
            assert (await client.command(b"RCPT TO:<x@example.test>"))[:3] == b"250"
            await client.encrypt(client_context())
            assert (await client.command(b"RCPT TO:<x@example.test>"))[:3] == b"503"
            assert (await client.command(b"DATA"))[:3] == b"503"
            said = await client.deliver(b"", [b"y@example.test"], MESSAGE)
            assert said == [250, 250, 354, 250]
        (mail,) = front.fake.received
        assert mail.recipients == [b"TO:<y@example.test>"]
        assert mail.mail == b"FROM:<>"


async def test_starttls_behind_recipients_waits_for_their_answers() -> None:
    fake = FakeQmail()
    async with running(settings=offering(), fake=fake) as front:
        async with await greeted(front.port) as client:
            await client.send(
                b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<x@example.test>\r\nSTARTTLS\r\n"
            )
            assert [await client.code() for _ in range(4)] == [250, 250, 250, 220]
            await client.start_tls(client_context())
            assert (await client.command(b"DATA"))[:3] == b"503"
        await front.settled()
        assert not fake.received


async def test_a_pipelined_envelope_under_tls() -> None:
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            await client.send(
                b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<x@example.test>\r\n"
                b"RCPT TO:<no@example.test>\r\nDATA\r\n"
            )
            said = [await client.code() for _ in range(5)]
            assert said == [250, 250, 250, 550, 354]
            await client.send(MESSAGE + b".\r\nQUIT\r\n")
            assert [await client.code() for _ in range(2)] == [250, 221]
        (mail,) = front.fake.received
        assert mail.message == b"Subject: x\r\n\r\n.hello\r\n"


async def test_five_megabytes_are_the_same_behind_tls() -> None:
    message = b"".join(b"%07d " % n * 9 + b"\xff\r\n" for n in range(70000))
    assert len(message) > 5_000_000
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            said = await client.deliver(b"", [b"x@example.test"], message)
            assert said == [250, 250, 354, 250]
        (mail,) = front.fake.received
        assert mail.message == message


async def test_a_backend_that_does_not_read_stops_an_encrypted_client() -> None:
    """Flow control works through TLS, and comes to its end."""
    fake = FakeQmail(receive_buffer=4096)
    gate = fake.script["body"] = asyncio.Event()
    message = b"x" * 998 + b"\r\n"
    async with running(settings=offering(), fake=fake) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            await client.deliver(b"", [b"x@example.test"], b"", dot=False)
            (session,) = front.door.sessions
            count = 0
            while session._reading:
                client.writer.write(message)
                count += 1
                await asyncio.sleep(0)
                assert count < 1_000_000
            gate.set()
            await client.send(b".\r\n")
            assert await client.code() == 250
        (mail,) = fake.received
        assert mail.message == message * count


GARBAGE = {
    "text": b"this is no handshake\r\n" * 20,
    "zeros": bytes(300),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a record of nonsense": b"\x16\x03\x01\x00\x10" + b"\xff" * 16,
}


@pytest.mark.parametrize("first", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_t_handshake_garbage(garbage: bytes, first: bool) -> None:
    async with running(settings=offering()) as front, implicit(front) as port:
        if first:
            client = await RawClient.connect(port)
        else:
            client = await greeted(front.port)
            assert (await client.command(b"STARTTLS"))[:3] == b"220"
        async with client:
            await client.send(garbage)
            assert b"250" not in await client.rest()
        await front.settled()
        (event,) = front.of(TlsFailed)
        assert isinstance(event, TlsFailed)
        assert event.why
        (end,) = front.of(Disconnected)
        assert isinstance(end, Disconnected)
        assert end.why == "tls"


@pytest.mark.parametrize("first", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize("how", ["silent", "half a hello", "shutdown", "leaves"])
async def test_t_handshake_timeout(how: str, first: bool) -> None:
    async with running(settings=offering()) as front, implicit(front) as port:
        if first:
            client = await RawClient.connect(port)
        else:
            client = await greeted(front.port)
            assert (await client.command(b"STARTTLS"))[:3] == b"220"
        await front.until(lambda: bool(front.door.sessions))
        (session,) = front.door.sessions
        async with client:
            await front.until(lambda: session._handshake is not None)
            if how == "half a hello":
                await client.send(b"\x16\x03\x01\x02\x00\x01\x00")
            front.pass_time(299)
            assert front.door.sessions
            if how == "leaves":
                client.reset()
            elif how == "shutdown":
                assert session.shut_down(now=False)
            else:
                front.pass_time(2)
            await front.until(lambda: not front.door.sessions)
            if how != "leaves":
                assert await client.rest() == b""
        (end,) = front.of(Disconnected)
        assert isinstance(end, Disconnected)
        expected = {"shutdown": "shutdown", "leaves": "tls"}.get(how, "timeout")
        assert end.why == expected
        assert len(front.of(TlsFailed)) == 1


async def test_a_handshake_after_a_message_is_not_held_to_its_pace() -> None:
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            await client.send(
                b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n"
            )
            assert [await client.code() for _ in range(4)] == [250, 250, 250, 354]
            assert (await client.command(b"x\r\n."))[:3] == b"250"
            assert (await client.command(b"STARTTLS"))[:3] == b"220"
            front.pass_time(299)
            assert front.door.sessions
            front.pass_time(2)
            await front.until(lambda: not front.door.sessions)
        assert [e.limit for e in front.events if isinstance(e, LimitHit)] == [
            "command_timeout"
        ]


async def test_many_failures_are_lines_of_a_lower_level() -> None:
    async with running(settings=offering()) as front, implicit(front) as port:
        for _ in range(25):
            async with await RawClient.connect(port) as client:
                await client.send(b"nonsense, nonsense, nonsense\r\n")
                await client.rest()
            await front.settled()
        levels = [e.level for e in front.of(TlsFailed) if isinstance(e, TlsFailed)]
        assert levels == ["info"] * 20 + ["debug"] * 5
        front.pass_time(61)
        async with await RawClient.connect(port) as client:
            await client.send(b"nonsense, nonsense, nonsense\r\n")
            await client.rest()
        await front.settled()
        event = front.of(TlsFailed)[-1]
        assert isinstance(event, TlsFailed)
        assert event.level == "info"


@pytest.mark.parametrize("version", [V12, V13])
async def test_tls_from_the_start(version: ssl.TLSVersion) -> None:
    async with running(settings=offering()) as front, implicit(front) as port:
        async with await RawClient.connect(port) as client:
            await client.start_tls(client_context(version))
            assert await client.code() == 220
            assert b"STARTTLS" not in await extensions(client)
            assert (await client.command(b"STARTTLS"))[:3] == b"503"
            said = await client.deliver(b"", [b"x@example.test"], MESSAGE)
            assert said == [250, 250, 354, 250]
        (mail,) = front.fake.received
        assert mail.message == b"Subject: x\r\n\r\n.hello\r\n"


async def test_tls_from_the_start_keeps_to_the_cap() -> None:
    """Those above it get no handshake, and nothing in the clear."""
    settings = DoorSettings(received=False, tls=server_tls(), connections=1)
    async with (
        running(settings=settings) as front,
        implicit(front) as port,
        await greeted(front.port),
        await RawClient.connect(port) as client,
    ):
        assert await client.rest() == b""


async def test_a_client_that_closes_its_side_is_gone_under_tls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both directions end together; its mail's fate is logged all the same."""
    fake = FakeQmail(gate=asyncio.Event())
    assert fake.gate is not None
    async with running(settings=offering(), fake=fake) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            await client.deliver(b"", [b"x@example.test"], MESSAGE, dot=False)
            await client.send(b".\r\n")
            await front.until(lambda: bool(fake.dots))
        await front.settled()
        fake.gate.set()
        await front.until(lambda: bool(front.of(MessageEnded)))
        (event,) = front.of(MessageEnded)
        assert isinstance(event, MessageEnded)
        assert (event.outcome, event.heard) == ("accepted", False)
    assert not caplog.records, "the loop has something to say to us"


async def test_a_client_that_is_cut_off_in_a_message() -> None:
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            await client.deliver(b"", [b"x@example.test"], MESSAGE, dot=False)
            client.writer.transport.abort()
        await front.settled()
        assert not front.fake.dots
        (event,) = front.of(MessageEnded)
        assert isinstance(event, MessageEnded)
        assert event.outcome == "aborted"


async def test_an_encrypted_session_times_out_with_a_reply() -> None:
    async with (
        running(settings=offering()) as front,
        await greeted(front.port) as client,
    ):
        await client.encrypt(client_context())
        await client.command(b"NOOP")
        front.pass_time(301)
        assert (await client.rest())[:3] == b"421"


async def test_bare_lf_under_tls_closes_as_without() -> None:
    async with running(settings=offering()) as front:
        async with await greeted(front.port) as client:
            await client.encrypt(client_context())
            await client.deliver(b"", [b"x@example.test"], b"a\nb\r\n.\r\n", dot=False)
            assert (await client.rest())[:3] == b"451"
        assert not front.fake.received


async def test_the_certificate_is_chosen_by_name() -> None:
    """SNI (RFC 6066 §3), with one label for the star."""
    first, other = server_context(), server_context("other.test", "*.wild.test")
    by_name = {"other.test": other, "*.wild.test": other, "mx.example.test": first}
    tls = ServerTls(first, by_name)
    async with running(settings=offering(tls)) as front:
        for name in ("mx.example.test", "other.test", "OTHER.test", "a.wild.test"):
            async with await greeted(front.port) as client:
                await client.encrypt(client_context(), name)  # and verifies it
        for name in ("unknown.test", "a.b.wild.test"):
            async with await greeted(front.port) as client:
                with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                    await client.encrypt(client_context(), name)
        await front.settled()


async def test_t_cert_reload_leaves_open_sessions_alone() -> None:
    async with (
        running(settings=offering()) as front,
        await greeted(front.port) as old,
        await greeted(front.port) as late,
    ):
        await old.encrypt(client_context())
        renewed = offering(ServerTls(server_context("renewed.test"), {}))
        front.door.configure(front.door.engine, b"mx.example.test", renewed)
        said = await old.deliver(b"", [b"x@example.test"], MESSAGE)
        assert said == [250, 250, 354, 250]
        await late.encrypt(client_context(), "renewed.test")
        # And where TLS is taken away, who was offered it still gets it.
        async with await greeted(front.port) as last:
            without = DoorSettings(received=False)
            front.door.configure(front.door.engine, b"mx.example.test", without)
            await last.encrypt(client_context(), "renewed.test")
        async with await greeted(front.port) as new:
            assert b"STARTTLS" not in await extensions(new)
