"""The engine: asks the rules in order; the first that knows decides.

Knows: the order, what an error means (a deferral), what observe mode changes.
Knows not: any source of recipients.  Called by the session and by ``explain``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from proxy.rules.gate import Gate
from proxy.rules.stages import Stages
from proxy.rules.verdict import (
    Answer,
    Instead,
    Kind,
    OnRuleError,
    Question,
    Rule,
    Verdict,
)
from proxy.smtp import replies
from proxy.smtp.path import write_path

_ACCEPTED = replies.OK

LIMIT_SECONDS = 30.0
"""For an answer that has to be awaited.  RFC 5321 §4.5.3.2.3 grants us five
minutes; a client that waits costs a connection."""


def _ignore(name: str, error: Exception) -> None:
    """Nobody wants to know."""


@runtime_checkable
class Closable(Protocol):
    """A rule that holds connections or programs."""

    async def close(self) -> None:
        """Let go of them."""
        ...


class Engine:
    """The configured rules.

    ``observe``: what rules refuse for want of a mailbox is let pass, and the
    verdict says so; what concerns relaying is refused as ever.  ``limit`` is how
    many seconds all rules together may take; then the recipient is deferred.
    ``gate`` stands before rules that do not look after relaying themselves.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        observe: bool = False,
        on_error: OnRuleError = _ignore,
        limit: float = LIMIT_SECONDS,
        gate: Gate | None = None,
    ) -> None:
        self._rules = tuple(rules)
        self._gate = gate
        self._observe = observe
        self._on_error = on_error
        self._limit = limit
        self.stages = Stages(rules, observe=observe, on_error=on_error, limit=limit)
        """Rules that are asked beyond RCPT, too."""

    def ask(self, question: Question) -> Verdict | Awaitable[Verdict]:
        """The verdict, at once where every rule that was asked knew at once."""
        if self._gate is not None:
            try:
                opened = self._gate.ask(question)
            except Exception as error:  # as below
                return self._failed(self._gate, error)
            if isinstance(opened, Verdict):
                return opened
            question = opened
        for number, rule in enumerate(self._rules):
            try:
                answer = rule.ask(question)
            except Exception as error:  # a rule must not end the service
                return self._failed(rule, error)
            if answer is None:
                continue
            if isinstance(answer, Verdict):
                return self._final(question, answer)
            if isinstance(answer, Instead):
                answer = _at_once(answer)
            return self._wait(number, answer, question)
        return self._no_opinion(question)

    async def _wait(
        self, number: int, awaited: Awaitable[Answer], question: Question
    ) -> Verdict:
        """Go on from rule ``number``, whose answer has to be awaited."""
        rule = self._rules[number]
        became = b""
        try:
            async with asyncio.timeout(self._limit):
                answer = await awaited
                for following in self._rules[number + 1 :]:
                    if isinstance(answer, Instead):
                        other = answer.recipient
                        question, answer = self._instead(question, rule, other)
                        became = other if answer is None else b""
                    if answer is not None:
                        break
                    rule = following
                    found = rule.ask(question)
                    answer = await found if inspect.isawaitable(found) else found
                if answer is None or isinstance(answer, Instead):
                    return self._no_opinion(question)
                if became and not answer.became:
                    answer = replace(answer, became=became)
                return self._final(question, answer)
        except Exception as error:  # as above
            return self._failed(rule, error)

    def _instead(
        self, question: Question, rule: Rule, recipient: bytes
    ) -> tuple[Question, Answer]:
        """The question for another recipient; or the verdict on the one that was
        asked for, where the other is not ours to let in."""
        other = question._replace(recipient=recipient, mailbox=recipient)
        if write_path(recipient) is not None:
            opened = other if self._gate is None else self._gate.ask(other)
            if isinstance(opened, Question):
                return opened._replace(notes=question.notes), None
        return question, Verdict(
            Kind.ACCEPT, _ACCEPTED, rule.name, _not_done(recipient), undecided=True
        )

    @property
    def holders(self) -> tuple[Closable, ...]:
        """The rules that hold something, to be closed when the engine is not used
        any more."""
        return tuple(rule for rule in self._rules if isinstance(rule, Closable))

    def _final(self, question: Question, verdict: Verdict) -> Verdict:
        if verdict.became:
            verdict = self._changed(question, verdict)
        if question.notes:
            verdict = replace(verdict, trace=[*question.notes, *verdict.trace])
        if self._observe and verdict.kind is not Kind.ACCEPT and not verdict.gate:
            return replace(
                verdict, observed=verdict.kind, kind=Kind.ACCEPT, reply=_ACCEPTED
            )
        return verdict

    def _changed(self, question: Question, verdict: Verdict) -> Verdict:
        """A verdict for another recipient than was asked for."""
        became = verdict.became
        if verdict.kind is not Kind.ACCEPT or self._observe:
            return replace(verdict, became=b"")
        if became == question.recipient:  # all of them were asked for it
            return verdict
        other = question._replace(recipient=became, mailbox=became)
        opened = other if self._gate is None else self._gate.ask(other)
        if isinstance(opened, Question) and write_path(became) is not None:
            return verdict
        return replace(
            verdict, became=b"", undecided=True, reason=_not_done(verdict.became)
        )

    def _failed(self, rule: Rule | Gate, error: Exception) -> Verdict:
        self._on_error(rule.name, error)
        reason = f"the rule failed: {type(error).__name__}: {error}"
        return Verdict(
            Kind.DEFER, replies.RECIPIENT_DEFERRED, rule.name, reason, gate=True
        )

    def _no_opinion(self, question: Question) -> Verdict:
        reason = "no rule has an opinion"
        return Verdict(
            Kind.DEFER,
            replies.RECIPIENT_DEFERRED,
            "none",
            reason,
            gate=True,
            trace=question.notes or (),
        )


async def _at_once(answer: Answer) -> Answer:
    return answer


def _not_done(recipient: bytes) -> str:
    name = recipient[:200].decode("latin-1")
    return f"the address should become {name}: not done here"
