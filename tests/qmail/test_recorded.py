"""What a real qmail did with every recorded recipient, and what we say."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.rules.verdict import Kind
from tests.support.expected import answers, copies, mismatches, required
from tests.support.recorded import load, recorded_host, world_names

WORLDS = world_names()

# A program decides (ezmlm, a script): taken, since only running it would tell.
# Whoever makes more of these or fewer has to say so here.
UNDECIDED = 18
UNDECIDED_AND_NOT_DELIVERED = 10


def test_the_recorded_hosts_are_there() -> None:
    assert len(WORLDS) >= 100


@pytest.mark.parametrize("name", WORLDS)
def test_every_recipient_gets_the_verdict_it_needs(name: str) -> None:
    world = load(name)
    assert mismatches(world, recorded_host(world)) == []


@pytest.mark.parametrize("name", WORLDS)
def test_only_programs_leave_a_recipient_undecided(name: str) -> None:
    world = load(name)
    for who, _, verdict in answers(world, recorded_host(world)):
        if verdict.undecided:
            notes = [step.note() for step in verdict.trace]
            assert any(note.startswith("undecided: the program") for note in notes), who
            assert verdict.kind is Kind.ACCEPT, who


def test_no_more_recipients_are_undecided_than_before() -> None:
    undecided = not_delivered = 0
    for name in WORLDS:
        world = load(name)
        for who, answer, verdict in answers(world, recorded_host(world)):
            if verdict.undecided and not who.endswith("(relayed)"):
                undecided += 1
                not_delivered += required(answer) is not Kind.ACCEPT
    assert (undecided, not_delivered) == (UNDECIDED, UNDECIDED_AND_NOT_DELIVERED)


def test_nobody_is_undecided_on_the_host_with_vpopmail() -> None:
    world = load("vpopmail")
    for who, _, verdict in answers(world, recorded_host(world)):
        assert not verdict.undecided, who


def _step(delivery: str, log: str = "", *forwarded: dict[str, Any]) -> dict[str, Any]:
    return {"delivery": delivery, "log": log, "forwarded": list(forwarded)}


FAILS = _step("failure")
WAITS = _step("deferral")
ARRIVES = _step("relayed")


@pytest.mark.parametrize(
    ("delivery", "kind"),
    [
        (_step("success", "did_0+1+0/qp_N/", FAILS), Kind.REJECT),
        (_step("success", "did_0+2+0/qp_N/", FAILS, WAITS), Kind.DEFER),
        (_step("success", "did_0+3+0/qp_N/", FAILS, WAITS, ARRIVES), Kind.ACCEPT),
        (_step("success", "did_1+1+0/qp_N/", FAILS), Kind.ACCEPT),
        (_step("success", "forward:_qp_N/did_0+0+1/", FAILS), Kind.REJECT),
        (_step("success", "did_0+1+1/qp_N/", FAILS), Kind.ACCEPT),
    ],
)
def test_what_a_forward_that_bounces_calls_for(
    delivery: dict[str, Any], kind: Kind
) -> None:
    assert required({**delivery, "outcome": "forward-bounce"}) is kind
    outer = _step("success", "did_0+1+0/qp_N/", delivery)
    assert copies(outer) == copies(delivery)
