"""AUTH, PROXY headers and TLS where they meet."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from typing import Any

import pytest

from proxy.backend.settings import BackendSettings
from proxy.front.door import DoorSettings
from proxy.front.harvest import HarvestSettings
from proxy.front.tls_session import TlsSession
from proxy.front.trusted import Trusted
from proxy.observe.events import Connected, LimitHit, TlsFailed, TlsStarted
from proxy.rules.verdict import Answer, Question
from proxy.smtp.driver import Limits
from tests.support.backend import FakeQmail
from tests.support.certificates import client_context, server_tls
from tests.support.front import Front, accept, ours_only, reject, running
from tests.support.offers import known
from tests.support.smtp_client import RawClient

GOOD = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0wonder land")
BAD = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0wrong")
FOREIGN = b"x@elsewhere.test"
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 465\r\n"
PROXIED = DoorSettings(
    received=False, tls=server_tls(), proxies=Trusted([ip_network("127.0.0.1")])
)


def relaying(question: Question) -> Answer:
    return accept() if question.relayclient is not None else ours_only(question)


@contextlib.asynccontextmanager
async def authenticating(*, in_clear: bool) -> AsyncIterator[Front]:
    """STARTTLS, and a backend that has AUTH."""
    fake = FakeQmail(mechanisms=b"PLAIN", users={b"alice": b"wonder land"})
    limits = Limits(auth_needs_tls=not in_clear, auth_failures=2)
    settings = DoorSettings(tls=server_tls(), session=limits)
    backend = BackendSettings(learn_auth=True)
    async with (
        running(relaying, fake=fake, settings=settings, backend=backend) as front,
        known(front),
    ):
        yield front


async def extensions(client: RawClient) -> list[bytes]:
    reply = await client.command(b"EHLO c.test")
    return [line[4:] for line in reply.splitlines()[1:]]


async def started(client: RawClient) -> None:
    assert (await client.command(b"STARTTLS"))[:3] == b"220"
    await client.start_tls(client_context())


async def test_t_no_auth_line() -> None:
    """T-no-auth-line: AUTH is offered only behind STARTTLS."""
    async with (
        authenticating(in_clear=False) as front,
        await RawClient.connect(front.port) as client,
    ):
        assert await client.code() == 220
        assert await extensions(client) == [b"PIPELINING", b"8BITMIME", b"STARTTLS"]
        assert (await client.command(GOOD))[:3] == b"538"
        await started(client)
        assert await extensions(client) == [b"PIPELINING", b"8BITMIME", b"AUTH PLAIN"]
        assert (await client.command(GOOD))[:3] == b"235"
        got = await client.deliver(b"a@b.test", [FOREIGN], b"x\r\n")
        assert got == [250, 250, 354, 250]
        (mail,) = front.fake.received
        head = mail.message.partition(b";")[0]
        assert b"(authenticated as alice)\r\n\tby " in head
        assert b" with ESMTPSA (TLSv1.3 " in head


async def test_what_was_authenticated_in_the_clear_is_forgotten() -> None:
    """RFC 3207 §4.2; failures are not."""
    async with (
        authenticating(in_clear=True) as front,
        await RawClient.connect(front.port) as client,
    ):
        assert await client.code() == 220
        assert b"AUTH PLAIN" in await extensions(client)
        assert (await client.command(BAD))[:3] == b"535"
        assert (await client.command(GOOD))[:3] == b"235"
        await started(client)
        await front.until(lambda: not front.fake.open_connections)
        assert b"AUTH PLAIN" in await extensions(client)
        got = await client.deliver(b"a@b.test", [FOREIGN], b"x\r\n")
        assert got == [250, 553, 503]
        assert (await client.command(b"RSET"))[:3] == b"250"
        assert (await client.command(BAD))[:3] == b"535"
        assert (await client.command(BAD))[:3] == b"421"
        await front.settled()
        hits = [e.limit for e in front.events if isinstance(e, LimitHit)]
        assert hits == ["auth_failures"]


async def implicit(front: Front) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: TlsSession(front.door), "127.0.0.1", 0)


async def test_a_proxy_header_before_tls_from_the_start() -> None:
    async with running(settings=PROXIED) as front:
        server = await implicit(front)
        port = server.sockets[0].getsockname()[1]
        async with await RawClient.connect(port) as client:
            await client.send(HEADER)
            await client.start_tls(client_context())
            assert await client.code() == 220
            got = await client.deliver(b"", [b"a@example.test"], b"x\r\n")
            assert got == [250, 250, 354, 250]
        await front.settled()
        server.close()
        assert [e.client for e in front.events if isinstance(e, Connected)] == [
            "192.0.2.7"
        ]
        assert [e[1] for e in front.of(TlsStarted)] == ["192.0.2.7"]


@pytest.mark.parametrize("cut", [1, 5, 100, 10_000])
async def test_the_handshake_in_the_segment_of_the_header(cut: int) -> None:
    """As balancers send them that wait for the client's first bytes."""
    async with running(settings=PROXIED) as front:
        server = await implicit(front)
        port = server.sockets[0].getsockname()[1]
        async with await RawClient.connect(port) as client:
            theirs, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = client_context()
            tls = context.wrap_bio(theirs, ours, server_hostname="mx.example.test")
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            hello = ours.read()
            await client.send(HEADER + hello[:cut])
            await front.until(lambda: bool(front.door.sessions))
            if hello[cut:]:
                await client.send(hello[cut:])
            await exchange(tls.do_handshake, client, theirs, ours)
            said = await exchange(lambda: tls.read(100), client, theirs, ours)
            assert said == b"220 mx.example.test ESMTP\r\n"
        await front.settled()
        server.close()


async def test_no_handshake_in_the_segment_of_the_header() -> None:
    async with running(settings=PROXIED) as front:
        server = await implicit(front)
        port = server.sockets[0].getsockname()[1]
        async with await RawClient.connect(port) as client:
            await client.send(HEADER + b"EHLO me.test\r\n")
            assert b"220" not in await client.rest()
        await front.settled()
        server.close()
        assert len(front.of(TlsFailed)) == 1


async def test_a_proxy_that_speaks_for_itself_is_no_guesser() -> None:
    """Nor are clients that it does not know; those that it names are."""
    harvest = HarvestSettings(delay_after=0, refuse_after=2)
    settings = dataclasses.replace(PROXIED, harvest=harvest)
    async with running(lambda question: reject(), settings=settings) as front:
        for header, last in ((b"PROXY UNKNOWN\r\n", b"550"), (HEADER, b"421")):
            async with await RawClient.connect(front.port) as client:
                await client.send(header)
                assert await client.code() == 220
                await client.command(b"MAIL FROM:<>")
                for guess in range(4):
                    line = b"RCPT TO:<x%d@example.test>" % guess
                    said = await client.command(line)
                    if said[:3] == b"421":
                        break
                assert said[:3] == last


async def exchange(
    do: Callable[[], Any], client: RawClient, theirs: ssl.MemoryBIO, ours: ssl.MemoryBIO
) -> Any:
    """Do it, with as many turns of the other side as it wants."""
    while True:
        done, result = False, None
        with contextlib.suppress(ssl.SSLWantReadError):
            result, done = do(), True
        if ours.pending:
            await client.send(ours.read())
        if done:
            return result
        data = await asyncio.wait_for(client.reader.read(65536), client.TIMEOUT)
        assert data
        theirs.write(data)
