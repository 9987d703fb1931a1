"""The question whether the backend would relay for us, at every fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.backend.pool import Backend
from proxy.backend.probe import Answer, Relaying, RelayProbe
from proxy.backend.settings import BackendSettings
from tests.support.backend import CLOSE, RESET, SILENT, Behaviour, FakeQmail
from tests.support.front import descriptors
from tests.support.ports import own_port

ASKED = [
    b"EHLO mx.example.test",
    b"MAIL FROM:<>",
    b"RCPT TO:<backstop-interlock@relay-test.invalid>",
    b"RSET",
    b"QUIT",
]


@contextlib.asynccontextmanager
async def backend_for(
    fake: FakeQmail, *, port: int = 0, command_timeout: float = 20.0
) -> AsyncIterator[Backend]:
    """The way to ``fake``; at the end nothing is left of it."""
    before = descriptors()
    await fake.start()
    settings = BackendSettings(
        port=port or fake.port, connect_timeout=20.0, command_timeout=command_timeout
    )
    backend = Backend(settings, b"mx.example.test")
    try:
        yield backend
    finally:
        left = backend.connections
        await backend.close()
        await fake.stop()
    assert left == 0
    async with asyncio.timeout(60):
        while descriptors() != before:
            await asyncio.sleep(0.001)


async def answer_of(backend: Backend) -> Answer:
    """Ask; only what is overdue is ended meanwhile."""
    answers: list[Answer] = []
    RelayProbe(backend, answers.append)
    async with asyncio.timeout(60):
        while not answers:
            backend.sweep()
            await asyncio.sleep(0.001)
    backend.sweep()
    assert len(answers) == 1
    return answers[0]


@pytest.mark.parametrize(
    ("script", "relaying", "why"),
    [
        ({}, Relaying.RELAYS, "RCPT: 250 ok"),
        ({"RCPT": b"553 no\r\n"}, Relaying.REFUSES, "RCPT: 553 no"),
        ({"RCPT": b"550-no\r\n550 never\r\n"}, Relaying.REFUSES, "RCPT: 550 no"),
        ({"RCPT": b"451 greylisted\r\n"}, Relaying.UNKNOWN, "RCPT: 451 greylisted"),
        ({"RCPT": b"354 go\r\n"}, Relaying.UNKNOWN, "RCPT: 354 go"),
        ({"RSET": b"502 no\r\n"}, Relaying.RELAYS, "RCPT: 250 ok"),
        ({"EHLO": b"502 no\r\n"}, Relaying.RELAYS, "RCPT: 250 ok"),
    ],
)
async def test_an_answer(
    script: dict[str, Behaviour], relaying: Relaying, why: str
) -> None:
    fake = FakeQmail(script=script)
    async with backend_for(fake) as backend:
        assert await answer_of(backend) == Answer(relaying, why)
        async with asyncio.timeout(60):
            while len(fake.commands) < len(ASKED) + ("EHLO" in script):
                await asyncio.sleep(0.001)
        without_helo = [c for c in fake.commands if c != b"HELO mx.example.test"]
        assert without_helo == ASKED
        assert fake.dots == 0
        assert backend.reuse(None) is None  # not kept for somebody's mail


@pytest.mark.parametrize(
    ("step", "behaviour", "why"),
    [
        ("EHLO", b"421 later\r\n", "EHLO: the backend said: 421 later"),
        ("MAIL", b"451 later\r\n", "MAIL: 451 later"),
        ("MAIL", b"550 not the null sender\r\n", "MAIL: 550 not the null sender"),
        ("RCPT", b"421 later\r\n", "RCPT: 421 later"),
        ("EHLO", CLOSE, "EHLO: the backend closed the connection"),
        ("MAIL", CLOSE, "MAIL: the backend closed the connection"),
        ("RCPT", CLOSE, "RCPT: the backend closed the connection"),
        ("RCPT", b"nonsense\r\n", "RCPT: not a reply line"),
        ("greeting", b"554 not you\r\n", "554"),
    ],
)
async def test_it_cannot_be_asked(step: str, behaviour: Behaviour, why: str) -> None:
    async with backend_for(FakeQmail(script={step: behaviour})) as backend:
        relaying, said = await answer_of(backend)
        assert relaying is Relaying.UNKNOWN
        assert why in said


@pytest.mark.parametrize("step", ["EHLO", "MAIL", "RCPT"])
@pytest.mark.parametrize("behaviour", [RESET, SILENT])
async def test_a_backend_that_is_lost(step: str, behaviour: Behaviour) -> None:
    """Silence ends with the backend's own time, which is over at once here."""
    fake = FakeQmail(script={step: behaviour})
    seconds = 0.0 if behaviour == SILENT else 20.0
    async with backend_for(fake, command_timeout=seconds) as backend:
        relaying, why = await answer_of(backend)
        assert relaying is Relaying.UNKNOWN
        assert why


@pytest.mark.parametrize("behaviour", [CLOSE, RESET])
async def test_what_was_answered_counts_though_the_end_is_not_polite(
    behaviour: Behaviour,
) -> None:
    fake = FakeQmail(script={"RSET": behaviour})
    async with backend_for(fake) as backend:
        assert (await answer_of(backend)).relaying is Relaying.RELAYS


async def test_nobody_is_there() -> None:
    async with backend_for(FakeQmail(), port=own_port()) as backend:
        relaying, why = await answer_of(backend)
        assert relaying is Relaying.UNKNOWN
        assert "connect" in why.lower()


@pytest.mark.parametrize("step", ["greeting", "EHLO", "RCPT", "RSET"])
async def test_it_can_be_cancelled_at_every_step(step: str) -> None:
    fake = FakeQmail(script={step: SILENT})
    async with backend_for(fake) as backend:
        answers: list[Answer] = []
        probe = RelayProbe(backend, answers.append)
        async with asyncio.timeout(60):
            while not fake.connections or (
                step != "greeting"
                and not any(step.encode() in c for c in fake.commands)
            ):
                await asyncio.sleep(0.001)
        probe.cancel()
        probe.cancel()
        assert answers == []


async def test_cancelled_before_it_began() -> None:
    async with backend_for(FakeQmail()) as backend:
        answers: list[Answer] = []
        RelayProbe(backend, answers.append).cancel()
        await asyncio.sleep(0)
        assert answers == []
