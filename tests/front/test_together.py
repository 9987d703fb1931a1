"""Several backends of different kinds: programs, TLS, those that know the client."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.backend.choice import Place
from proxy.backend.settings import BackendSettings
from proxy.observe.events import BackendFailed
from tests.front.test_backend_tls import encrypted, fake
from tests.support.backend import FakeQmail
from tests.support.front import Front
from tests.support.several import closed, place, running, started, told
from tests.support.smtp_client import RawClient

GOOD = [250, 250, 354, 250]
A = b"u@example.test"
STANDIN = Path(__file__).parent.parent / "support/standin.py"


def program(mails: Path, **settings: object) -> BackendSettings:
    command = (sys.executable, "-I", str(STANDIN), str(mails))
    return BackendSettings(command=command, **settings)  # type: ignore[arg-type]


def taken(mails: Path) -> list[Path]:
    return list(mails.glob("mail-*"))


def failed(front: Front) -> list[tuple[str, str]]:
    failures = [e for e in front.events if isinstance(e, BackendFailed)]
    return [(each.backend, each.step) for each in failures]


async def test_a_program_that_cannot_start_and_then_a_port() -> None:
    missing = BackendSettings(command=("/nonexistent/qmail-smtpd",))
    async with started(FakeQmail()) as (port,):
        places = [Place(missing), place(port, backup=True)]
        async with running(places=lambda _: places) as front:
            assert await told(front, A) == GOOD
            assert failed(front) == [(str(missing), "connect")]
            assert len(port.received) == 1


async def test_a_port_that_is_closed_and_then_a_program(tmp_path: Path) -> None:
    standby = Place(program(tmp_path), backup=True)
    async with (
        closed(FakeQmail()) as (gone,),
        running(places=lambda _: [place(gone), standby]) as front,
    ):
        assert await told(front, A) == GOOD
        assert len(taken(tmp_path)) == 1


async def test_when_all_programs_run_the_other_backend_is_asked_first(
    tmp_path: Path,
) -> None:
    full = program(tmp_path, command_concurrency=1)
    async with started(FakeQmail()) as (port,):
        places = [Place(full), place(port, backup=True)]
        async with (
            running(places=lambda _: places) as front,
            await RawClient.connect(front.port) as first,
        ):
            await busy(first)
            assert await told(front, A, others=1) == GOOD
            assert len(port.received) == 1
            assert failed(front) == []


async def busy(client: RawClient) -> None:
    """Begin a transaction, and leave it open."""
    await client.reply()
    await client.command(b"MAIL FROM:<>")
    assert (await client.command(b"RCPT TO:<%s>" % A))[:3] == b"250"


@pytest.mark.fault("N27")
async def test_an_idle_client_leaves_its_program_to_others(tmp_path: Path) -> None:
    """But it keeps the program as long as nobody else wants the place."""
    one = program(tmp_path, command_concurrency=1, connect_timeout=30)
    async with started(FakeQmail()) as (port,):
        places = [Place(one), place(port, backup=True)]
        async with (
            running(places=lambda _: places) as front,
            await RawClient.connect(front.port) as first,
        ):
            await first.reply()
            for _ in range(2):
                assert await first.deliver(b"", [A], b"x\r\n") == GOOD
            assert await told(front, A, others=1) == GOOD
            await front.until(lambda: not front.backend.full)  # it has ended
            assert await first.deliver(b"", [A], b"x\r\n") == GOOD
            assert not port.received
            assert failed(front) == []


@pytest.mark.fault("N27")
@pytest.mark.parametrize("ways", [{"transparent": True}, {"kept": 0}], ids=str)
async def test_an_idle_client_leaves_its_connection_to_others(
    ways: dict[str, Any],
) -> None:
    async with started(FakeQmail(), FakeQmail()) as (primary, backup):
        settings = replace(place(primary, connections=2).settings, **ways)
        places = [Place(settings), place(backup, backup=True)]
        async with running(places=lambda _: places) as front, AsyncExitStack() as stack:
            for _ in range(5):
                client = await RawClient.connect(front.port)
                await stack.enter_async_context(client)
                await client.reply()
                assert await client.deliver(b"", [A], b"x\r\n") == GOOD
            assert len(primary.received) == 5
            assert front.backend.connections <= 2
            assert not backup.received
            # Of whoever was last, it is kept; not of who had to make room.
            before = primary.connections
            assert await client.deliver(b"", [A], b"x\r\n") == GOOD
            assert primary.connections == before
            await client.command(b"QUIT")
            await front.until(lambda: len(front.door.sessions) == 4)
            assert front.backend.connections <= 1


async def test_all_programs_run_and_nobody_else_is_there(tmp_path: Path) -> None:
    full = program(tmp_path, command_concurrency=1, connect_timeout=0.05)
    async with (
        running(places=lambda _: [Place(full)]) as front,
        await RawClient.connect(front.port) as first,
    ):
        await busy(first)
        assert await told(front, A, others=1) == [250, 451, 503]
        assert failed(front) == [(str(full), "connections")]
        assert not front.backend.resting  # it is there, only busy


async def test_a_backend_without_xclient_is_passed_over() -> None:
    async with started(FakeQmail(), FakeQmail()) as (deaf, other):
        settings = replace(place(deaf).settings, identify="xclient")
        places = [Place(settings), place(other, backup=True)]
        async with running(places=lambda _: places) as front:
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"EHLO c.test")
                assert await client.deliver(b"", [A], b"x\r\n") == GOOD
            assert failed(front) == [(str(settings), "EHLO")]
            assert (len(deaf.received), len(other.received)) == (0, 1)


async def test_a_certificate_that_is_not_good_and_then_another_backend() -> None:
    wrong, good = fake("other.test"), FakeQmail()
    async with started(wrong, good):
        bad = replace(encrypted(), port=wrong.port)
        places = [Place(bad), place(good, backup=True)]
        async with running(places=lambda _: places) as front:
            assert await told(front, A) == GOOD
            assert failed(front) == [(str(bad), "connect")]
            assert not wrong.received


async def test_an_encrypted_backend_that_gets_no_idle_use() -> None:
    """Connections from the client's own address are its own, encrypted or not."""
    async with started(fake("localhost", "127.0.0.1")) as (behind,):
        each = replace(encrypted(), port=behind.port, transparent=True)
        async with running(places=lambda _: [Place(each)]) as front:
            for _ in range(2):
                assert await told(front, A) == GOOD
            assert behind.connections == 2


async def test_a_cap_holds_where_no_connection_is_used_again() -> None:
    async with started(FakeQmail()) as (behind,):
        settings = replace(
            place(behind, connections=1, connection_wait=0).settings, transparent=True
        )
        async with (
            running(places=lambda _: [Place(settings)]) as front,
            await RawClient.connect(front.port) as first,
        ):
            await busy(first)
            assert await told(front, A, others=1) == [250, 451, 503]
            assert failed(front) == [(str(settings), "connections")]
            await first.command(b"QUIT")
            await front.until(lambda: not front.door.sessions)
            assert await told(front, A) == GOOD
