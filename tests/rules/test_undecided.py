"""What is answered where only the delivery itself could tell."""

from __future__ import annotations

import pytest

from proxy.qmail.host import QmailHost
from proxy.rules.qmail import QmailRule
from proxy.rules.undecided import Policy
from proxy.rules.verdict import Kind, Question, Verdict
from proxy.smtp import replies
from tests.support.files import ALICE, mail_host_files

SENDER = b"ann@x.test"


def rule(policy: Policy) -> QmailRule:
    files = mail_host_files()
    files.file(b"/home/alice/.qmail", b"|/usr/bin/maildrop\n", uid=ALICE)
    files.file(b"/home/alice/.qmail-to", b"&alice@example.test\n", uid=ALICE)
    files.dir(b"/home/alice/dir", uid=ALICE)
    files.file(b"/home/alice/.qmail-sure", b"./mbox\n", uid=ALICE)
    return QmailRule(QmailHost(files), undecided=policy)


def asked(judge: QmailRule, question: Question) -> Verdict:
    verdict = judge.ask(question)
    assert isinstance(verdict, Verdict)
    return verdict


@pytest.mark.parametrize(
    ("policy", "sender", "kind", "reply"),
    [
        ("accept", SENDER, Kind.ACCEPT, None),
        ("accept", b"", Kind.ACCEPT, None),
        ("no-null-sender", SENDER, Kind.ACCEPT, None),
        ("no-null-sender", b"", Kind.REJECT, replies.NO_BOUNCES),
        ("no-null-sender", b"#@[]", Kind.REJECT, replies.NO_BOUNCES),
        ("defer", SENDER, Kind.DEFER, replies.MAILBOX_DEFERRED),
        ("reject", SENDER, Kind.REJECT, replies.NO_SUCH_RECIPIENT),
    ],
)
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("local", [b"alice", b"alice-to"])
def test_the_policy(
    policy: Policy,
    sender: bytes,
    kind: Kind,
    reply: object,
    traced: bool,
    local: bytes,
) -> None:
    question = Question(local + b"@example.test", sender, traced=traced)
    verdict = asked(rule(policy), question)
    assert verdict.kind is kind
    assert verdict.undecided
    assert verdict.reply == (reply or verdict.reply)
    if traced and kind is not Kind.ACCEPT:
        assert [step.where() for step in verdict.trace][-1] == "qmail.undecided"


@pytest.mark.parametrize("policy", ["accept", "no-null-sender", "defer", "reject"])
def test_what_is_known_is_left_alone(policy: Policy) -> None:
    judge = rule(policy)
    sure = asked(judge, Question(b"alice-sure@example.test"))
    assert sure.kind is Kind.ACCEPT
    assert not sure.undecided
    unknown = asked(judge, Question(b"alice-nobody@example.test"))
    assert unknown.reply == replies.NO_SUCH_RECIPIENT
    assert not unknown.undecided


def test_the_reason_names_the_program() -> None:
    verdict = asked(rule("accept"), Question(b"alice@example.test", SENDER))
    assert verdict.reason == "undecided: the program maildrop decides"
    verdict = asked(rule("accept"), Question(b"alice-to@example.test", SENDER))
    assert verdict.reason == "forwarded; undecided: the program maildrop decides"
