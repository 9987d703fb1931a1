"""The rule ``list``: addresses, domains and patterns in a file or the configuration.

Knows: what a line is.  Knows not: which entry wins (``entries``), when the file is
read (``whole``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from proxy.config.rules import SourceKeys, Then
from proxy.config.values import AbsolutePath, split_list, wrong
from proxy.rules.entries import BadEntry, Entries, Found
from proxy.rules.slices import Steps, at_once
from proxy.rules.source import BaseSource, Context, Finding, Says, SourceRule
from proxy.rules.trouble import NOTE, WARNING, RuleError, Trouble, encoded, shown
from proxy.rules.verdict import Question
from proxy.rules.whole import GUARD, Share, Whole

_TROUBLES_MAX = 20  # of one file; the others are counted


def _entry(text: str) -> str:
    try:
        Entries().add(encoded(text))
    except BadEntry as error:
        raise wrong(error.what, error.remedy) from error
    return text


class Settings(SourceKeys):
    """A list of addresses, domains and patterns: an allow-list, or with
    found = "reject" a list of those who get no mail."""

    EXAMPLE: ClassVar[dict[str, object]] = {"file": "/etc/backstop/recipients"}

    type: Literal["list"] = Field(
        description="list: a file, or a few entries here. Entries are user@example.org,"
        " user@ (in any domain), info-*@example.org, @example.org, @.example.org (all"
        " below it); !entry is an exception."
    )
    file: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/recipients"],
        description="Below qmail.root, one entry a line, # for comments. Read anew when"
        " it changes; a bad one is not taken.",
    )
    addresses: Annotated[
        tuple[Annotated[str, AfterValidator(_entry)], ...], BeforeValidator(split_list)
    ] = Field(
        default=(),
        examples=[("postmaster@", "!info@example.org")],
        description="Entries here, with those of the file or without one.",
    )
    guard: Share = Field(default=0.5, description=GUARD)
    missing: Then = Field(
        default="pass",
        description="What it means that no entry has the recipient: by default the"
        " next rule is asked.",
    )

    @model_validator(mode="after")
    def _something(self) -> Settings:
        if self.file is None and not self.addresses:
            raise wrong("a list of nothing", 'write file = "/..." or addresses = [...]')
        return self


class Lines:
    """Makes :class:`Entries` of the lines of the file at ``path``."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._entries = Entries()
        self._bad: list[Trouble] = []

    def line(self, number: int, line: bytes) -> None:
        """One entry, a comment, or nothing."""
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # some editors begin so
        text = line.strip()
        if not text or text.startswith(b"#"):
            return
        # A # may stand in an address; before a comment there is room.
        for blank in (b" #", b"\t#"):
            text = text.partition(blank)[0].rstrip()
        try:
            self._entries.add(text, number)
        except BadEntry as error:
            if len(self._bad) < _TROUBLES_MAX:
                what = f"{shown(text)} {error.what}"
                self._bad.append(Trouble(what, error.remedy, "", self._path, number))

    def data(self) -> Entries:
        """All of them; raises :class:`RuleError`."""
        if self._bad:
            raise RuleError(self._bad)
        return self._entries


class ListSource(BaseSource):
    """The entries of the file and of the configuration, as one list."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._here = Entries()
        for text in settings.addresses:
            self._here.add(encoded(text))
        self._name = settings.file or "addresses"
        self._file: Whole[Entries] | None = None
        if settings.file is not None:
            self._file = named_file(settings, context)
        # What is not in an allow-list is refused, here or by what comes next.
        self._patient = settings.found in ("accept", "pass")

    def load(self) -> Steps[None]:
        """Read the file; raises :class:`RuleError` where it cannot be used."""
        if self._file is not None:
            yield from self._file.load()

    def query(self, question: Question) -> str:
        return f"{shown(question.mailbox.lower())} in {self._name}"

    def ask(self, question: Question) -> Finding:
        mailbox = question.mailbox.lower()
        lists = [self._here]
        if self._file is not None:
            lists.insert(0, self._file.look())
        for each in lists:
            if found := each.exception(mailbox):
                return self._missing(f"an exception: {self._shown(found)}")
        for each in lists:
            if found := each.find(mailbox):
                return Finding(Says.FOUND, self._shown(found))
        return self._missing("not in the list")

    def _missing(self, note: str) -> Finding:
        if self._patient and self._file is not None and self._file.behind:
            # A mailbox made just now may be in it.
            return Finding(Says.DEFER, "not yet: the file is being read anew")
        return Finding(Says.MISSING, note)

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _shown(self, found: Found) -> str:
        place = f"line {found.line}" if found.line else "addresses"
        return f"{place}: {shown(found.entry)}"


def named_file(settings: Settings, context: Context) -> Whole[Entries]:
    """The file of ``settings``, which is not read yet."""
    path = encoded(settings.file or "")
    return Whole(path, lambda: Lines(path), context, settings.guard)


def build(settings: Settings, context: Context) -> Steps[SourceRule]:
    """The rule of a ``[[rules]]`` table of this type; raises :class:`RuleError`.
    Its files may be large, so it is made in steps."""
    source = ListSource(settings, context)
    yield from source.load()
    return SourceRule(settings, source, context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """What ``backstop check`` says of it."""
    if settings.file is None:
        return
    path = encoded(settings.file)
    try:
        file = named_file(settings, context)
        at_once(file.load())
        entries = file.look()
    except RuleError as error:
        yield from error.troubles
        return
    if not len(entries):
        yield Trouble("has no entry", "see that this is meant", "", path, 0, WARNING)
        return
    what = f"has {len(entries)} entries, of {entries.domains()} domains"
    yield Trouble(what, "see that this is meant", "", path, 0, NOTE)
