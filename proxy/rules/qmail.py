"""The rule ``qmail``: the host's own files decide.

Knows: which reply goes with which outcome.  Knows not: how qmail comes to an
outcome (:mod:`proxy.qmail.decide`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from proxy.config.rules import QmailRule as Settings
from proxy.qmail.control import ControlError
from proxy.qmail.decide import (
    DELIVERED,
    NOT_RELAYED,
    REMOTE,
    UNKNOWN,
    Decision,
    Outcome,
    decide,
)
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.percenthack import leaves_by_percenthack
from proxy.qmail.questions import NO_ANSWERS, Answer, Answers
from proxy.qmail.questions import Question as Need
from proxy.qmail.trail import Step
from proxy.rules.needs import Needs
from proxy.rules.source import ACCEPTED, Context
from proxy.rules.undecided import Policy, judged
from proxy.rules.verdict import Kind, Question, Verdict
from proxy.smtp import replies
from proxy.smtp.reply import Reply

# A forward may lead to another forward, whose database is another.
_ANSWERS_MAX = 50

# Kind, reply, and whether it is about relaying rather than a mailbox.
_ANSWERS: dict[Outcome, tuple[Kind, Reply, bool]] = {
    Outcome.DELIVER: (Kind.ACCEPT, ACCEPTED, False),
    Outcome.FORWARD: (Kind.ACCEPT, ACCEPTED, False),
    Outcome.REMOTE: (Kind.ACCEPT, ACCEPTED, False),
    Outcome.BOUNCE: (Kind.REJECT, replies.NO_SUCH_RECIPIENT, False),
    # qmail would throw the mail away in silence; a refusal tells the sender.
    Outcome.DISCARD: (Kind.REJECT, replies.NO_SUCH_RECIPIENT, False),
    Outcome.DEFER: (Kind.DEFER, replies.MAILBOX_DEFERRED, False),
    Outcome.SYNTAX: (Kind.REJECT, replies.SYNTAX, True),
    Outcome.BAD_SENDER: (Kind.REJECT, replies.BAD_SENDER, True),
    Outcome.NOT_RELAYED: (Kind.REJECT, replies.NOT_RELAYED, True),
    Outcome.BROKEN: (Kind.DEFER, replies.RECIPIENT_DEFERRED, True),
    Outcome.OVER_QUOTA: (Kind.REJECT, replies.MAILBOX_FULL, False),
    Outcome.OVER_QUOTA_NOW: (Kind.DEFER, replies.MAILBOX_FULL_NOW, False),
    # Nobody there who could ask; not so where the rule is made by build().
    Outcome.NEEDS: (Kind.DEFER, replies.RECIPIENT_DEFERRED, False),
}


class QmailRule:
    """Asks the host's rcpthosts, locals, virtualdomains, users, dot-qmail."""

    name = "qmail"

    def __init__(
        self,
        host: QmailHost,
        *,
        guard_relay: bool = False,
        allow_percenthack: bool = True,
        undecided: Policy = "accept",
        needs: Needs | None = None,
    ) -> None:
        """``guard_relay``: should control/rcpthosts vanish, remote recipients
        are deferred, although qmail would relay to them.  ``allow_percenthack``
        false: what only control/percenthack lets out is refused, although
        qmail would relay it.  ``undecided``: what is answered where only the
        delivery itself could tell.  ``needs`` answers what files do not tell."""
        self._host = host
        self._guard_relay = guard_relay
        self._allow_percenthack = allow_percenthack
        self._undecided: Policy = undecided
        self._needs = needs

    def ask(self, question: Question) -> Verdict | Awaitable[Verdict]:
        """Always has an opinion, and at once unless somebody else has to be asked."""
        decision = self._decided(question)
        if decision.need is not None and self._needs is not None:
            return self._asked(question, decision.need, self._needs)
        return self._said(question, decision)

    def _decided(self, question: Question, answers: Answers = NO_ANSWERS) -> Decision:
        return decide(
            self._host,
            question.recipient,
            question.sender,
            question.relayclient,
            question.since,
            traced=question.traced,
            answers=answers,
        )

    async def _asked(self, question: Question, need: Need, needs: Needs) -> Verdict:
        """Decide anew with each answer, until nothing more has to be known."""
        answers: dict[Need, Answer] = {}
        while True:
            answers[need] = await needs.ask(need)
            decision = self._decided(question, answers)
            if decision.need is None:
                return self._said(question, decision)
            need = decision.need
            if len(answers) >= _ANSWERS_MAX or need in answers:
                reason = "too many questions to others"
                decision = Decision(Outcome.DEFER, reason, trail=decision.trail)
                return self._said(question, decision)

    async def close(self) -> None:
        """Close the connections to others."""
        if self._needs is not None:
            await self._needs.close()

    def _said(self, question: Question, decision: Decision) -> Verdict:
        if self._guard_relay and decision.open_relay:
            decision = guarded(decision)
        if not self._allow_percenthack and decision.outcome is Outcome.REMOTE:
            decision = self._without_percenthack(question, decision)
        found = _COMMON.get(decision) or verdict(decision)
        if found.undecided:
            return judged(found, self._undecided, question.sender)
        return found

    def _without_percenthack(self, question: Question, decision: Decision) -> Decision:
        if question.relayclient is not None:
            return decision
        moment = self._host.moment(question.since)
        try:
            if not leaves_by_percenthack(self._host, moment, question.recipient):
                return decision
        except (ControlError, CannotTell, KernelError) as error:
            # A damaged morercpthosts.cdb, or a file that has just gone.
            return Decision(Outcome.BROKEN, str(error), trail=decision.trail)
        reason = "the percent hack leads to a domain that is not in rcpthosts"
        step = Step(b"relay.allow_percenthack", 0, "false: {}", (reason,))
        return Decision(Outcome.NOT_RELAYED, reason, trail=[*decision.trail, step])


def guarded(decision: Decision) -> Decision:
    """The same, unless it would make an open relay of the host."""
    if decision.outcome is not Outcome.REMOTE:
        return decision
    return replace(UNGUARDED, trail=decision.trail)


UNGUARDED = Decision(
    Outcome.BROKEN, "control/rcpthosts is missing: relaying would be open to everybody"
)
"""What becomes of a recipient that only the want of rcpthosts lets in."""


def verdict(decision: Decision) -> Verdict:
    """The reply and kind that go with an outcome of :func:`decide`."""
    kind, reply, gate = _ANSWERS[decision.outcome]
    return Verdict(
        kind,
        reply,
        "qmail",
        decision.reason,
        undecided=decision.undecided,
        gate=gate,
        trace=decision.trail,
    )


_COMMON = {each: verdict(each) for each in (DELIVERED, NOT_RELAYED, REMOTE, UNKNOWN)}


def build(settings: Settings, context: Context) -> QmailRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return QmailRule(
        context.host,
        guard_relay=context.guard_relay,
        allow_percenthack=context.allow_percenthack,
        undecided=context.undecided,
        needs=Needs(context.host, context.root, context.on_answer, context.on_error),
    )
