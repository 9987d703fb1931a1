"""qmail-spp: what plugins change of the mail, and what is left of a section that
fails."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.qmail.host import QmailHost
from proxy.rules.engine import Engine
from proxy.rules.gate import Gate
from proxy.rules.qmail_spp import SppRule
from proxy.rules.spp_session import SppSession
from proxy.rules.verdict import Change, Facts, Instead, Kind, Question, Rule, Verdict
from proxy.smtp import replies
from tests.support.asked import Asked
from tests.support.files import Files
from tests.support.front import CallRule, accept, reject

BOB = b"bob@example.test"


def plugins(
    root: Path, sections: dict[str, list[str]], *, tells_backend: bool = False
) -> Asked:
    """The rule with these scripts, the next rule being asked for whom it lets in."""
    lines = []
    for name, texts in sections.items():
        lines.append(f"[{name}]")
        for number, text in enumerate(texts):
            path = root / "var/qmail/plugins" / f"{name}{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
            lines.append(f"plugins/{path.name}")
    files = Files()
    files.control(b"smtpplugins", "\n".join([*lines, ""]).encode())
    host = QmailHost(files)
    return Asked("qmail-spp", {}, os.fsencode(root), host, tells_backend=tells_backend)


def facts(kept: dict[object, Any], **more: Any) -> Facts:
    return Facts(session=kept, **{"transaction": object(), **more})


async def test_a_section_counts_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    """Where a plugin fails, those before it are run again: what they have said the
    first time is not there twice."""
    broken = tmp_path / "broken"
    broken.touch()
    first = r"printf 'HX-A: b\nLD450-one\nLD450 two\n'; echo SN=x$N"
    second = f"[ ! -e {broken} ] || kill -9 $$"
    it = plugins(tmp_path, {"mail": [first, second], "rcpt": ['echo "E550 $N"']})
    kept: dict[object, object] = {}
    one = facts(kept)
    assert await it.words([BOB, BOB]) == ["defer", "defer"]
    for _ in range(2):
        assert await it.word(facts=one) == "defer"
    broken.unlink()
    assert await it.reply(facts=one) == "550 x"
    (session,) = kept.values()
    assert isinstance(session, SppSession)
    assert session.header == [b"X-A: b"]
    assert session.stored == {b"D": [b"450-one", b"450 two"]}


async def test_c_at_mail_is_for_the_transaction(tmp_path: Path) -> None:
    """For all its recipients, whoever refuses the first; even where the same plugin
    switches all of them off."""
    mail = r"""case "$SMTPMAILFROM" in
x@*) echo C;; o*) printf 'Cy@y.test\nA\n';; esac"""
    it = plugins(tmp_path, {"mail": [mail]})

    async def answer(sender: bytes, known: Facts) -> object:
        question = Question(BOB, sender, mailbox=BOB, facts=lambda: known)
        return await it.answer(question)

    kept: dict[object, object] = {}
    one = facts(kept)
    for _ in range(2):
        assert await answer(b"x@b.test", one) == Instead(Change(sender=b""))
    two = facts(kept)
    for _ in range(2):
        assert await answer(b"o@b.test", two) == Instead(Change(sender=b"y@y.test"))
    assert await answer(b"y@y.test", two) is None  # it has been done
    assert await answer(b"o@b.test", facts(kept)) is None


@pytest.mark.parametrize("told", [True, False])
async def test_variables_for_qmail_smtpd(tmp_path: Path, told: bool) -> None:
    """What a plugin sets or takes away; but not what qmail-smtpd reads when it starts,
    and never who may relay."""
    sections = {
        "connection": [
            r"printf 'SA=1\nSRELAYCLIENT=\nSTCPREMOTEIP=::\nSDATABYTES=9\n'"
        ],
        "mail": [r"printf 'SB=2\nUC\nSA=3\n'"],
        "rcpt": ['echo "SE=$RELAYCLIENT$A"'],
    }
    it = plugins(tmp_path, sections, tells_backend=told)
    question = Question(BOB, mailbox=BOB, facts=lambda: Facts())
    answer = await it.answer(question)
    if told:
        variables = ((b"A", b"3"), (b"B", b"2"), (b"C", None), (b"E", b"3"))
        assert answer == Instead(Change(variables=variables))
        assert not it.said
    else:
        assert answer is None
        said = "rule it: variable %s of section %s for qmail-smtpd"
        said += " (no backend is a command): this is not done here"
        where = [("A", "connection"), ("B", "mail"), ("A", "mail"), ("E", "rcpt")]
        assert it.said == [said % each for each in where]


async def test_a_variable_that_comes_too_late_is_told_once(tmp_path: Path) -> None:
    sections = {"rcpt": ["true"], "data": ["echo SD=$SMTPRCPTTO"]}
    it = plugins(tmp_path, sections, tells_backend=True)
    known = facts({})
    rule = it.rule
    assert isinstance(rule, SppRule)
    for user in (b"a", b"b"):  # the value of one mail is there for the next
        question = Question(user, mailbox=user, facts=lambda: known)
        await it.answer(question)
        await rule.at_data(question)
    (said,) = it.said
    assert "variable D of section data for a qmail-smtpd that runs already" in said


async def test_pass_is_run_when_all_have_accepted(tmp_path: Path) -> None:
    """As the patch of sagredo.eu has it; it may still refuse, or change the address."""
    ran = tmp_path / "ran"
    sections = {
        "rcpt": ["case $SMTPRCPTTO in c@*) echo Cno@e.test;; g@*) echo A;; esac"],
        "pass": [
            f'echo "$SMTPRCPTTO $SMTPRCPTCOUNT" >> {ran}; case $SMTPRCPTTO in'
            " b*) echo 'E450 wait';; d*) echo Ce@e.test;; f*) exit 120;; esac"
        ],
    }
    it = plugins(tmp_path, sections)
    kept: dict[object, object] = {}
    transaction, asked = object(), 0

    def others(question: Question) -> Verdict:
        return reject() if question.recipient.startswith(b"no") else accept()

    async def decided(user: str) -> Verdict:
        nonlocal asked
        asked += 1
        known = facts(kept, transaction=transaction, asked=asked)
        address = user.encode() + b"@e.test"
        question = Question(address, mailbox=address, facts=lambda: known)
        verdict = Engine([it.rule, CallRule(others)]).ask(question)
        return await verdict if inspect.isawaitable(verdict) else verdict

    got = [await decided(user) for user in ("a", "b", "c", "no", "d", "f", "g", "b")]
    ok, unknown = replies.OK, replies.NO_SUCH_RECIPIENT
    texts = [each.reply.text for each in got]
    assert texts[:5] == [ok.text, "450 wait", unknown.text, unknown.text, ok.text]
    assert texts[5:] == [replies.RECIPIENT_DEFERRED.text, ok.text, ok.text]
    assert [each.change for each in got[:5:4]] == [None, Change(b"e@e.test")]
    assert ran.read_text().split("\n")[:-1] == [f"{each}@e.test 1" for each in "abdf"]


async def test_pass_is_not_run_for_whom_others_were_not(tmp_path: Path) -> None:
    """A rule before it has decided, or the domain is not its own."""
    it = plugins(tmp_path, {"pass": ["echo 'E550 no'"]})
    kept: dict[object, object] = {}
    known = facts(kept)
    rule = it.rule
    assert isinstance(rule, SppRule)
    question = Question(BOB, mailbox=BOB, facts=lambda: known)
    assert await rule.last_word(question) is None
    assert await it.answer(question) is None
    said = await rule.last_word(question)
    assert isinstance(said, Verdict)
    assert said.reply.text == "550 no"
    known = known._replace(asked=2)
    assert await rule.last_word(question) is None
    known = known._replace(asked=1, transaction=object())
    assert await rule.last_word(question) is None


@pytest.mark.parametrize("observe", [False, True])
async def test_badmailfrom_holds_for_what_a_plugin_makes(
    tmp_path: Path, observe: bool
) -> None:
    """As in qmail-smtpd, whose look comes after the plugins'; in observe mode the
    sender stays, and the mail is let in."""
    mail = "case $SMTPMAILFROM in a@*) echo Cbad@y.test;; b@*) echo Cgood@y.test;; esac"
    it = plugins(tmp_path, {"mail": [mail]})
    files = Files()
    files.control(b"me", b"mx.example.test\n")
    files.control(b"rcpthosts", b"example.test\n")
    files.control(b"locals", b"example.test\n")
    files.control(b"badmailfrom", b"bad@y.test\n")
    gate = Gate(QmailHost(files), guard_relay=True, allow_percenthack=True)
    rules: list[Rule] = [it.rule, CallRule(lambda _: accept())]
    engine = Engine(rules, observe=observe, gate=gate)

    async def decided(sender: bytes) -> Verdict:
        known = facts({})
        verdict = engine.ask(Question(BOB, sender, facts=lambda: known))
        return await verdict if inspect.isawaitable(verdict) else verdict

    refused = await decided(b"a@b.test")
    if observe:
        assert (refused.kind, refused.observed) == (Kind.ACCEPT, Kind.REJECT)
    else:
        assert refused.reply.code == 553
        assert refused.gate
    assert refused.change is None
    good = await decided(b"b@b.test")
    assert good.kind is Kind.ACCEPT
    assert good.change == (None if observe else Change(sender=b"good@y.test"))
