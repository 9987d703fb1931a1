"""Mixed traffic, a backend that is restarted, clients that vanish:
``python -m bench.soak --minutes 10``.

Every message has a name, and what its client was told is held against what the
backend has:

- what was answered 250 is there, unharmed;
- what is there twice, or without a 250, had been answered 4xx or been cut off.

The process's memory and descriptors are watched.  Fails if anything is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import Running, peer
from bench.side_by_side import circumstances
from bench.tools import DOMAIN, build, free_port, median, scratch, user_name, write_out

_CLIENTS = 50
_RESTART_SECONDS = 20.0
_TRIES = 6
_GROWTH_KIB = 8 * 1024
_PATIENCE = 120.0


class Backend:
    """Answers as qmail-smtpd does; counts messages by name.

    A message is taken before that is said, as qmail-queue does it.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.taken: Counter[bytes] = Counter()
        self.harmed = 0
        self.restarts = 0
        self.listening = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=1 << 23
        )
        self.listening = True

    async def stop(self) -> None:
        """End every connection, wherever it stands, half of them with RST."""
        assert self._server is not None
        self.listening = False
        self._server.close()
        for writer in list(self._writers):
            hang_up(writer, reset=random.random() < 0.5)
        await until(lambda: not self._writers)
        await self._server.wait_closed()

    async def restart_now_and_then(self, seconds: float) -> None:
        """For ever: a restart, with a moment in which nobody listens."""
        while True:
            await asyncio.sleep(seconds)
            await self.stop()
            await asyncio.sleep(random.uniform(0, 1.5))
            await self.start()
            self.restarts += 1

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.add(writer)
        try:
            await self._talk(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"220 backend ESMTP\r\n")
        name = b""
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-backend\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go ahead\r\n")
                message = await reader.readuntil(b"\r\n.\r\n")
                self._take(name, message)
                if random.random() < 0.2:
                    await asyncio.sleep(random.uniform(0, 0.2))
                writer.write(b"250 ok 1700000000 qp 1\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 backend\r\n")
                return
            else:
                if verb == b"MAIL":
                    name = line[line.index(b"<") + 1 : line.index(b">")]
                writer.write(b"250 ok\r\n")
            await writer.drain()

    def _take(self, name: bytes, message: bytes) -> None:
        self.taken[name] += 1
        # The front door's Received line is above it.
        body = message.partition(b"X-Sum: ")[2]
        if hashlib.sha256(body[66:-3]).hexdigest().encode() != body[:64]:
            self.harmed += 1


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until it holds, or for so long."""
    end = time.monotonic() + seconds
    for _ in iter(condition, True):
        if time.monotonic() > end:
            return
        await asyncio.sleep(0.05)


def hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close a connection at once; ``reset``: with RST."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if reset and sock is not None:
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort() if reset else writer.close()


@dataclass
class Told:
    """What the client of one message was told, over all its attempts."""

    accepted: int = 0
    excused: bool = False  # 4xx, or the connection was lost


def message_of(size: int) -> bytes:
    """A message with a sum over its body, ready to be sent, with the dot."""
    # No line begins with a dot: what is sent is what arrives.
    body = b"".join(b"%064x\r\n" % n for n in range(size // 66 + 1))
    return b"X-Sum: %s\r\n%s.\r\n" % (hashlib.sha256(body).hexdigest().encode(), body)


class _CutOff(Exception):
    """The other side, or we, ended the connection."""


@dataclass
class Clients:
    """All clients; ``messages`` by name is what each was told."""

    port: int
    messages: dict[bytes, Told] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    over: bool = False

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._bodies = [message_of(size) for size in (0, 300, 2000, 2000, 30_000)]
        self._bodies.append(message_of(1_000_000))

    async def run(self) -> None:
        """One client after the other, until it is over."""
        kinds: list[Callable[[], Coroutine[None, None, None]]]
        kinds = [self._deliver] * 12 + [self._guess] * 4
        kinds += [self._vanish] * 2 + [self._dawdle]
        while not self.over:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await random.choice(kinds)()
            except TimeoutError:
                self.wrong.append("no answer within two minutes")
            except (OSError, EOFError, _CutOff):
                self.answers["cut off"] += 1

    async def _deliver(self) -> None:
        """A message, again and again until it is taken or patience ends."""
        name = b"m%d@soak.test" % next(self._numbers)
        told = self.messages[name] = Told()
        body = random.choices(self._bodies, (4, 8, 8, 4, 4, 1))[0]
        for _ in range(_TRIES):
            pipelined = random.random() < 0.3
            vanishes = random.random() < 0.1
            try:
                if pipelined:
                    code = await self._in_one_piece(name, body)
                else:
                    code = await self._step_by_step(name, body, vanishes)
            except (OSError, EOFError, _CutOff):
                code = 0
            self.answers[str(code or "cut off")] += 1
            if code == 250:
                told.accepted += 1
                return
            told.excused = True
            if code >= 500:
                self.wrong.append(f"{name.decode()} was answered {code}")
                return
            await asyncio.sleep(random.uniform(0, 0.5))

    async def _step_by_step(self, name: bytes, body: bytes, vanishes: bool) -> int:
        """The code that decided; 0 if cut off."""
        async with _Connection(self.port) as smtp:
            code = await smtp.ask(b"EHLO client.test\r\nMAIL FROM:<%s>\r\n" % name, 3)
            if code != 250:
                return code
            if random.random() < 0.2:
                await smtp.ask(_rcpt("nobody"), 1)
            code = await smtp.ask(_rcpt(user_name(random.randrange(100))), 1)
            if code == 250:
                code = await smtp.ask(b"DATA\r\n", 1)
            if code != 354:
                return code
            if vanishes:
                cut = random.randrange(len(body) + 1)
                await smtp.send(body[:cut])
                smtp.reset()
                return 0
            return await smtp.ask(body, 1)

    async def _in_one_piece(self, name: bytes, body: bytes) -> int:
        async with _Connection(self.port) as smtp:
            to = _rcpt(user_name(random.randrange(100)))
            await smtp.send(b"EHLO c\r\nMAIL FROM:<%s>\r\n%sDATA\r\n" % (name, to))
            code = await smtp.hear(5)
            if code != 354:
                return code
            return await smtp.ask(body + b"QUIT\r\n", 1)

    async def _guess(self) -> None:
        async with _Connection(self.port) as smtp:
            await smtp.ask(b"HELO c\r\nMAIL FROM:<>\r\n", 3)
            for number in range(random.randrange(1, 5)):
                code = await smtp.ask(_rcpt(f"nobody{number}"), 1)
                self.answers[f"{code} to a guess"] += 1
                if code != 550:
                    break

    async def _vanish(self) -> None:
        """Somewhere before anything was promised."""
        async with _Connection(self.port) as smtp:
            text = b"EHLO c\r\nMAIL FROM:<>\r\n" + _rcpt(user_name(1)) + b"DATA\r\n"
            await smtp.send(text[: random.randrange(len(text))])
            if random.random() < 0.5:
                await asyncio.sleep(random.uniform(0, 0.1))
            smtp.reset()

    async def _dawdle(self) -> None:
        async with _Connection(self.port) as smtp:
            for byte in b"EHLO slow.test\r\n":
                await smtp.send(bytes([byte]))
                await asyncio.sleep(0.05)
            await smtp.ask(b"QUIT\r\n", 3)


def _rcpt(local: str) -> bytes:
    return f"RCPT TO:<{local}@{DOMAIN}>\r\n".encode()


class _Connection:
    """One connection from some address of the loopback network."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> _Connection:
        source = f"127.4.{random.randrange(8)}.{random.randrange(1, 250)}"
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(source, 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ask(self, data: bytes, replies: int) -> int:
        """Send; the code of the last of so many replies."""
        await self.send(data)
        return await self.hear(replies)

    async def hear(self, replies: int) -> int:
        """The code of the last of so many replies, or of the first that is 4xx
        or 5xx."""
        code = 0
        while replies:
            line = await self._reader.readline()
            if not line:
                raise _CutOff
            if line[3:4] == b" ":
                replies -= 1
                code = int(line[:3])
                if code >= 400:
                    break
        return code

    def reset(self) -> None:
        hang_up(self._writer, reset=True)


def judge(messages: dict[bytes, Told], taken: Counter[bytes]) -> list[str]:
    """What is not as it was promised."""
    wrong = []
    for name, told in messages.items():
        count = taken[name]
        if told.accepted and not count:
            wrong.append(f"{name.decode()} was answered 250 and is missing")
        elif count > told.accepted and not told.excused:
            wrong.append(f"{name.decode()} is there {count} times without excuse")
    strangers = set(taken) - set(messages)
    return wrong + [f"{name!r} was sent by nobody" for name in strangers]


@dataclass
class Watch:
    """Memory and descriptors of the front door."""

    running: Running
    kib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    async def look_now_and_then(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(2)
            self.kib.append(self.running.tree.memory())
            self.descriptors.append(self.open())

    def open(self) -> int:
        """Descriptors that are open now."""
        pids = self.running.tree.pids()
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)

    def growth(self) -> float:
        """KiB between the second and the last quarter."""
        quarter = max(1, len(self.kib) // 4)
        return median(self.kib[-quarter:]) - median(self.kib[quarter : 2 * quarter])


@dataclass
class Result:
    """What came of it."""

    messages: int
    answers: dict[str, int]
    restarts: int
    taken: int
    twice: int
    growth_kib: float
    kib: list[float]
    descriptors: tuple[int, int, int]  # at the start, at most, at the end
    wrong: list[str]


async def soak(directory: Path, seconds: float, restart: float) -> Result:
    """Run it; see the module."""
    backend = Backend()
    await backend.start()
    # As configured by default: nothing of this traffic comes near a limit.
    with Running(peer("backstop"), directory, backend=backend.port, limits="") as door:
        clients, watch = Clients(door.port), Watch(door)
        before = watch.open()
        crowd = [asyncio.create_task(clients.run()) for _ in range(_CLIENTS)]
        others = [
            asyncio.create_task(backend.restart_now_and_then(restart)),
            asyncio.create_task(watch.look_now_and_then()),
        ]
        await asyncio.sleep(seconds)
        clients.over = True
        await asyncio.wait(crowd)
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        wrong = clients.wrong + [str(t.exception()) for t in crowd if t.exception()]
        if not backend.listening:
            await backend.start()
        await backend.stop()
        await until(lambda: watch.open() <= before)
        after = watch.open()
    wrong += judge(clients.messages, backend.taken)
    if backend.harmed:
        wrong.append(f"{backend.harmed} messages were harmed")
    if after > before:
        wrong.append(f"{after} descriptors are open, {before} were at the start")
    if watch.growth() > _GROWTH_KIB:
        wrong.append(f"memory grew by {watch.growth():.0f} KiB")
    return Result(
        messages=len(clients.messages),
        answers=dict(clients.answers),
        restarts=backend.restarts,
        taken=sum(backend.taken.values()),
        twice=sum(count > 1 for count in backend.taken.values()),
        growth_kib=watch.growth(),
        kib=watch.kib,
        descriptors=(before, max(watch.descriptors, default=before), after),
        wrong=wrong,
    )


def main() -> None:
    """Run, print, and keep the result."""
    parser = argparse.ArgumentParser(description="mixed traffic and restarts")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--restart", type=float, default=_RESTART_SECONDS)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFF)
    given = parser.parse_args()
    random.seed(given.seed)
    build()
    with scratch() as directory:
        place = directory / "soak"
        found = asyncio.run(soak(place, given.minutes * 60, given.restart))
    print(f"seed {given.seed}: {found.messages} messages, {found.restarts} restarts")
    print(f"answers: {found.answers}")
    print(f"the backend took {found.taken}, {found.twice} of them more than once")
    first, most, last = found.descriptors
    print(f"descriptors: {first} at the start, {most} at most, {last} at the end")
    print(f"memory: {found.growth_kib:+.0f} KiB from the second to the last quarter")
    about = circumstances([peer("backstop")])
    write_out("soak", {"about": about, "seed": given.seed, **vars(found)})
    for each in found.wrong[:20]:
        print(f"wrong: {each}")
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
