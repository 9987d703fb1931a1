"""What a rule may say beyond RCPT: before DATA is passed on, and after AUTH.

Knows: that such rules are asked in their order, that the first refusal counts, that
an error is a deferral, what observe mode changes.  Knows not: any rule.  Made by the
engine, asked by the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from proxy.rules.verdict import OnRuleError, Question
from proxy.smtp import replies
from proxy.smtp.reply import Reply


class Stage(NamedTuple):
    """A rule's word: ``refusal``, if it refuses, and why, for the log; ``header``,
    whole lines for the top of the message (at DATA only).  ``observed``: the refusal
    that observe mode let pass."""

    refusal: Reply | None = None
    why: str = ""
    header: bytes = b""
    observed: Reply | None = None


@runtime_checkable
class Staged(Protocol):
    """A rule that wants to be asked there too.

    ``question`` has no recipient; its facts tell the rest.
    """

    @property
    def name(self) -> str:
        """As :class:`~proxy.rules.verdict.Rule` has it."""
        ...

    async def at_data(self, question: Question) -> Stage:
        """May the message come?"""
        ...

    async def at_auth(self, question: Question, mechanism: bytes, user: bytes) -> Stage:
        """The backend has accepted ``user``; may it count?"""
        ...


class Stages:
    """The rules of one engine that are asked there."""

    def __init__(
        self,
        rules: Sequence[object],
        *,
        observe: bool,
        on_error: OnRuleError,
        limit: float,
    ) -> None:
        self._rules = tuple(rule for rule in rules if isinstance(rule, Staged))
        self._observe = observe
        self._on_error = on_error
        self._limit = limit

    def __bool__(self) -> bool:
        return bool(self._rules)

    async def at_data(self, question: Question) -> Stage:
        """What all of them say to DATA."""
        return await self._ask(lambda rule: rule.at_data(question))

    async def at_auth(self, question: Question, mechanism: bytes, user: bytes) -> Stage:
        """What all of them say to an AUTH that has succeeded."""
        return await self._ask(lambda rule: rule.at_auth(question, mechanism, user))

    async def _ask(self, ask: Callable[[Staged], Awaitable[Stage]]) -> Stage:
        header = b""
        for rule in self._rules:
            try:
                async with asyncio.timeout(self._limit):
                    said = await ask(rule)
                header += said.header
                if said.refusal is not None and said.refusal.code < 400:
                    raise ValueError(f"{said.refusal.text!r} is no refusal")
            except Exception as error:  # a rule must not end the service
                self._on_error(rule.name, error)
                said = Stage(replies.INTERNAL, f"rule {rule.name} failed: {error}")
            if said.refusal is None:
                continue
            if self._observe:
                return Stage(why=said.why, observed=said.refusal)
            return said
        return Stage(header=b"" if self._observe else header)
