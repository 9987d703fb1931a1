"""Rules asked as the engine asks them, and what they told meanwhile."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy.config.rules import read_rule, rule_module, settings_of
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context, SourceRule
from proxy.rules.undecided import Policy
from proxy.rules.verdict import Answer, Facts, Instead, Kind, Question, Verdict
from tests.support.files import Files

HOSTILE = (
    b"'\"`$(id)`;|&<>*)(uid=*@example.test",
    b"two words%41@example.test",
    b"-rf@example.test",
    b"caf\xe9\xff@example.test",
    b"line\nend@example.test",
    b"nul\0byte@example.test",
)


@dataclass
class Asked:
    """A rule and what it told."""

    kind: str
    keys: dict[str, Any]
    root: bytes = b"/"
    host: QmailHost = field(default_factory=lambda: QmailHost(Files()))
    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    now: float = 100.0
    tells_backend: bool = False
    undecided: Policy = "accept"

    def __post_init__(self) -> None:
        settings = settings_of(self.kind).model_validate(
            {"type": self.kind, **self.keys}
        )
        self.rule: SourceRule = rule_module(self.kind).build(settings, self.context())

    def context(self) -> Context:
        return Context(
            "it",
            self.host,
            self.root,
            on_answer=lambda _, answer, __: self.answers.append(answer),
            on_error=lambda _, error: self.errors.append(str(error)),
            clock=lambda: self.now,
            say=lambda _, text: self.said.append(text),
            tells_backend=self.tells_backend,
            undecided=self.undecided,
        )

    async def verdict(
        self, recipient: bytes = b"bob@example.test", **more: Any
    ) -> Verdict | None:
        facts = more.pop("facts", Facts())
        question = Question(recipient, mailbox=recipient, facts=lambda: facts, **more)
        answer = await self.answer(question)
        assert not isinstance(answer, Instead)
        return answer

    async def answer(self, question: Question) -> Answer:
        """Whatever it says."""
        answer = self.rule.ask(question)
        return await answer if inspect.isawaitable(answer) else answer

    async def word(self, recipient: bytes = b"bob@example.test", **more: Any) -> str:
        verdict = await self.verdict(recipient, **more)
        return verdict.kind.value if verdict else "pass"

    async def reply(self, recipient: bytes = b"bob@example.test", **more: Any) -> str:
        verdict = await self.verdict(recipient, **more)
        assert verdict is not None
        assert verdict.kind is not Kind.ACCEPT
        return verdict.reply.text

    async def words(self, recipients: Iterable[bytes]) -> list[str]:
        return [await self.word(each) for each in recipients]


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
        found = self.rule.ask(question)
        answer = await found if inspect.isawaitable(found) else found
        assert not isinstance(answer, Instead)
        return answer

    async def says(self, mailbox: bytes | str, sender: bytes = b"") -> str:
        """The same in one word: the verdict's, or ``none``."""
        verdict = await self.verdict(mailbox, sender)
        return verdict.kind.value if verdict else "none"

    async def close(self) -> None:
        await self.rule.close()
