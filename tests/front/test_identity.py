"""A session before backends that have to know the client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from proxy.backend.settings import BackendSettings
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient


class Backend:
    """Notes every line of every connection; offers what it is told to."""

    def __init__(
        self, *offers: bytes, header: int = 0, anew: bytes = b"220 anew"
    ) -> None:
        """``header``: bytes that come before the greeting; ``anew`` is said to
        XCLIENT."""
        self.anew = anew
        self.offers = offers
        self.header = header
        self.headers: list[bytes] = []
        self.heard: list[list[bytes]] = []
        self.port = 0

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        lines: list[bytes] = []
        self.heard.append(lines)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if self.header == 1:
                self.headers.append(await reader.readuntil(b"\r\n"))
            elif self.header:
                self.headers.append(await reader.readexactly(self.header))
            writer.write(b"220 backend\r\n")
            while line := (await reader.readuntil(b"\r\n"))[:-2]:
                lines.append(line)
                verb = line[:4].upper()
                if verb == b"EHLO":
                    words = [b"backend", *self.offers]
                    said = [b"250-" + word for word in words[:-1]] + [
                        b"250 " + words[-1]
                    ]
                elif verb == b"DATA":
                    writer.write(b"354 go\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
                    said = [b"250 queued"]
                else:
                    said = [self.anew if verb == b"XCLI" else b"250 ok"]
                writer.write(b"".join(each + b"\r\n" for each in said))
                if verb == b"QUIT":
                    break
        writer.close()


@contextlib.asynccontextmanager
async def before(backend: Backend, **settings: object) -> AsyncIterator[Front]:
    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    chosen = BackendSettings(port=backend.port, **settings)  # type: ignore[arg-type]
    try:
        async with running(backend=chosen) as front:
            yield front
    finally:
        server.close()


async def mail(front: Front, source: str = "127.0.0.1", times: int = 1) -> bytes:
    async with await RawClient.connect(front.port, source) as client:
        await client.reply()
        await client.command(b"EHLO client.test")
        for _ in range(times):
            await client.command(b"MAIL FROM:<>")
            reply = await client.command(b"RCPT TO:<joe@example.test>")
            if reply.startswith(b"250"):
                await client.command(b"DATA")
                await client.send(b"x\r\n.\r\n")
                reply = await client.reply()
        await client.command(b"QUIT")
        await front.settled()
        return reply


async def test_proxy_header_v1_for_each_client() -> None:
    backend = Backend(b"PIPELINING", header=1)
    async with before(backend, send_proxy="v1") as front:
        for last in (1, 2):
            assert (await mail(front, f"127.0.5.{last}", times=2))[:3] == b"250"
    assert len(backend.heard) == 2  # no connection serves two clients
    for last, header in enumerate(backend.headers, 1):
        words = header.decode().split(" ")
        assert words[:4] == ["PROXY", "TCP4", f"127.0.5.{last}", "127.0.0.1"]
        assert words[5] == f"{front.port}\r\n"


async def test_proxy_header_v2() -> None:
    backend = Backend(header=28)
    async with before(backend, send_proxy="v2") as front:
        assert (await mail(front, "127.0.5.1"))[:3] == b"250"
    (header,) = backend.headers
    assert header[12:24] == bytes((0x21, 0x11, 0, 12, 127, 0, 5, 1, 127, 0, 0, 1))


async def test_xclient_begins_anew() -> None:
    backend = Backend(b"XCLIENT ADDR HELO PROTO", b"PIPELINING")
    async with before(backend, identify="xclient") as front:
        for last in (1, 2):
            assert (await mail(front, f"127.0.5.{last}", times=2))[:3] == b"250"
    envelope = [b"MAIL FROM:<>", b"RCPT TO:<joe@example.test>", b"DATA"]
    assert backend.heard == [
        [
            b"EHLO client.test",
            b"XCLIENT PROTO=ESMTP HELO=client.test ADDR=127.0.5.%d" % last,
            b"EHLO client.test",
            *envelope,
            *envelope,
            b"QUIT",
        ]
        for last in (1, 2)
    ]


@pytest.mark.parametrize("offers", [(), (b"XCLIENT NAME",)])
async def test_xclient_that_is_not_offered_is_451(offers: tuple[bytes, ...]) -> None:
    """Mail in our own name may have rights that the client has not."""
    backend = Backend(*offers)
    async with before(backend, identify="xclient") as front:
        assert (await mail(front))[:3] == b"451"
    assert not any(line.startswith(b"MAIL") for line in backend.heard[0])


async def test_xforward_goes_with_each_message() -> None:
    backend = Backend(b"XFORWARD ADDR HELO SOURCE", b"PIPELINING")
    async with before(backend, identify="xforward") as front:
        for last in (1, 2):
            assert (await mail(front, f"127.0.5.{last}", times=2))[:3] == b"250"
    (lines,) = backend.heard  # one connection serves both
    told = [line for line in lines if line.startswith(b"XFORWARD")]
    assert told == [
        b"XFORWARD ADDR=127.0.5.%d HELO=client.test SOURCE=REMOTE" % last
        for last in (1, 1, 2, 2)
    ]
    for line, following in itertools.pairwise(lines):
        assert line.startswith(b"XFORWARD") is following.startswith(b"MAIL")


async def test_xforward_that_is_not_offered_is_left_out() -> None:
    backend = Backend()
    async with before(backend, identify="xforward") as front:
        assert (await mail(front))[:3] == b"250"
    assert not any(line.startswith(b"XF") for line in backend.heard[0])
