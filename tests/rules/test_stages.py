"""Rules that are asked beyond RCPT: which of them counts, and odd ones."""

from __future__ import annotations

from typing import Any

from proxy.rules.stages import Stage, Stages
from proxy.rules.verdict import Question
from proxy.smtp import replies
from proxy.smtp.reply import Reply


class Scripted:
    """Says the same at both."""

    def __init__(self, says: Any) -> None:
        self.name = "scripted"
        self._says = says

    async def at_data(self, question: Question) -> Any:
        if isinstance(self._says, Exception):
            raise self._says
        return self._says

    async def at_auth(self, question: Question, mechanism: bytes, user: bytes) -> Any:
        return await self.at_data(question)


async def said(*says: Any, observe: bool = False) -> tuple[Stage, list[str]]:
    errors: list[str] = []
    rules = [object(), *map(Scripted, says)]
    stages = Stages(
        rules,
        observe=observe,
        on_error=lambda name, _: errors.append(name),
        limit=60,
    )
    return await stages.at_data(Question(b"")), errors


async def test_headers_are_added_up_and_the_first_refusal_counts() -> None:
    lines = Stage(header=b"A: b\r\n"), Stage(header=b"C: d\r\n")
    assert await said(*lines) == (Stage(header=b"A: b\r\nC: d\r\n"), [])
    no, later = Stage(replies.NO_BOUNCES, "no"), Stage(replies.INTERNAL, "later")
    assert (await said(lines[0], no, later))[0] == no


async def test_a_rule_that_fails_or_says_nonsense_is_a_deferral() -> None:
    """Whatever it is, the client gets an answer."""
    odds = (ValueError("odd"), None, "250 ok", Stage(Reply(354, b"go on")))
    for odd in odds:
        stage, errors = await said(odd)
        assert (stage.refusal, errors) == (replies.INTERNAL, ["scripted"])
        stage, errors = await said(odd, observe=True)
        assert (stage.refusal, stage.observed) == (None, replies.INTERNAL)
