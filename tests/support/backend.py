"""A scripted backend: behaves as qmail-smtpd, except where told otherwise.

Written without the project's own parsers, so that a mistake in those is not
made twice.  ``script`` maps a step to a behaviour; steps are ``connect``,
``greeting``, ``EHLO``, ``HELO``, ``MAIL``, ``RCPT``, ``RCPT TO:<...>``,
``DATA``, ``body``, ``dot``, ``RSET``, ``QUIT``, ``AUTH`` (the last reply),
``challenge`` (each 334).  With ``mechanisms`` it has the usual patch for AUTH:
who is in ``users`` may relay, others only to example.test.  A behaviour is

- bytes to say instead of the usual reply; after a 421 it closes;
- :class:`Bytewise` bytes, each sent by itself;
- an :class:`asyncio.Event` to wait for, before whatever follows;
- one of the constants below;
- or several of them, one after the other.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support.ports import kept

SILENT = "silent"  # reads on, never answers
CLOSE = "close"  # FIN instead of an answer, and waits for the other side's
RESET = "reset"  # RST instead of an answer
STOP_READING = "stop reading"  # for ever


class Bytewise(bytes):
    """A reply that comes in as many segments as it has bytes."""


Behaviour = bytes | str | asyncio.Event | Sequence["Behaviour"]


@dataclass
class Received:
    """One message that got its final dot, with what the backend was told."""

    helo: bytes
    mail: bytes
    recipients: list[bytes]
    message: bytes


@dataclass
class FakeQmail:
    """A server on a free port; ``received`` are complete messages."""

    script: dict[str, Behaviour] = field(default_factory=dict)
    once: dict[str, Behaviour] = field(default_factory=dict)  # for one time
    pipelining: bool = True
    received: list[Received] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    stalled: int = 0  # times that it became silent
    dots: int = 0
    port: int = 0
    bytes_read: int = 0
    keep_messages: bool = True  # else their length and SHA-256
    receive_buffer: int = 0  # bytes that the kernel takes for it; 0: as usual
    gate: asyncio.Event | None = None  # awaited before the final reply
    mechanisms: bytes = b""  # such as b"PLAIN LOGIN CRAM-MD5"
    users: dict[bytes, bytes] = field(default_factory=dict)
    judge: Callable[[bytes], Behaviour | None] | None = None  # of RCPT's argument
    context: ssl.SSLContext | None = None  # with it, STARTTLS is offered,
    implicit: bool = False  # or TLS comes first
    listener: socket.socket | None = None  # instead of a port of 127.0.0.1
    _kept: socket.socket | None = None

    async def start(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        sock = self.listener
        if sock is None:
            if self._kept is None:
                self._kept = kept(self.port)
                self.port = self._kept.getsockname()[1]
            sock = socket.create_server(("127.0.0.1", self.port))
        if self.receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self._server = await asyncio.start_server(
            self._serve,
            sock=sock,
            limit=1 << 24,
            ssl=self.context if self.implicit else None,
        )

    def hang_up(self, *, reset: bool = False) -> None:
        """End all connections, whatever they are doing."""
        for writer in self._writers:
            if reset:
                _reset(writer)
            else:
                writer.write_eof()

    async def stop(self) -> None:
        """Be gone, and give the port back."""
        await self.go_down()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def go_down(self) -> None:
        """Be gone until the next :meth:`start`: nobody listens, and nobody else
        gets the port."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        self.open_connections += 1
        try:
            with contextlib.suppress(*_QUIET):
                await _Session(self, reader, writer).run()
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


class _Ended(Exception):
    """The connection is over."""


_QUIET = (
    ConnectionError,
    _Ended,
    asyncio.CancelledError,
    asyncio.IncompleteReadError,
    ssl.SSLError,
)


class _Session:
    def __init__(
        self,
        fake: FakeQmail,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.fake = fake
        self.reader = reader
        self.writer = writer
        self.helo = b""
        self.mail: bytes | None = None
        self.recipients: list[bytes] = []
        self.user = b""

    async def run(self) -> None:
        if "connect" in self.fake.script:
            await self._do(self.fake.script["connect"])
        await self.say("greeting", b"220 fake ESMTP\r\n")
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\n"):
                raise _Ended
            line = line.rstrip(b"\r\n")
            self.fake.commands.append(line)
            await self.command(line)

    async def command(self, line: bytes) -> None:
        verb = line.split(b" ")[0].upper()
        if verb in (b"EHLO", b"HELO"):
            self.helo = line.partition(b" ")[2]
            self.mail = None
            extensions = [b"PIPELINING"] if self.fake.pipelining else []
            context = self.fake.context
            if context and self.writer.get_extra_info("sslcontext") is None:
                extensions.append(b"STARTTLS")
            text = b"250 fake\r\n"
            if verb == b"EHLO":
                if self.fake.mechanisms:
                    extensions.append(b"AUTH " + self.fake.mechanisms)
                    extensions.append(b"AUTH=" + self.fake.mechanisms)
                lines = [b"fake", *extensions, b"8BITMIME"]
                text = b"".join(b"250-%s\r\n" % x for x in lines[:-1])
                text += b"250 %s\r\n" % lines[-1]
            await self.say(verb.decode(), text)
        elif verb == b"MAIL":
            self.recipients = []
            if await self.say("MAIL", _OK):
                self.mail = line.partition(b" ")[2]
        elif verb == b"RCPT":
            await self.rcpt(line)
        elif verb == b"STARTTLS" and self.fake.context is not None:
            await self.say("STARTTLS", b"220 go on\r\n")
            await self.writer.start_tls(self.fake.context)
        elif verb == b"AUTH" and self.fake.mechanisms:
            await self.auth(line.split(b" ")[1:])
        elif verb == b"DATA":
            await self.data()
        elif verb == b"RSET":
            self.mail = None
            await self.say("RSET", b"250 flushed\r\n")
        elif verb == b"QUIT":
            await self.say("QUIT", b"221 fake\r\n")
            raise _Ended
        else:
            await self.say("other", b"502 unimplemented (#5.5.1)\r\n")

    async def auth(self, words: list[bytes]) -> None:
        """As smtp_auth() of the usual patches."""
        if self.user:
            await self.say("other", b"503 you're already authenticated (#5.5.0)\r\n")
            return
        if self.mail is not None:
            await self.say("other", b"503 no auth during mail transaction\r\n")
            return
        initial = words[1:2]
        try:
            match words[0].upper():
                case b"PLAIN":
                    answer = initial[0] if initial else await self.challenge(b"")
                    _, user, password = base64.b64decode(answer).split(b"\0")
                    good = self.fake.users.get(user) == password
                case b"LOGIN":
                    answer = (
                        initial[0] if initial else await self.challenge(b"Username:")
                    )
                    user = base64.b64decode(answer)
                    password = base64.b64decode(await self.challenge(b"Password:"))
                    good = self.fake.users.get(user) == password
                case b"CRAM-MD5":
                    nonce = b"<1896.697170952@fake>"
                    answer = base64.b64decode(await self.challenge(nonce))
                    user, _, digest = answer.rpartition(b" ")
                    secret = self.fake.users.get(user, b"")
                    wanted = hmac.new(secret, nonce, "md5").hexdigest().encode()
                    good = user in self.fake.users and digest == wanted
                case _:
                    await self.say("AUTH", b"504 auth type unimplemented (#5.5.1)\r\n")
                    return
        except ValueError:
            await self.say("other", b"501 malformed auth input (#5.5.4)\r\n")
            return
        if not good:
            await self.say("AUTH", b"535 authorization failed (#5.7.0)\r\n")
        elif await self.say("AUTH", b"235 ok, go ahead (#2.0.0)\r\n"):
            self.user = user

    async def challenge(self, text: bytes) -> bytes:
        """The client's answer to 334; ValueError if it cancels."""
        await self.say("challenge", b"334 %s\r\n" % base64.b64encode(text))
        line = (await self.reader.readline()).rstrip(b"\r\n")
        self.fake.commands.append(line)
        if line == b"*":
            raise ValueError
        return line

    async def rcpt(self, line: bytes) -> None:
        argument = line.partition(b" ")[2]
        if self.mail is None:
            await self.say("RCPT", b"503 MAIL first (#5.5.1)\r\n")
            return
        foreign = b"@" in argument and not argument.endswith(b"@example.test>")
        if self.fake.mechanisms and not self.user and foreign:
            await self.say("other", b"553 sorry, not in my rcpthosts (#5.7.1)\r\n")
            return
        named = "RCPT " + argument.decode("latin-1")
        if named not in self.fake.script and self.fake.judge is not None:
            behaviour = self.fake.judge(argument)
            if behaviour is not None:
                await self._do(behaviour)
                return
        if await self.say(named if named in self.fake.script else "RCPT", _OK):
            self.recipients.append(argument)

    async def data(self) -> None:
        if not self.recipients:
            await self.say("DATA", b"503 RCPT first (#5.5.1)\r\n")
            return
        if not await self.say("DATA", b"354 go ahead\r\n"):
            return
        message = await self.message()
        self.fake.dots += 1
        if self.fake.gate is not None:
            await self.fake.gate.wait()
        usual = b"250 ok 1700000000 qp 4711\r\n"
        if _means(self.behaviour("dot"), usual):
            self.keep(message)  # it is taken before it is said, as by qmail
        await self.say("dot", usual)
        self.mail = None
        self.recipients = []

    def keep(self, message: bytes) -> None:
        assert self.mail is not None
        if not self.fake.keep_messages:
            digest = hashlib.sha256(message).hexdigest()
            message = f"{len(message)} {digest}".encode()
        self.fake.received.append(
            Received(self.helo, self.mail, self.recipients, message)
        )

    async def message(self) -> bytes:
        """As blast() in qmail-smtpd.c ends a message, and unstuffed."""
        data = bytearray(b"\r\n")
        first = True
        while not data.endswith(b"\r\n.\r\n"):
            piece = await self.reader.readuntil(b"\n")
            self.fake.bytes_read += len(piece)
            data += piece
            if not data.endswith(b"\r\n"):
                await self._do(b"451 See https://cr.yp.to/docs/smtplf.html.\r\n")
                raise _Ended
            if first and "body" in self.fake.script:
                await self._do(self.fake.script["body"])
            first = False
        # The two bytes in front stand for the CRLF that ended DATA.
        return bytes(data[:-3]).replace(b"\r\n.", b"\r\n")[2:]

    def behaviour(self, step: str) -> Behaviour | None:
        return self.fake.once.get(step) or self.fake.script.get(step)

    async def say(self, step: str, usual: bytes) -> bool:
        """Say the usual, or do what the script says; whether it means the same."""
        behaviour = self.behaviour(step)
        self.fake.once.pop(step, None)
        await self._do(usual if behaviour is None else behaviour)
        return _means(behaviour, usual)

    async def _do(self, behaviour: Behaviour) -> None:
        if isinstance(behaviour, Bytewise):
            for byte in behaviour:
                self.writer.write(bytes([byte]))
                await asyncio.sleep(0)
        elif isinstance(behaviour, bytes):
            self.writer.write(behaviour)
            await self.writer.drain()
            if behaviour.startswith(b"421"):
                raise _Ended
        elif isinstance(behaviour, asyncio.Event):
            await behaviour.wait()
        elif behaviour == RESET:
            _reset(self.writer)
            raise _Ended
        elif behaviour == STOP_READING:
            self.writer.transport.pause_reading()  # type: ignore[attr-defined]
            self.fake.stalled += 1
            await asyncio.Event().wait()
        elif isinstance(behaviour, str):
            if behaviour == CLOSE:
                self.writer.write_eof()
            self.fake.stalled += behaviour == SILENT
            while await self.reader.read(65536):
                pass
            raise _Ended
        else:
            for one in behaviour:
                await self._do(one)


_OK = b"250 ok\r\n"


def _means(behaviour: Behaviour | None, usual: bytes) -> bool:
    """Whether a whole reply of the usual code is said."""
    if behaviour is None:
        return True
    if isinstance(behaviour, bytes):
        return behaviour[:3] == usual[:3] and behaviour.endswith(b"\r\n")
    if isinstance(behaviour, str | asyncio.Event):
        return False
    return any(_means(one, usual) for one in behaviour)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    linger = struct.pack("ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
