"""The rule ``cdb``: recipients in a cdb, as patches of qmail-smtpd read them.

Knows: which files belong to a format.  Knows not: keys (``cdbformats``, ``sqmail``),
when files are opened (``cdbfile``, ``whole``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from proxy.config.rules import SourceKeys
from proxy.config.values import AbsolutePath, wrong
from proxy.qmail.control import entries
from proxy.rules import cdbformats
from proxy.rules.cdbfile import REMEDY, CdbFile
from proxy.rules.slices import Steps, at_once
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.sqmail import Recipients, RecipientsLines
from proxy.rules.trouble import NOTE, WARNING, RuleError, Trouble, encoded, shown
from proxy.rules.verdict import Question
from proxy.rules.whole import GUARD, Share, Whole

_FORMATS: dict[str, cdbformats.Format] = {
    "plain": cdbformats.plain,
    "validrcptto": cdbformats.validrcptto,
    "validrcptto-sagredo": cdbformats.sagredo,
    "goodrcptto": cdbformats.goodrcptto,
    "goodrcptto-qpsmtpd": cdbformats.qpsmtpd,
}
_WITH_TEXT = ("validrcptto-sagredo", "goodrcptto", "goodrcptto-qpsmtpd")

# What these patches do for RELAYCLIENT: they take everybody, or leave it to chkuser.
_RELAYED = {
    "validrcptto": Says.FOUND,
    "validrcptto-sagredo": Says.PASS,
    "goodrcptto": Says.FOUND,
}
_BEHIND = "not yet: the file is being read anew"


class Settings(SourceKeys):
    """The files of recipients that patches of qmail-smtpd have. A file that is
    missing or damaged is a deferral, never a welcome to everybody."""

    EXAMPLE: ClassVar[dict[str, object]] = {
        "format": "validrcptto",
        "file": "/var/qmail/control/validrcptto.cdb",
    }

    type: Literal["cdb"] = Field(
        description="cdb: a cdb of recipients, with the keys of one of those patches."
    )
    format: Literal[
        "plain",
        "validrcptto",
        "validrcptto-sagredo",
        "goodrcptto",
        "goodrcptto-qpsmtpd",
        "recipients",
    ] = Field(
        default="plain",
        description="What its keys are. plain: addresses. validrcptto: John Simpson's"
        " patch. validrcptto-sagredo: the combined patch of sagredo.eu. goodrcptto:"
        " Eben Pratt's patch. goodrcptto-qpsmtpd: the plugin of that name. recipients:"
        " file is s/qmail's control/recipients, which names cdb files.",
    )
    file: AbsolutePath | None = Field(
        default=None,
        examples=["/var/qmail/control/validrcptto.cdb"],
        description="The cdb, below qmail.root (with recipients: the text file). Opened"
        " anew when it is replaced.",
    )
    text: AbsolutePath | None = Field(
        default=None,
        examples=["/var/qmail/control/validrcptto"],
        description="For validrcptto-sagredo and both of goodrcptto: the text file,"
        " which counts together with the cdb, or without one.",
    )
    relayclients: bool = Field(
        default=False,
        description="Whether clients that may relay are held to it, too. The patches"
        " validrcptto, validrcptto-sagredo and goodrcptto do not look then; with the"
        " other formats all clients are.",
    )
    guard: Share = Field(default=0.5, description=GUARD)

    @model_validator(mode="before")
    @classmethod
    def _default_of_missing(cls, value: Any) -> Any:
        """Behind that patch's validrcptto stands chkuser, which decides."""
        if isinstance(value, dict) and value.get("format") == "validrcptto-sagredo":
            return {"missing": "pass", **value}
        return value

    @model_validator(mode="after")
    def _files(self) -> Settings:
        if self.text is not None and self.format not in _WITH_TEXT:
            remedy = f'leave text out, or write format = "{_WITH_TEXT[0]}"'
            raise wrong(f'format "{self.format}" has no text file', remedy)
        if self.file is None and self.text is None:
            raise wrong("no file", 'write file = "/..."')
        return self


class Names:
    """The lines of a text file, as control_readfile and constmap read them."""

    def __init__(self) -> None:
        self._names: dict[bytes, int] = {}

    def line(self, number: int, line: bytes) -> None:
        """One line."""
        for entry, _ in entries(line):
            self._names[entry.lower()] = number

    def data(self) -> Names:
        """Itself: no line is bad."""
        return self

    def addresses(self) -> Iterable[bytes]:
        """All of them."""
        return self._names

    def __contains__(self, address: object) -> bool:
        return address in self._names

    def __len__(self) -> int:
        return len(self._names)


class CdbSource(BaseSource):
    """A cdb, a text file, or both as one."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._format = _FORMATS[settings.format]
        self._as_it_came = settings.format == "goodrcptto"
        self._relayed = None if settings.relayclients else _RELAYED.get(settings.format)
        self._name = " and ".join(filter(None, (settings.text, settings.file)))
        self._text: Whole[Names] | None = None
        self._cdb: CdbFile | None = None
        if settings.text is not None:
            text = encoded(settings.text)
            self._text = Whole(text, Names, context, settings.guard)
        if settings.file is not None:
            self._cdb = CdbFile(encoded(settings.file), context, settings.guard)

    def load(self) -> Steps[None]:
        """Read the text file; raises :class:`RuleError` where it cannot be used."""
        if self._text is not None:
            yield from self._text.load()

    def query(self, question: Question) -> str:
        return f"{shown(question.mailbox.lower())} in {self._name}"

    def key(self, question: Question) -> bytes | None:
        relays = question.relayclient is not None and self._relayed is not None
        odd = relays or self._without_domain(question)
        return None if odd else super().key(question)

    def _without_domain(self, question: Question) -> bool:
        """Whether the address is to be looked up as the client wrote it, too."""
        return self._as_it_came and b"@" not in question.recipient

    def ask(self, question: Question) -> Finding:
        if question.relayclient is not None and self._relayed is not None:
            return Finding(self._relayed, "not looked up: the client may relay")
        names = self._text.look() if self._text is not None else None
        cdb = self._cdb
        if cdb is not None:
            cdb.asked()

        def get(key: bytes) -> bytes | None:
            if names is not None and key in names:
                return b""
            return cdb.get(key) if cdb is not None else None

        finding = self._format(get, question.mailbox.lower())
        if finding.says is Says.MISSING and self._without_domain(question):
            finding = self._format(get, question.recipient.lower())
        behind = (self._text and self._text.behind) or (cdb and cdb.behind)
        if finding.says is not Says.FOUND and behind:
            return Finding(Says.DEFER, _BEHIND)
        return finding

    async def close(self) -> None:
        if self._text is not None:
            self._text.close()
        if self._cdb is not None:
            self._cdb.close()


class RecipientsSource(BaseSource):
    """``control/recipients``, and the cdb files that it names."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._context = context
        self._guard = settings.guard
        self._name = settings.file or ""
        self._file = recipients_file(settings, context)
        self._cdbs: dict[bytes, CdbFile] = {}
        self._lines: Recipients | None = None

    def load(self) -> Steps[None]:
        """Read the file; raises :class:`RuleError` where it cannot be used."""
        yield from self._file.load()

    def query(self, question: Question) -> str:
        return f"{shown(question.mailbox.lower())} in {self._name}"

    def ask(self, question: Question) -> Finding:
        lines = self._file.look()
        if lines is not self._lines:
            self._lines = lines
            for path in self._cdbs.keys() - set(lines.paths()):
                self._cdbs.pop(path).close()
        finding = lines.find(self._look, question.mailbox.lower())
        behind = self._file.behind or any(cdb.behind for cdb in self._cdbs.values())
        if finding.says is not Says.FOUND and behind:
            return Finding(Says.DEFER, _BEHIND)
        return finding

    def _look(self, path: bytes, key: bytes) -> bytes | None:
        cdb = self._cdbs.get(path)
        if cdb is None:
            cdb = self._cdbs[path] = CdbFile(path, self._context, self._guard)
        cdb.asked()
        return cdb.get(key)

    async def close(self) -> None:
        self._file.close()
        for cdb in self._cdbs.values():
            cdb.close()


def recipients_file(settings: Settings, context: Context) -> Whole[Recipients]:
    """s/qmail's text file, which is not read yet."""
    path, home = encoded(settings.file or ""), context.host.settings.home
    return Whole(path, lambda: RecipientsLines(path, home), context)


def build(settings: Settings, context: Context) -> Steps[SourceRule]:
    """The rule of a ``[[rules]]`` table of this type; raises :class:`RuleError`.
    Its files may be large, so it is made in steps."""
    source: CdbSource | RecipientsSource
    if settings.format == "recipients":
        source = RecipientsSource(settings, context)
    else:
        source = CdbSource(settings, context)
    yield from source.load()
    return SourceRule(settings, source, context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """What ``backstop check`` says of it."""
    paths = []
    try:
        if settings.format == "recipients":
            recipients = recipients_file(settings, context)
            at_once(recipients.load())
            paths = recipients.look().paths()
        elif settings.file is not None:
            paths = [encoded(settings.file)]
        if settings.text is not None:
            path = encoded(settings.text)
            text = Whole(path, Names, context)
            at_once(text.load())
            what = f"has {len(text.look())} entries"
            yield Trouble(what, "see that this is meant", "", path, 0, NOTE)
    except RuleError as error:
        yield from error.troubles
    for path in paths:
        yield _seen(CdbFile(path, context), path)


def _seen(cdb: CdbFile, path: bytes) -> Trouble:
    try:
        records = cdb.records
    except SourceDown as error:
        what = str(error).removeprefix(path.decode("latin-1") + ": ")
        return Trouble(what.removesuffix(f" ({REMEDY})"), REMEDY, "", path)
    finally:
        cdb.close()
    level = NOTE if records else WARNING
    what = f"has {records} records"
    return Trouble(what, "see that this is meant", "", path, 0, level)
