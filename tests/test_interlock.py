"""The relay interlock: when it asks, and what it says; the clock is handed in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from proxy.backend.pool import Backend
from proxy.backend.probe import Relaying
from proxy.backend.settings import BackendSettings
from proxy.interlock import FIRST_SECONDS, OFF, RETRY_SECONDS, Interlock
from proxy.observe.metrics import INTERLOCK_STATES
from proxy.relaying import State
from tests.support.backend import SILENT, FakeQmail

REFUSAL = b"553 no\r\n"


@dataclass
class Watched:
    """An interlock, what it has said, and its clock."""

    interlock: Interlock
    fake: FakeQmail
    seconds: float = 0.0
    said: list[tuple[str, str]] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return sum(c.startswith(b"RCPT ") for c in self.fake.commands)

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.interlock.tick()

    async def becomes(self, state: str) -> None:
        await self.until(lambda: self.interlock.state == state)

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def watching(
    fake: FakeQmail, *, interval: float = 300.0, trusting: bool = False
) -> AsyncIterator[Watched]:
    await fake.start()
    backend = Backend(BackendSettings(port=fake.port), b"mx.example.test")
    said: list[tuple[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "now", lambda: 0.0)
        interlock = Interlock(
            backend, lambda *line: said.append(line), interval, lambda: State(trusting)
        )
        watched = Watched(interlock, fake, said=said)
        patch.setattr(backend, "now", lambda: watched.seconds)
        try:
            yield watched
            interlock.close()
            assert backend.connections == 0
        finally:
            interlock.close()
            await backend.close()
            await fake.stop()


def refusing() -> FakeQmail:
    return FakeQmail(script={"RCPT": REFUSAL})


@pytest.mark.parametrize(
    ("fake", "trusting", "state", "level", "text", "warns"),
    [
        (FakeQmail(), False, "relays", "warning", "would relay to any domain", True),
        (
            FakeQmail(),
            True,
            "relays",
            "info",
            "as clients that may relay need it",
            False,
        ),
        (refusing(), False, "refuses", "info", "does not relay for us", False),
        (refusing(), True, "refuses", "warning", "cannot send to other domains", True),
    ],
    ids=["danger", "needed", "good", "useless"],
)
async def test_what_it_says(
    fake: FakeQmail, trusting: bool, state: str, level: str, text: str, warns: bool
) -> None:
    async with watching(fake, trusting=trusting) as watched:
        interlock = watched.interlock
        assert (interlock.state, interlock.warning) == ("unknown", "")
        assert interlock.shown == "unknown (not asked yet)"
        watched.pass_time(FIRST_SECONDS)
        await watched.becomes(state)
        ((said_level, said),) = watched.said
        assert said_level == level
        assert text in said
        assert f"127.0.0.1:{fake.port}" in said
        assert interlock.warning == (said if warns else "")
        assert "RCPT: " in interlock.shown


async def test_it_asks_again_and_says_only_what_is_new() -> None:
    async with watching(refusing(), interval=100.0) as watched:
        watched.pass_time(FIRST_SECONDS - 0.5)
        assert watched.interlock._probe is None
        watched.pass_time(0.5)
        await watched.becomes("refuses")
        watched.pass_time(99.0)
        assert watched.interlock._probe is None
        watched.pass_time(1.0)
        await watched.until(lambda: watched.asked == 2)
        await watched.until(lambda: watched.interlock._probe is None)
        assert len(watched.said) == 1
        watched.fake.script.clear()  # somebody has edited tcp.smtp
        watched.pass_time(100.0)
        await watched.becomes("relays")
        assert [level for level, _ in watched.said] == ["info", "warning"]
        watched.fake.script["RCPT"] = REFUSAL
        watched.pass_time(100.0)
        await watched.becomes("refuses")
        assert [level for level, _ in watched.said] == ["info", "warning", "info"]
        assert watched.interlock.warning == ""


async def test_a_question_without_an_answer_is_put_again_soon() -> None:
    fake = FakeQmail(script={"RCPT": b"451 later\r\n"})
    async with watching(fake) as watched:
        watched.pass_time(FIRST_SECONDS)
        await watched.until(lambda: watched.said)
        ((level, text),) = watched.said
        assert level == "warning"
        assert "could not be asked whether it relays: RCPT: 451 later" in text
        assert watched.interlock.warning == ""  # unknown is not known to be bad
        for _ in range(3):
            watched.pass_time(RETRY_SECONDS)
            await watched.until(lambda: watched.interlock._probe is None)
        assert watched.asked == 4
        assert len(watched.said) == 1
        fake.script["RCPT"] = REFUSAL
        watched.pass_time(RETRY_SECONDS)
        await watched.becomes("refuses")


async def test_it_asks_once_at_a_time() -> None:
    async with watching(FakeQmail(script={"RCPT": SILENT})) as watched:
        for _ in range(5):
            watched.pass_time(1000.0)
        await watched.until(lambda: watched.asked)
        watched.pass_time(1000.0)
        assert watched.fake.connections == 1


@pytest.mark.fault("H2", "H5")
async def test_who_may_relay_is_asked_each_time() -> None:
    states = [
        State(needed=True),
        State(),
        State(needed=True, open="tcp: an open relay"),
    ]
    now = iter(states)
    async with watching(FakeQmail()) as watched:
        watched.interlock.configure(100.0, lambda: next(now))
        watched.pass_time(0.0)
        for count, level in enumerate(("info", "warning", "warning"), start=1):
            await watched.until(lambda count=count: len(watched.said) == count)
            assert watched.said[-1][0] == level
            if count < len(states):
                watched.pass_time(100.0)
        assert "an open relay" in watched.said[-1][1]
        assert "relay.everybody" in watched.interlock.warning


async def test_off() -> None:
    async with watching(FakeQmail(), interval=0.0) as watched:
        for _ in range(5):
            watched.pass_time(1000.0)
            await asyncio.sleep(0)
        interlock = watched.interlock
        assert (interlock.state, interlock.warning, watched.said) == (OFF, "", [])
        assert "relay.interlock_interval" in interlock.shown
        assert watched.fake.connections == 0


async def test_another_configuration_asks_anew() -> None:
    async with watching(FakeQmail(), trusting=True) as watched:
        watched.pass_time(FIRST_SECONDS)
        await watched.becomes("relays")
        watched.interlock.configure(300.0, State)
        watched.interlock.tick()
        await watched.until(lambda: len(watched.said) == 2)
        assert [level for level, _ in watched.said] == ["info", "warning"]
        watched.interlock.configure(0.0, State)
        assert watched.interlock.state == OFF


async def test_nothing_is_asked_after_the_end() -> None:
    async with watching(FakeQmail(script={"MAIL": SILENT})) as watched:
        watched.pass_time(FIRST_SECONDS)
        await watched.until(lambda: b"MAIL FROM:<>" in watched.fake.commands)
        watched.interlock.close()
        watched.pass_time(1000.0)
        assert watched.interlock._probe is None
        assert watched.said == []


def test_the_metric_knows_every_state() -> None:
    assert set(INTERLOCK_STATES) == {*(each.value for each in Relaying), OFF}
