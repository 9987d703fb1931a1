"""A raw SMTP client for tests: sends any bytes, cut in any way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from types import TracebackType


class RawClient:
    """One connection; every read has a time limit so that no test hangs."""

    TIMEOUT = 60.0

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, source: str = "127.0.0.1") -> RawClient:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(source, 0)
        )
        return cls(reader, writer)

    @classmethod
    async def over(cls, connected: socket.socket) -> RawClient:
        """A client on a connection that somebody else has made."""
        return cls(*await asyncio.open_connection(sock=connected))

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def reply(self) -> bytes:
        """One whole reply; ``b""`` when the server has closed."""
        lines = []
        while True:
            line = await asyncio.wait_for(self.reader.readline(), self.TIMEOUT)
            lines.append(line)
            if line[3:4] != b"-":
                return b"".join(lines)

    async def code(self) -> int:
        """The code of one whole reply; 0 when the server has closed."""
        reply = await self.reply()
        return int(reply[:3]) if reply else 0

    async def command(self, line: bytes) -> bytes:
        """Send a line, CRLF added; its reply."""
        await self.send(line + b"\r\n")
        return await self.reply()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), self.TIMEOUT)
        except ConnectionError:
            return b""

    async def start_tls(self, context: ssl.SSLContext, name: str = "") -> None:
        """The handshake alone; STARTTLS is the caller's to send."""
        await asyncio.wait_for(
            self.writer.start_tls(context, server_hostname=name or "mx.example.test"),
            self.TIMEOUT,
        )

    async def encrypt(self, context: ssl.SSLContext, name: str = "") -> None:
        """STARTTLS, its 220, the handshake."""
        assert (await self.command(b"STARTTLS"))[:3] == b"220"
        await self.start_tls(context, name)

    def half_close(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        """Close with RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def deliver(
        self,
        sender: bytes,
        recipients: list[bytes],
        message: bytes,
        *,
        dot: bool = True,
    ) -> list[int]:
        """A whole transaction; the codes of MAIL, each RCPT, DATA, the dot."""
        codes = [int((await self.command(b"MAIL FROM:<%s>" % sender))[:3])]
        for recipient in recipients:
            codes.append(int((await self.command(b"RCPT TO:<%s>" % recipient))[:3]))
        codes.append(int((await self.command(b"DATA"))[:3]))
        if codes[-1] == 354:
            await self.send(message + b".\r\n" if dot else message)
            if dot:
                codes.append(await self.code())
        return codes
