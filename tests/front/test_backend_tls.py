"""TLS to the backend: by STARTTLS and from the start, verified or not."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import pytest

from proxy.backend.settings import BackendSettings
from proxy.front.door import DoorSettings
from proxy.observe.events import BackendFailed
from tests.support.backend import FakeQmail
from tests.support.certificates import client_context, server_context, server_tls
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

MESSAGE = b"".join(b"%06d " % n * 10 + b"\r\n" for n in range(20000))
GOOD = ("localhost", "127.0.0.1")


def fake(*names: str, implicit: bool = False) -> FakeQmail:
    return FakeQmail(context=server_context(*names), implicit=implicit)


def encrypted(
    *, implicit: bool = False, context: ssl.SSLContext | None = None
) -> BackendSettings:
    return BackendSettings(
        host="127.0.0.1",
        starttls=not implicit,
        context=context or client_context(),
    )


async def deliver(front: Front, message: bytes = MESSAGE) -> list[int]:
    async with await RawClient.connect(front.port) as client:
        assert await client.code() == 220
        await client.command(b"EHLO c.test")
        codes = await client.deliver(b"", [b"x@example.test"], message)
        await client.command(b"QUIT")
        return codes


def why(front: Front) -> str:
    event = front.of(BackendFailed)[-1]
    assert isinstance(event, BackendFailed)
    assert event.step == "connect"
    return event.why


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_messages_arrive_and_the_connection_is_used_again(implicit: bool) -> None:
    settings = encrypted(implicit=implicit)
    behind = fake(*GOOD, implicit=implicit)
    async with running(fake=behind, backend=settings) as front:
        for _ in range(3):
            assert await deliver(front) == [250, 250, 354, 250]
            await front.settled()
        assert [mail.message for mail in behind.received] == [MESSAGE] * 3
        assert behind.connections == 1
        assert (b"STARTTLS" in behind.commands) is not implicit
        # What was learnt in the clear is forgotten: EHLO is said anew.
        assert {mail.helo for mail in behind.received} == {b"c.test"}


async def test_connections_in_the_clear_are_not_kept_when_tls_is_configured() -> None:
    behind = fake(*GOOD)
    async with running(fake=behind) as front:
        assert await deliver(front) == [250, 250, 354, 250]
        await front.settled()
        assert await deliver(front) == [250, 250, 354, 250]
        await front.settled()
        assert behind.connections == 1
        front.backend.use(replace(encrypted(), port=behind.port))
        assert await deliver(front) == [250, 250, 354, 250]
        assert behind.connections == 2
        assert b"STARTTLS" in behind.commands


async def test_encrypted_on_both_sides() -> None:
    settings = DoorSettings(received=False, tls=server_tls())
    behind = fake(*GOOD)
    async with running(fake=behind, backend=encrypted(), settings=settings) as front:
        async with await RawClient.connect(front.port) as client:
            assert await client.code() == 220
            await client.encrypt(client_context())
            said = await client.deliver(b"", [b"x@example.test"], MESSAGE)
            assert said == [250, 250, 354, 250]
        (mail,) = behind.received
        assert mail.message == MESSAGE


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_a_certificate_for_another_host_is_not_taken(implicit: bool) -> None:
    settings = encrypted(implicit=implicit)
    behind = fake("other.test", implicit=implicit)
    async with running(fake=behind, backend=settings) as front:
        assert await deliver(front) == [250, 451, 503]
        assert "certificate" in why(front).lower()
        assert not behind.received
        assert b"RCPT" not in b"".join(behind.commands)


async def test_it_is_taken_where_it_is_not_verified() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    settings = encrypted(context=context)
    async with running(fake=fake("other.test"), backend=settings) as front:
        assert await deliver(front) == [250, 250, 354, 250]


async def test_a_backend_without_starttls_is_not_spoken_to_in_the_clear() -> None:
    behind = FakeQmail()
    async with running(fake=behind, backend=encrypted()) as front:
        assert await deliver(front) == [250, 451, 503]
        assert "STARTTLS" in why(front)
        assert not any(line.startswith(b"MAIL") for line in behind.commands)


async def test_a_backend_that_refuses_starttls() -> None:
    behind = fake(*GOOD)
    behind.script["STARTTLS"] = b"454 TLS not available\r\n"
    async with running(fake=behind, backend=encrypted()) as front:
        assert await deliver(front) == [250, 451, 503]
        assert "TLS not available" in why(front)


async def test_a_backend_that_speaks_no_tls_at_all() -> None:
    async with running(backend=encrypted(implicit=True)) as front:
        assert await deliver(front) == [250, 451, 503]
        assert "connect" in why(front)


async def test_a_backend_lost_in_a_message_is_told_as_ever() -> None:
    behind = fake(*GOOD)
    behind.script["dot"] = asyncio.Event()
    async with (
        running(fake=behind, backend=encrypted()) as front,
        await RawClient.connect(front.port) as client,
    ):
        assert await client.code() == 220
        await client.deliver(b"", [b"x@example.test"], MESSAGE, dot=False)
        await client.send(b".\r\n")
        await front.until(lambda: bool(behind.dots))
        behind.hang_up(reset=True)
        assert await client.code() == 451
