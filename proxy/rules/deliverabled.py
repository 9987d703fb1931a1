"""The rule ``deliverabled``: qmail-deliverabled, asked over HTTP.

Knows: its address of a question, and what its numbers mean (Qmail::Deliverable).
Knows not: HTTP (``web``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote

from pydantic import Field

from proxy.config.rules import RemoteKeys
from proxy.rules.pointed import here
from proxy.rules.said import shown
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.trouble import Trouble
from proxy.rules.verdict import Question
from proxy.rules.web import Heard, Url, Web

_MEANINGS = {
    0x00: (Says.MISSING, "not deliverable"),
    0x11: (Says.DEFER, "a permission is denied somewhere"),
    0x12: (Says.FOUND, "a program in dot-qmail decides"),
    0x13: (Says.FOUND, "bouncesaying with a program decides"),
    0x14: (Says.FOUND, "an ezmlm list decides"),
    0x21: (Says.DEFER, "the home is writable to others"),
    0x22: (Says.DEFER, "the home is sticky"),
    0x2F: (Says.DEFER, "its server is unreachable"),
    0xF1: (Says.FOUND, "deliverable"),
    0xF2: (Says.FOUND, "a vpopmail directory"),
    0xF3: (Says.FOUND, "a vpopmail valias"),
    0xF4: (Says.FOUND, "a vpopmail catch-all"),
    0xF5: (Says.FOUND, "a vpopmail user"),
    0xF6: (Says.FOUND, "a vpopmail user's extension"),
    0xFE: (Says.DEFER, "vdelivermail without a domain"),
    0xFF: (Says.PASS, "the domain is not local"),
}

_UNDECIDED = (0x12, 0x13, 0x14)


class Settings(RemoteKeys):
    """qmail-deliverabled of Qmail::Deliverable. Its numbers are told apart: 0x00 is
    missing; 0x11, 0x21, 0x22, 0x2f, 0xfe are deferrals; 0x12 to 0x14 are accepted,
    and marked as undecided; 0xf1 to 0xf6 are found; 0xff, and addresses that it does
    not understand, are left to the next rule."""

    type: Literal["deliverabled"] = Field(description="A qmail-deliverabled.")
    url: Url = Field(
        default="http://127.0.0.1:8998",
        description="Where it listens.",
    )


class Deliverabled(BaseSource):
    """Asks /qd1/deliverable."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings.url.rstrip("/") + "/qd1/deliverable?"
        # It serves one connection at a time: one that is kept would shut others out.
        self._web = Web(keep=False)

    def query(self, question: Question) -> str:
        return f"GET {self._url(question)}"

    async def ask(self, question: Question) -> Finding:
        heard = await self._web.ask("GET", self._url(question))
        if heard.status == 204 or heard.status == 400:
            return Finding(Says.PASS, f"{heard.status}: not understood there")
        return _finding(heard)

    async def close(self) -> None:
        await self._web.close()

    def _url(self, question: Question) -> str:
        return self._base + quote(question.mailbox, safe="")


def _finding(heard: Heard) -> Finding:
    number = heard.body.strip()
    if heard.status != 200 or not (number.isdigit() and len(number) <= 3):
        raise SourceDown(f"not an answer: {heard.status} {shown(heard.body)}")
    code = int(number)
    if code not in _MEANINGS:
        raise SourceDown(f"a number that is not known here: 0x{code:02x}")
    says, meaning = _MEANINGS[code]
    undecided = code in _UNDECIDED
    return Finding(says, f"0x{code:02x}: {meaning}", undecided=undecided)


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, Deliverabled(settings), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """Whether anybody listens, if that is on this machine."""
    return here(settings.url)
