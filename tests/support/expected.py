"""Which verdict a recorded recipient calls for, and where ours is another.

The recorded outcome is what qmail did; the verdict is what the front door has
to say to the sender, so that nothing is lost and nothing bounces.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proxy.qmail.host import QmailHost
from proxy.rules.qmail import QmailRule
from proxy.rules.verdict import Kind, Question, Verdict
from proxy.smtp.path import read_path
from tests.support.recorded import relayclient

_SIMPLE = {
    "deliver": Kind.ACCEPT,
    "forward": Kind.ACCEPT,
    "remote": Kind.ACCEPT,
    "bounce": Kind.REJECT,
    "defer": Kind.DEFER,
    "discard": Kind.REJECT,
}
# A mailbox whose home is not there: vpopmail makes it (vmake_maildir()); the script
# that stood in for vdelivermail when the hosts were recorded did not.
_NO_HOME = "can_not_open_new_email_file"
# A forward that bounces, and a program that does nothing but exit: the log cannot tell
# it from one that keeps the mail.
_MERELY_EXITS = re.compile(r"TO:<alice-fwdthen(?:0|99)@")
_DID = re.compile(r"did_([0-9]+)\+[0-9]+\+([0-9]+)")
_FORWARDER = re.compile(r"(?:forward|condredirect):_qp_")


class Copies(enum.Flag):
    """What became of the copies of a message, all the way down."""

    NONE = 0
    ARRIVED = 1
    WAITS = 2
    FAILED = 4


def required(answer: dict[str, Any]) -> Kind:
    """The verdict for a recorded recipient (or its ``if_relayed``)."""
    outcome = answer["outcome"]
    if answer.get("log", "").startswith(_NO_HOME):
        return Kind.ACCEPT
    if outcome == "refused":
        return Kind.REJECT if answer["smtp"].startswith("5") else Kind.DEFER
    if outcome == "forward-bounce":
        if _MERELY_EXITS.match(answer.get("rcpt", "")):
            return Kind.REJECT
        found = copies(answer)
        if Copies.ARRIVED in found:
            return Kind.ACCEPT
        return Kind.DEFER if Copies.WAITS in found else Kind.REJECT
    return _SIMPLE[outcome]


def copies(delivery: dict[str, Any]) -> Copies:
    """Follow one recorded delivery and the messages that it injected."""
    if delivery["delivery"] == "deferral":
        return Copies.WAITS
    if delivery["delivery"] == "failure":
        return Copies.FAILED
    forwarded = delivery.get("forwarded") or []
    if not forwarded:
        return Copies.ARRIVED
    found = Copies.ARRIVED if _kept_here(delivery["log"]) else Copies.NONE
    for copy in forwarded:
        found |= copies(copy)
    return found


def _kept_here(log: str) -> bool:
    """Whether a file took a copy, or a program that does not only forward."""
    did = _DID.search(log)
    assert did is not None, log
    return int(did[1]) > 0 or (int(did[2]) > 0 and not _FORWARDER.search(log))


def message_decides(world: dict[str, Any], answer: dict[str, Any]) -> bool:
    """A bounce that comes of a Delivered-To line in the message itself."""
    if world["name"] != "delivered-to-loop":
        return False
    return "is_looping" in answer.get("log", "")


def answers(
    world: dict[str, Any], host: QmailHost
) -> Iterator[tuple[str, dict[str, Any], Verdict]]:
    """Every recipient with what qmail did and what the rule says; those that
    rcpthosts refused a second time, as a trusted client would ask."""
    rule = QmailRule(host)
    sender = world["sender"].encode("latin-1")
    for recipient in world["recipients"]:
        path = read_path(recipient["rcpt"].encode("latin-1"))
        asked = Question(path, sender, relayclient=relayclient(world))
        yield recipient["rcpt"], recipient, _judged(rule, asked)
        if "if_relayed" in recipient:
            asked = Question(path, sender, relayclient=b"")
            relayed = f"{recipient['rcpt']} (relayed)"
            yield relayed, recipient["if_relayed"], _judged(rule, asked)


def _judged(rule: QmailRule, asked: Question) -> Verdict:
    """The verdict with its reasons; that of the serving way is the same, at
    first and with what was learnt at first."""
    verdict = rule.ask(asked)
    assert isinstance(verdict, Verdict)
    for _ in range(2):
        other = rule.ask(asked._replace(traced=False))
        assert isinstance(other, Verdict)
        assert replace(other, trace=verdict.trace) == verdict
    return verdict


def mismatches(world: dict[str, Any], host: QmailHost) -> list[str]:
    """Where the rule says something else than it has to; one line each."""
    wrong = []
    for who, answer, verdict in answers(world, host):
        want = required(answer)
        if verdict.kind is want:
            continue
        undecided = verdict.undecided and verdict.kind is Kind.ACCEPT
        if want is not Kind.ACCEPT and (undecided or message_decides(world, answer)):
            continue
        trail = " | ".join(f"{step.where()} {step.note()}" for step in verdict.trace)
        wrong.append(f"{who}: {answer['outcome']}, we {verdict.kind.value}: {trail}")
    return wrong
