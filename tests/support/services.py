"""Services that speak Postfix's three protocols, scripted by a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from proxy.rules.socketmap import netstring
from proxy.rules.tcp_table import encoded
from tests.support.ports import own_port

Answer = Callable[[bytes], bytes | None]


class Server:
    """Answers each question by ``answer``; ``None`` is silence."""

    def __init__(self, kind: str, answer: Answer) -> None:
        self.kind, self.answer = kind, answer
        self.questions: list[bytes] = []
        self.connections = self.open = self.most = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None
        self.port = own_port()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await self.server.wait_closed()

    async def question(self, reader: asyncio.StreamReader) -> bytes:
        if self.kind == "socketmap":
            length = int((await reader.readuntil(b":"))[:-1])
            return (await reader.readexactly(length + 1))[:-1]
        return await reader.readuntil(b"\n\n" if self.kind == "policy" else b"\n")

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.writers.add(writer)
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        # Cancelled: the test is over.
        ended = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ended):
            while True:
                asked = await self.question(reader)
                self.questions.append(asked)
                answer = self.answer(asked)
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
        self.open -= 1
        writer.close()


@contextlib.asynccontextmanager
async def served(kind: str, answer: Answer) -> AsyncIterator[Server]:
    server = Server(kind, answer)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def socketmap(known: Iterable[bytes]) -> Answer:
    lines = {b"users " + key for key in known}
    return lambda key: netstring(b"OK x y" if key in lines else b"NOTFOUND ")


def tcp(known: Iterable[bytes]) -> Answer:
    lines = {b"get " + encoded(key) + b"\n" for key in known}
    return lambda line: b"200 x%20y\n" if line in lines else b"500 no\n"


def policy(known: Iterable[bytes]) -> Answer:
    lines = {b"recipient=" + key for key in known}
    return lambda text: (
        b"action=OK\n\n"
        if lines & set(text.split(b"\n"))
        else b"action=REJECT 5.1.1 nobody\n\n"
    )


def always(answer: bytes) -> Answer:
    return lambda _: answer


MAKE = {"socketmap": socketmap, "tcp_table": tcp, "policy": policy}
