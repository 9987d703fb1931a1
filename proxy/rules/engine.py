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
    NOTHING,
    Answer,
    Change,
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


@runtime_checkable
class LastWord(Protocol):
    """A rule that is heard once more, when a recipient is to be accepted."""

    async def last_word(self, question: Question) -> Answer:
        """An objection, or something that is to be otherwise, for a recipient that
        it was asked for."""
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
        self._last_to_speak = [rule for rule in rules if isinstance(rule, LastWord)]
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
                if answer.change is not None:
                    _, answer = self._changed(question, answer, answer.change)
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
        asked = [rule]
        change = NOTHING
        limit = asyncio.timeout(self._limit)
        try:
            async with limit:
                answer = await awaited
                for following in self._rules[number + 1 :]:
                    if isinstance(answer, Instead):
                        change = change.then(answer.change)
                        question, change, answer = self._with(
                            question, change, rule.name
                        )
                    if answer is not None:
                        break
                    rule = following
                    asked.append(rule)
                    found = rule.ask(question)
                    answer = await found if inspect.isawaitable(found) else found
                if answer is None or isinstance(answer, Instead):
                    return self._no_opinion(question)
                change = change.then(answer.change)
                question, verdict = self._changed(question, answer, change)
                verdict = await self._last_words(asked, question, verdict)
                return self._final(question, verdict)
        except Exception:  # as above
            if limit.expired():
                most = f"{self._limit:g} s, which all rules together have"
                error = TimeoutError(f"no answer within {most}")
            return self._failed(rule, error)

    def _with(
        self, question: Question, change: Change, rule: str
    ) -> tuple[Question, Change, Verdict | None]:
        """The question with what ``rule`` has changed, and as much of the change as
        can be; a verdict where the mail is not to be let in by it, or the other
        recipient is not ours to let in."""
        sender, recipient = change.sender, change.recipient
        if sender is not None and sender != question.sender:
            opened = self._gated(question._replace(sender=sender))
            if isinstance(opened, Verdict):
                # In observe mode the sender stays what it is.
                return question, change, replace(opened, gate=not self._observe)
            question = opened
        if recipient and recipient != question.recipient:
            other = question._replace(recipient=recipient, mailbox=recipient)
            if write_path(recipient) is not None:
                opened = self._gated(other)
                if isinstance(opened, Question):
                    return opened, change, None
            return question, change._replace(recipient=b""), _kept(rule, recipient)
        return question, change, None

    def _changed(
        self, question: Question, verdict: Verdict, change: Change
    ) -> tuple[Question, Verdict]:
        """A verdict by which something is otherwise than was asked."""
        if verdict.kind is not Kind.ACCEPT or self._observe or change == NOTHING:
            if verdict.change is not None:
                verdict = replace(verdict, change=None)
            return question, verdict
        question, change, other = self._with(question, change, verdict.rule)
        if other is not None:
            if other.kind is not Kind.ACCEPT:
                return question, other
            verdict = replace(verdict, reason=other.reason, undecided=True)
        return question, replace(verdict, change=change)

    async def _last_words(
        self, asked: Sequence[Rule], question: Question, verdict: Verdict
    ) -> Verdict:
        """What those who were asked say to an acceptance."""
        for rule in self._last_to_speak:
            if verdict.kind is Kind.ACCEPT and rule in asked:
                said = await rule.last_word(question)
                if isinstance(said, Instead):
                    change = (verdict.change or NOTHING).then(said.change)
                    question, verdict = self._changed(question, verdict, change)
                elif said is not None and said.kind is not Kind.ACCEPT:
                    verdict = said
        return verdict

    def _gated(self, question: Question) -> Question | Verdict:
        """What the gate says to an address that a rule has made."""
        opened = question if self._gate is None else self._gate.ask(question)
        if isinstance(opened, Question):
            return opened._replace(notes=question.notes)
        return opened

    @property
    def holders(self) -> tuple[Closable, ...]:
        """The rules that hold something, to be closed when the engine is not used
        any more."""
        return tuple(rule for rule in self._rules if isinstance(rule, Closable))

    def _final(self, question: Question, verdict: Verdict) -> Verdict:
        if question.notes:
            verdict = replace(verdict, trace=[*question.notes, *verdict.trace])
        if self._observe and verdict.kind is not Kind.ACCEPT and not verdict.gate:
            return replace(
                verdict, observed=verdict.kind, kind=Kind.ACCEPT, reply=_ACCEPTED
            )
        return verdict

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


def _kept(rule: str, recipient: bytes) -> Verdict:
    """The recipient is accepted as it came: it should become another one."""
    name = recipient[:200].decode("latin-1")
    reason = f"the address should become {name}: not done here"
    return Verdict(Kind.ACCEPT, _ACCEPTED, rule, reason, undecided=True)
