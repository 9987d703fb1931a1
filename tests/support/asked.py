"""Rules asked as the engine asks them, and what they told meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy.config.rules import rule_module, settings_of
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context, SourceRule
from proxy.rules.verdict import Facts, Kind, Question, Verdict
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
        )

    async def verdict(
        self, recipient: bytes = b"bob@example.test", **more: Any
    ) -> Verdict | None:
        facts = more.pop("facts", Facts())
        question = Question(recipient, mailbox=recipient, facts=lambda: facts, **more)
        answer = self.rule.ask(question)
        if answer is None or isinstance(answer, Verdict):
            return answer
        return await answer

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
