"""fastforward and dot-forward: what the real ones did, and what we say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.qmail.effect import Effect, Run
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.program import effect
from proxy.qmail.trail import SILENT
from proxy.qmail.walk import Identity
from tests.support import realprogram
from tests.support.recorded import FilesView

DATA = Path(__file__).parent.parent / "data" / "programs"
PROGRAMS = ("fastforward", "dot-forward")

World = dict[str, Any]
Copies = list[tuple[str, str]]


def load(program: str) -> list[World]:
    """Recorded hosts: files, and for each case what the real program did."""
    with gzip.open(DATA / f"{program}.json.gz") as file:
        worlds: list[World] = json.load(file)
    return worlds


WORLDS = [
    pytest.param(world, id=f"{program}-{world['name']}")
    for program in PROGRAMS
    for world in load(program)
]


def said(world: World, case: dict[str, Any]) -> Effect | None:
    """What we say of a case."""
    settings = HostSettings(home=realprogram.QMAIL.encode())
    host = QmailHost(FilesView(world["files"]), settings)
    walker = host.walker(Identity(case["uid"], case["gid"]))
    environment = {
        name.encode(): text.encode("latin-1")
        for name, text in case["environment"].items()
    }
    home = walker.enter(environment[b"HOME"])
    words = [case["program"], *case["arguments"]]
    command = " ".join(f"'{word}'" for word in words).encode("latin-1")
    return effect(command, Run(host, walker, home, environment, SILENT, effect))


def copies_said(case: dict[str, Any], found: Effect) -> Copies:
    new_sender = case["environment"]["NEWSENDER"].encode("latin-1")
    return sorted(
        (
            (new_sender if sender is None else sender).decode("latin-1"),
            address.decode("latin-1"),
        )
        for address, sender in found.copies()
    )


def copies_made(result: dict[str, Any]) -> Copies:
    return sorted(
        (each["sender"], to) for each in result["queued"] for to in each["recipients"]
    )


def wrong(world: World) -> list[str]:
    """Every case where we say something else than the real program did."""
    found = []
    for case in world["cases"]:
        answer = said(world, case)
        what = f"{case['program']} {case['arguments']} {case['environment']}"
        if answer is None:
            found.append(f"{what}: undecided, not {case['exit']}: {case['says']}")
        elif answer.code != case["exit"]:
            found.append(f"{what}: {answer}, not {case['exit']}: {case['says']}")
        elif answer.succeeds and copies_said(case, answer) != copies_made(case):
            found.append(f"{what}: {answer}, not {case['queued']}")
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_we_say_what_the_real_program_did(world: World) -> None:
    assert wrong(world) == []


def test_the_recordings_have_every_ending() -> None:
    for program in PROGRAMS:
        cases = [case for world in load(program) for case in world["cases"]]
        assert {case["exit"] for case in cases} == {0, 99, 100, 111}
        assert sum(bool(case["queued"]) for case in cases) > 50


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_installed_program_does_what_was_recorded(
    program: str, tmp_path: Path
) -> None:
    if why := realprogram.missing(program):
        pytest.skip(why)
    world = load(program)[0]
    for case, result in zip(
        world["cases"], realprogram.run_all(tmp_path, world), strict=True
    ):
        assert {name: case[name] for name in result} == result
