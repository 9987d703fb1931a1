"""Recorded hosts through the whole front: the dialogue, the rules, ``explain``.

What qmail did with each recipient is recorded; see tests/support/expected.py.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.front.door import DoorSettings
from proxy.rules.qmail import QmailRule
from proxy.rules.verdict import Answer, Kind, Question, Verdict
from proxy.smtp.command import has_control
from proxy.smtp.driver import Limits
from tests.live.process import Settings, run, serving
from tests.support.backend import FakeQmail
from tests.support.expected import answers, message_decides, required
from tests.support.front import running
from tests.support.layout import lay_out
from tests.support.recorded import load, recorded_host, relayclient, world_names
from tests.support.smtp_client import RawClient

FREE = DoorSettings(
    received=False, session=Limits(command_length=0, unknown_recipients=0)
)
CODES = {Kind.ACCEPT: 250, Kind.REJECT: 550, Kind.DEFER: 451}


def arguments(world: dict[str, Any]) -> list[bytes]:
    """The recorded arguments of RCPT."""
    return [each["rcpt"].encode("latin-1") for each in world["recipients"]]


async def asked(port: int, sender: bytes, recipients: list[bytes]) -> list[int]:
    """The codes for all recipients in one transaction, pipelined."""
    found: list[int] = []
    async with await RawClient.connect(port) as client:
        assert await client.code() == 220
        assert (await client.command(b"MAIL FROM:<%s>" % sender))[:3] == b"250"
        for start in range(0, len(recipients), 500):  # as many as buffers hold
            some = recipients[start : start + 500]
            await client.send(b"".join(b"RCPT %s\r\n" % each for each in some))
            found += [await client.code() for _ in some]
    return found


def expected(world: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each recipient with the code that it needs, from what qmail did."""
    for who, answer, verdict in answers(world, recorded_host(world)):
        if who.endswith("(relayed)"):
            continue
        if has_control(who.encode("latin-1")):
            yield who, 501
        elif answer["outcome"] == "refused" and answer["smtp"].startswith("5"):
            yield who, int(answer["smtp"][:3])
        elif message_decides(world, answer) or (
            # Only the program itself can tell.
            verdict.undecided and verdict.kind is Kind.ACCEPT
        ):
            yield who, 250
        else:
            yield who, CODES[required(answer)]  # 451 for qmail-smtpd's 421 too


@pytest.mark.parametrize("name", world_names())
async def test_every_recorded_recipient_through_the_dialogue(name: str) -> None:
    world = load(name)
    rule = QmailRule(recorded_host(world))

    def ask(question: Question) -> Answer:
        trusted = relayclient(world)
        asked = Question(question.recipient, question.sender, "", trusted)
        verdict = rule.ask(asked)
        assert isinstance(verdict, Verdict)
        return verdict

    wanted = list(expected(world))
    async with running(ask, settings=FREE) as front:
        sender = world["sender"].encode("latin-1")
        got = await asked(front.port, sender, arguments(world))
        assert list(zip([who for who, _ in wanted], got, strict=True)) == wanted
        taken = [a for a, code in zip(arguments(world), got, strict=True) if code < 300]
        told = [c[5:] for c in front.fake.commands if c.startswith(b"RCPT ")]
        # Byte for byte but for parameters, which the backend does not offer.
        assert len(told) == len(taken)
        for ours, theirs in zip(told, taken, strict=True):
            assert theirs.rstrip(b" ").startswith(ours)


HOSTS = [
    "address-length",
    "assign-precedence",
    "control-crlf",
    "dotqmail-modes",
    "extension-search",
    "forwards",
    "ip-literals",
    "null-sender",
    "tenants",
    "virtualdomains-forms",
    "vpopmail",
]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="run as root to change owners")
@pytest.mark.parametrize("name", HOSTS)
async def test_explain_says_what_the_service_says(
    name: str, tmp_path: Path, fake: FakeQmail
) -> None:
    world = load(name)
    root = tmp_path / "host"
    root.mkdir()
    lay_out(world, root)
    settings: Settings = {
        "qmail.root": str(root),
        "qmail.default_delivery": world["aliasempty"] or "./Mailbox",
        "qmail.local_ips": world["local_ips"],
        "backend.address": f"127.0.0.1:{fake.port}",
        "limits.command_length": 0,
        "limits.unknown_per_session": 0,
        "limits.harvest_defence": False,
    }
    sender = world["sender"].encode("latin-1")
    recipients = arguments(world)
    async with serving(tmp_path, settings) as served:
        live = await asked(served.port, sender, recipients)
        status, out, err = await run(
            *("explain", "--json", "-c", str(served.config)),
            *("--sender", world["sender"], "-"),
            given=b"\n".join(recipients),
        )
    assert err == ""
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["recipient"].encode("latin-1") for each in found] == recipients
    replies = [each.get("dialogue", each["reply"]) for each in found]
    assert [int(reply[:3]) for reply in replies] == live
    assert status == (1 if any(each["verdict"] == "reject" for each in found) else 0)


PIECES = [
    *(b"alice", b"bob", b"nobody", b"alias", b"postmaster", b"root", b"ALICE"),
    *(b"-", b"-list", b"-default", b".", b"/", b"..", b"%", b"@", b'"', b"\\", b" "),
    *(b"\xe4", b"\t", b"=?utf-8?q?alice?=", b"x" * 300),
]
DOMAINS = [
    *(b"@example.test", b"@EXAMPLE.TEST", b"@sub.example.test", b"@example.test."),
    *(b"@elsewhere.test", b"@[127.0.0.1]", b"@[192.0.2.1]", b"@", b""),
]


def random_arguments(number: int, seed: int) -> list[bytes]:
    """Arguments of RCPT, most of them nearly sensible."""
    chance = random.Random(seed)
    found = []
    for _ in range(number):
        local = b"".join(chance.choices(PIECES, k=chance.randint(1, 4)))
        form = chance.choice([b"TO:<%s>", b"TO:<%s", b"TO:%s", b"to:<@r.test:%s> X=1"])
        found.append(form % (local + chance.choice(DOMAINS)))
    return found


async def test_o_explain_equals_live(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    """O-explain-equals-live: for 10,000 random addresses, code by code."""
    recipients = random_arguments(10_000, 1)
    bounds = "command_length recipients"
    bounds += " unknown_per_session commands_per_session errors_per_session"
    free: dict[str, Any] = {f"limits.{name}": 0 for name in bounds.split()}
    free["limits.harvest_defence"] = False
    async with serving(tmp_path, {**settings, **free}) as served:
        live = await asked(served.port, b"you@there.test", recipients)
        _, out, err = await run(
            *("explain", "--json", "-c", str(served.config)),
            *("--sender", "you@there.test", "-"),
            given=b"\n".join(recipients),
        )
    assert err == ""
    found = [json.loads(line) for line in out.splitlines()]
    replies = [each.get("dialogue", each["reply"]) for each in found]
    assert [int(reply[:3]) for reply in replies] == live
    # All kinds are among them, or they would tell little.
    assert {250, 550, 553} <= set(live)
