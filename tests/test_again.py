"""Work that is asked for while it is being done; rules that are made in steps."""

from __future__ import annotations

import asyncio
import io
import signal
from pathlib import Path

import pytest

from proxy import assemble
from proxy.again import Again
from proxy.config import Config, ConfigError
from proxy.config.rules import rule_module
from proxy.engines import Engines
from proxy.front.sockets import bind_all
from proxy.observe.log import Logger
from proxy.rules.verdict import Question, Verdict
from proxy.service import Service, Share


class Work:
    def __init__(self) -> None:
        self.begun = self.done = 0
        self.may = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        await self.may.wait()
        self.done += 1


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_asked_for_meanwhile_is_done_once_more() -> None:
    work = Work()
    again = Again(work)
    again.ask()
    await turns()
    for _ in range(3):
        again.ask()
        await turns()
    assert work.begun == 1
    work.may.set()
    await turns()
    assert (work.begun, work.done) == (2, 2)
    again.ask()
    await turns()
    assert work.done == 3
    await again.close()


async def test_the_end_waits_for_no_work_and_nobody_begins_another() -> None:
    work = Work()
    again = Again(work)
    again.ask()
    await turns()
    again.ask()
    await again.close()
    again.ask()
    await turns()
    await again.close()
    assert (work.begun, work.done) == (1, 0)


@pytest.mark.parametrize("good", [True, False])
async def test_what_is_asked_for_at_the_very_end_is_done(good: bool) -> None:
    """A signal's handler may be run between the last step and what follows it."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, __: None)
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            loop.call_soon(again.ask)
            if not good:
                raise ValueError

    again = Again(work)
    again.ask()
    await turns()
    assert begun == [0, 1]
    await again.close()


async def test_what_goes_wrong_is_told_and_the_next_is_done() -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, what: told.append(str(what["exception"])))
    good = False

    async def work() -> None:
        if not good:
            raise ValueError("no good")
        told.append("done")

    again = Again(work)
    again.ask()
    await turns()
    good = True
    again.ask()
    await turns()
    assert told == ["no good", "done"]
    await again.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    people = [b"u%d@example.test\n" % number for number in range(30_000)]
    (tmp_path / "list").write_bytes(b"".join(people))
    (tmp_path / "names").write_bytes(b"".join(people))
    qmail = tmp_path / "var/qmail/control"
    qmail.mkdir(parents=True)
    for name in ("me", "rcpthosts"):
        (qmail / name).write_text("example.test\n")
    rules = [
        {"type": "list", "file": "/list", "found": "pass"},
        {"type": "cdb", "format": "goodrcptto", "text": "/names"},
    ]
    return Config.model_validate(
        {
            "qmail": {"root": str(tmp_path)},
            "backend": {"address": "127.0.0.1:1"},
            "rules": rules,
        }
    )


def makes_engines() -> Engines:
    return Engines(lambda _: None, lambda _, __: None, lambda _, __: None)


async def test_sessions_are_served_while_large_files_are_read(config: Config) -> None:
    engines = makes_engines()
    made = asyncio.ensure_future(engines.make(config, assemble.qmail_host(config)))
    served = 0
    while not made.done():
        await asyncio.sleep(0)
        served += 1
    assert served > 10
    engine = made.result()
    said = []
    for address in (b"u29999@example.test", b"nobody@example.test"):
        verdict = engine.ask(Question(address, mailbox=address))
        assert isinstance(verdict, Verdict)
        said.append(verdict.kind.value)
    assert said == ["accept", "reject"]
    del engine, made
    await engines.close()


async def test_a_bad_line_is_told_as_ever(config: Config, tmp_path: Path) -> None:
    with (tmp_path / "list").open("ab") as file:
        file.write(b"two words@example.test\n")
    engines = makes_engines()
    with pytest.raises(ConfigError, match=r"list:30001: .*more than one word"):
        await engines.make(config, assemble.qmail_host(config))
    await engines.close()


async def test_a_rule_of_others_may_raise_anything(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A HUP then leaves the old one, as for every other error in a rule."""

    def build(*_: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(rule_module("list"), "build", build)
    engines = makes_engines()
    with pytest.raises(ConfigError, match="cannot be made: KeyError: 'odd'"):
        await engines.make(config, assemble.qmail_host(config))
    await engines.close()


async def test_hup_counts_while_the_rules_of_the_start_are_read(config: Config) -> None:
    """And nobody is told that mail is taken before it is."""
    told: list[str] = []
    log = Logger(io.BytesIO())
    sockets = bind_all(["127.0.0.1:0"], log.notice)
    share = Share(sockets, tell=lambda what, _: told.append(what))
    service = Service(config, log, lambda: config, share)
    running = asyncio.ensure_future(service.run())
    await turns(2)
    assert not told
    assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
    signal.raise_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while "reloaded" not in told:
            await asyncio.sleep(0)
    service.stop()
    assert await running == 0
    told = [what for what in told if what != "alive"]
    assert told == ["ready", "reloading", "reloaded", "stopping"]
