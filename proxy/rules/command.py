"""The rule ``command``: a program of the site's own.

Knows: how it is asked, once for each question or line by line, and what it answers.
Knows not: how programs are run (``eachtime``, ``coprocess``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from proxy.config.rules import RemoteKeys
from proxy.config.values import Text, split_words, wrong
from proxy.rules.coprocess import Coprocesses
from proxy.rules.eachtime import EachTime
from proxy.rules.pointed import program as check_program
from proxy.rules.running import Ended
from proxy.rules.said import refusal, shown, worded
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    Source,
    SourceDown,
    SourceRule,
)
from proxy.rules.surroundings import fit
from proxy.rules.tcp_table import read_line
from proxy.rules.trouble import Trouble
from proxy.rules.verdict import Question

ANSWER_MAX = 1000
"""Bytes of an answer in a line."""

RECIPIENT, SENDER = "{recipient}", "{sender}"

_PLACE = re.compile(r"\{[a-z_]+\}")

_FOUND, _MISSING, _PASS, _DEFERRED = 0, 100, 112, (75, 111)

_WORDS = {
    b"found": Says.FOUND,
    b"missing": Says.MISSING,
    b"accept": Says.ACCEPT,
    b"reject": Says.REJECT,
    b"defer": Says.DEFER,
    b"pass": Says.PASS,
}

_ANSWER = re.compile(rb"([a-z]+)(?: +(.*))?")


def _checked_program(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words[0].startswith("/"):
        raise wrong("begins with a relative path", "write the program's whole path")
    for word in words:
        if word in (RECIPIENT, SENDER):
            continue
        for name in (RECIPIENT, SENDER):
            if name in word:
                raise wrong(
                    f"has {name} within a word, where it would stay as it is",
                    f'write "{name}" as an argument of its own, or let the program'
                    f" read ${name[1:-1].upper()}",
                )
        if _PLACE.fullmatch(word):
            raise wrong(
                f"has {word}, which is not known", f"known: {RECIPIENT}, {SENDER}"
            )
    return words


class Settings(RemoteKeys):
    """A program of your own. It has RECIPIENT, SENDER and HELO in its environment
    beside tcpserver's variables. Exit status 0: found. 100: missing. 112: no opinion.
    75, 111 and everything else, 1 too: deferred, since scripts that break exit so."""

    runs_programs: ClassVar[bool] = True

    type: Literal["command"] = Field(description="A program of your own.")
    command: Annotated[
        tuple[Text, ...],
        BeforeValidator(split_words),
        Field(min_length=1),
        AfterValidator(_checked_program),
    ] = Field(
        examples=[["/usr/local/bin/mailbox-exists", "--", "{recipient}"]],
        description="The program, by its whole path, and its arguments; no shell is"
        " asked. {recipient} and {sender} alone in an argument are the addresses; one"
        ' that begins with a dash is deferred, unless "--" stands before it.',
    )
    mode: Literal["once", "lines"] = Field(
        default="once",
        description="once: a program for each recipient. lines: programs that stay;"
        " each reads one address a line, and answers each with one line: found,"
        " missing, accept, reject, defer or pass, and perhaps a reply behind it.",
    )

    def is_forgetful(self) -> bool:
        return self.mode == "once"


class Once(EachTime):
    """Runs the program for each question."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings.concurrency, context)
        self._settings = settings

    def query(self, question: Question) -> str:
        return f"{self._settings.command[0]}, RECIPIENT={shown(question.mailbox)}"

    async def ask(self, question: Question) -> Finding:
        command = list(_arguments(self._settings.command, question))
        return self._finding(await self.run(command, question, question.mailbox))

    def _finding(self, ended: Ended) -> Finding:
        status = ended.status
        note = f"exit status {status}"
        own = refusal(ended.output.partition(b"\n")[0])
        if status == _FOUND:
            return Finding(Says.FOUND, note)
        if status == _MISSING:
            return worded(Says.MISSING, note, own)
        if status == _PASS:
            return Finding(Says.PASS, note)
        if status in _DEFERRED:
            return worded(Says.DEFER, note, own)
        note = f"ended by signal {-status}" if status < 0 else note
        raise SourceDown(f"{self._settings.command[0]}: {note}")


def _arguments(command: tuple[str, ...], question: Question) -> Iterator[str | bytes]:
    """The command with the addresses in their places; raises :class:`SourceDown`."""
    addresses = {RECIPIENT: question.mailbox, SENDER: question.sender}
    for number, word in enumerate(command):
        address = addresses.get(word)
        if address is None:
            yield word
            continue
        if address.startswith(b"-") and "--" not in command[:number]:
            raise SourceDown('the address begins with a dash, and no "--" is before it')
        yield address


class Lines(BaseSource):
    """Asks programs that stay."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._programs = Coprocesses(settings.command, ANSWER_MAX, context)

    def query(self, question: Question) -> str:
        return f"{self._settings.command[0]}, {shown(question.mailbox)}"

    async def ask(self, question: Question) -> Finding:
        asked = fit("recipient", question.mailbox) + b"\n"
        return answered(await self._programs.ask(asked, read_line))

    async def close(self) -> None:
        await self._programs.close()


def answered(line: bytes) -> Finding:
    """What a line says; raises :class:`SourceDown`."""
    match = _ANSWER.fullmatch(line.strip())
    says = _WORDS.get(match[1]) if match else None
    if match is None or says is None:
        raise SourceDown(f"not an answer: {shown(line)}")
    return worded(says, shown(line), refusal(match[2] or b""))


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    source: Source = (
        Lines(settings, context)
        if settings.mode == "lines"
        else Once(settings, context)
    )
    return SourceRule(settings, source, context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """Whether the program can be run."""
    return check_program(settings.command[0])
