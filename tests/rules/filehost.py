"""A host in memory with a file that a rule reads, and what the rule told."""

from __future__ import annotations

import asyncio

from proxy.config.rules import rule_module
from proxy.qmail.host import QmailHost
from proxy.rules.slices import at_once, stepwise
from proxy.rules.source import Context, SourceRule
from proxy.rules.verdict import Question, Verdict
from tests.support.files import Files


class FileHost:
    """Files that can be changed, and a clock that the test turns."""

    def __init__(self, **files: bytes) -> None:
        self.files = Files()
        self.now = 100.0
        self.answers: list[str] = []
        self.errors: list[str] = []
        for name, content in files.items():
            self.write("/etc/" + name, content)

    def write(self, path: str, content: bytes) -> None:
        """Make the file, or write over it."""
        self.files.now_ns += 1
        self.files.file(path.encode(), content)

    def replace(self, path: str, content: bytes) -> None:
        """Rename another file to that name."""
        if path.encode() in self.files._files:
            self.files.remove(path.encode())
        self.write(path, content)

    def context(self) -> Context:
        return Context(
            "staff",
            QmailHost(self.files),
            on_answer=lambda name, answer, _: self.answers.append(answer),
            on_error=lambda name, error: self.errors.append(str(error)),
            clock=lambda: self.now,
        )

    def rule(self, kind: str, **keys: object) -> SourceRule:
        """A rule of that type, built as ``serve`` does."""
        module = rule_module(kind)
        settings = module.Settings.model_validate({"type": kind, **keys})
        made = module.build(settings, self.context())
        rule: SourceRule = at_once(stepwise(made))
        return rule


def verdict(rule: SourceRule, mailbox: bytes) -> Verdict | None:
    """What the rule says, at once."""
    answer = rule.ask(Question(mailbox, mailbox=mailbox))
    assert answer is None or isinstance(answer, Verdict)
    return answer


def said(rule: SourceRule, mailbox: bytes) -> str:
    """The kind of the verdict; ``pass`` where the next rule is asked."""
    answer = verdict(rule, mailbox)
    return answer.kind.value if answer else "pass"


async def until_read(rule: SourceRule, mailbox: bytes, wanted: str) -> int:
    """Ask until the answer is the wanted one; how many turns of the loop that
    took."""
    for turn in range(100_000):
        if said(rule, mailbox) == wanted:
            return turn
        await asyncio.sleep(0)
    raise AssertionError(f"never {wanted}")
