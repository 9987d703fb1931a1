"""Whatever a client does and however it leaves, nothing of it stays: counted with the
garbage collector off, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from proxy.front.door import DoorSettings
from proxy.front.session import Session
from proxy.front.turns import SECONDS, Turns
from proxy.observe.events import Disconnected
from proxy.smtp.driver import Limits
from tests.support.certificates import NAME, client_context, server_tls
from tests.support.driver import MemoryDriver, codes
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

KINDS = (
    "Session",
    "Dialogue",
    "Transaction",
    "Conversation",
    "Link",
    "Channel",
    "SSLProtocol",
    "SSLObject",
    "Handshake",
    "HeaderPhase",
    "TimerHandle",
)

STEPS: dict[str, list[bytes]] = {
    "nothing": [],
    "half a command": [b"EHL"],
    "EHLO": [b"EHLO c.test\r\n"],
    "MAIL": [b"EHLO c.test\r\n", b"MAIL FROM:<>\r\n"],
    "refused": [b"MAIL FROM:<>\r\n", b"RCPT TO:<no@example.test>\r\n"],
    "RCPT": [b"MAIL FROM:<>\r\n", b"RCPT TO:<a@example.test>\r\n"],
    "DATA": [b"MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n"],
    "message": [b"MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n", b"x\r\n"],
    "delivered": [
        b"MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n",
        b"x\r\n.\r\n",
    ],
    "QUIT": [b"QUIT\r\n"],
    "flood": [b"EHLO c.test\r\n" * 2000],
}
ENDS = ("FIN", "RST", "silence", "half-closed")
TLS = DoorSettings(
    received=False, tls=server_tls(), session=Limits(commands=0, errors=0)
)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living() -> Counter[str]:
    """Objects of ours and of the TLS below them, and timers that are still to come."""
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        name = type(each).__name__
        if name in KINDS and not (name == "TimerHandle" and each.cancelled()):
            found[name] += 1
    return found


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leave(sock: socket.socket, how: str) -> None:
    with contextlib.suppress(OSError):
        if how == "RST":
            reset(sock)
        elif how == "half-closed":
            sock.shutdown(socket.SHUT_WR)
        elif how == "FIN":
            sock.close()


async def hold(front: Front, how: str) -> None:
    """Until the door has forgotten whoever is still there."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 30
    while front.door.sessions and loop.time() < end:
        if how == "silence":
            front.pass_time(400)
        elif how == "half-closed":
            front.pass_time(1)
        await asyncio.sleep(0.001)
    assert not front.door.sessions


async def visit(front: Front, step: list[bytes], how: str, *, tls: bool) -> None:
    """One client, by hand: no library whose own objects would be counted."""
    loop = asyncio.get_running_loop()
    sock = socket.create_connection(("127.0.0.1", front.port))
    sock.setblocking(False)
    if tls:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = client_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
        await loop.sock_recv(sock, 4096)
        await loop.sock_sendall(sock, b"STARTTLS\r\n")
        await loop.sock_recv(sock, 4096)
        while True:
            try:
                tunnel.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(sock, outgoing.read())
                incoming.write(await loop.sock_recv(sock, 65536))
        await loop.sock_sendall(sock, outgoing.read())
        for piece in step:
            tunnel.write(piece)
            await loop.sock_sendall(sock, outgoing.read())
    else:
        for piece in step:
            await loop.sock_sendall(sock, piece)
    await asyncio.sleep(0.002)
    leave(sock, how)
    await hold(front, how)
    sock.close()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.001)


@pytest.mark.fault("N1", "N2", "N3")
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "starttls"])
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("no_collector")
async def test_every_way_to_leave(step: str, how: str, tls: bool) -> None:
    async with running(settings=TLS) as front:
        await visit(front, STEPS[step], how, tls=tls)
        front.pass_time(100)  # a kept connection to the backend ends
        await settle()
        before = living()
        for _ in range(4):
            await visit(front, STEPS[step], how, tls=tls)
        front.pass_time(100)
        await settle()
        assert living() - before == Counter()


@pytest.mark.fault("N1")
@pytest.mark.usefixtures("no_collector")
async def test_a_reset_behind_starttls() -> None:
    """Nothing is read: the reply to STARTTLS cannot be written any more."""
    async with running(settings=TLS) as front:

        async def once() -> None:
            sock = socket.create_connection(("127.0.0.1", front.port))
            sock.sendall(b"EHLO a\r\nSTARTTLS\r\n")
            reset(sock)
            await hold(front, "RST")

        await once()
        await settle()
        before = living()
        for _ in range(50):
            await once()
        await settle()
        assert living() - before == Counter()


@pytest.mark.fault("N1", "N20")
@pytest.mark.usefixtures("no_collector")
async def test_a_reset_in_place_of_a_handshake() -> None:
    """A port scan of ``listen.tls_addresses``."""
    async with running(settings=TLS) as front:

        def implicit() -> Session:
            session = Session(front.door)
            session.implicit = True
            return session

        loop = asyncio.get_running_loop()
        server = await loop.create_server(implicit, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def once(data: bytes) -> None:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(data)
            reset(sock)
            await settle()
            await hold(front, "RST")

        await once(b"")
        await settle()
        before = living()
        for data in (b"", b"\x16\x03\x01", b"EHLO a\r\n") * 10:
            await once(data)
        await settle()
        assert living() - before == Counter()
        assert all(getattr(event, "client", "x") for event in front.events)
        server.close()


@pytest.mark.fault("N3")
async def test_a_session_counts_until_its_socket_is_closed() -> None:
    settings = DoorSettings(received=False, connections_per_client=1)
    async with running(settings=settings) as front:
        client = await RawClient.connect(front.port)
        await client.reply()
        front.pass_time(settings.command_timeout + 1)
        assert front.of(Disconnected)
        assert len(front.door.sessions) == 1  # the loop closes it in its next turn
        await front.settled()
        async with await RawClient.connect(front.port) as other:
            assert await other.code() == 220
        assert codes(await client.rest()) == [421]
        await client.close()


@pytest.mark.fault("N3")
async def test_who_does_not_read_is_not_waited_for() -> None:
    settings = DoorSettings(received=False, session=Limits(commands=0))
    async with running(settings=settings) as front:
        client = await RawClient.connect(front.port)
        await client.reply()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.transport.set_write_buffer_limits(0)
        for _ in range(200):
            client.writer.write(b"EHLO c.test\r\n" * 1000)
            await asyncio.sleep(0)
        front.pass_time(settings.command_timeout + 1)
        front.pass_time(16)
        await front.settled()
        client.writer.transport.abort()


@pytest.mark.fault("N7")
def test_commands_sent_ahead_are_taken_one_a_turn_when_others_wait() -> None:
    driver = MemoryDriver()
    driver.turn_over = lambda: True  # type: ignore[method-assign]
    assert driver.feed(b"NOOP\r\n" * 3 + b"NO").count(b"250") == 1
    assert driver.feed(b"OP\r\n") == b""  # nor by sending more
    assert driver.dialogue.waiting
    before = len(driver.sent)
    for done in (1, 2, 3):
        driver.dialogue.go_on()
        assert driver.sent[before:].count(b"250") == done
    assert driver.dialogue.idle


@pytest.mark.fault("N7")
async def test_turns_are_short_and_in_order() -> None:
    clock = [0.0]
    soon: list[Callable[[], None]] = []

    class Loop:
        def time(self) -> float:
            return clock[0]

        def call_soon(self, work: Callable[[], None]) -> None:
            soon.append(work)

    turns = Turns(cast(asyncio.AbstractEventLoop, Loop()))
    served: list[str] = []

    class Client:
        def __init__(self, name: str) -> None:
            self.name = name

        def go_on(self) -> None:
            served.append(self.name)
            clock[0] += SECONDS / 2
            assert turns.over(self) is (clock[0] >= turns_end[0])

    turns_end = [SECONDS]
    a, b = Client("a"), Client("b")
    assert not turns.over(a)
    clock[0] = SECONDS
    assert turns.over(a)
    assert turns.over(b)
    assert len(soon) == 1  # the next turn, and no other work before it
    turns_end[0] = clock[0] + SECONDS
    soon.pop()()
    assert served == ["a", "b"]


@pytest.mark.fault("N10")
async def test_recipients_that_wait_for_the_backend_are_bounded() -> None:
    from tests.support.backend import SILENT, FakeQmail

    fake = FakeQmail(script={"greeting": SILENT})
    async with (
        running(fake=fake) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.reply()
        await client.command(b"MAIL FROM:<>")
        line = b"RCPT TO:<%s@example.test>\r\n" % (b"a" * 3900)
        await client.send(line * 100)
        (session,) = front.door.sessions
        await front.until(lambda: session._dialogue.held == 0)
        front.pass_time(61)
        answered = [await client.code() for _ in range(100)]
        assert answered.count(452) > 80
        assert set(answered) == {451, 452}
