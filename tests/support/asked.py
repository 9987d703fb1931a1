"""A rule as the configuration makes it, and what it says."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from proxy.config.rules import read_rule, rule_module
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context, SourceRule
from proxy.rules.verdict import Question, Verdict
from tests.support.files import Files


class AskedRule:
    """The rule of one table of ``[[rules]]``; ``answers`` and ``errors`` are what
    it told."""

    def __init__(self, **keys: object) -> None:
        self.answers: list[str] = []
        self.errors: list[str] = []
        settings = read_rule(keys)
        context = Context(
            str(keys["type"]),
            QmailHost(Files()),
            on_answer=lambda name, answer, _: self.answers.append(answer),
            on_error=lambda name, error: self.errors.append(str(error)),
        )
        build: Callable[..., SourceRule] = rule_module(settings.type).build
        self.rule = build(settings, context)

    async def verdict(
        self, mailbox: bytes | str, sender: bytes = b"", client: str = "192.0.2.1"
    ) -> Verdict | None:
        """What it says of a mailbox."""
        address = mailbox.encode() if isinstance(mailbox, str) else mailbox
        question = Question(address, sender, client, mailbox=address)
        answer = self.rule.ask(question)
        return await answer if inspect.isawaitable(answer) else answer

    async def says(self, mailbox: bytes | str, sender: bytes = b"") -> str:
        """The same in one word: the verdict's, or ``none``."""
        verdict = await self.verdict(mailbox, sender)
        return verdict.kind.value if verdict else "none"

    async def close(self) -> None:
        await self.rule.close()
