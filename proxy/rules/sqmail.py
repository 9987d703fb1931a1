"""``control/recipients`` of s/qmail (its recipients.c): which cdb knows a domain.

Knows: the lines, which of them a domain is looked up in, and the keys.  Knows not:
when files are read.  Used by ``cdb``, as its format ``recipients``.

Two things are not as there: a domain has to be the line's own, or below it, not only
begin or end alike; and a cdb that cannot be read is no "everybody is welcome".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.rules.source import Finding, Says, SourceDown
from proxy.rules.trouble import RuleError, Trouble, shown

LINES_MAX = 10_000

Lookup = Callable[[bytes, bytes], bytes | None]
"""The data under a key in the cdb at a path; raises :class:`SourceDown`."""


class Line(NamedTuple):
    """One line.

    ``domain`` is what stands before the colon; empty for ``*`` and for a path alone.
    ``path`` is empty where no cdb is asked: ``!domain`` and ``!*``.
    """

    number: int
    domain: bytes = b""
    path: bytes = b""
    everybody: bool = False
    only: bool = False
    star: bool = False

    def is_for(self, domain: bytes) -> bool:
        """Whether ``domain`` is this line's own."""
        if not self.domain:
            return False
        if domain == self.domain.lstrip(b"."):
            return True
        return not self.only and domain.endswith(b"." + self.domain.lstrip(b"."))


class Recipients:
    """The lines, in order."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines

    def addresses(self) -> Iterator[bytes]:
        """None: the addresses are in the cdb files, which have their own guard."""
        return iter(())

    def __contains__(self, address: object) -> bool:
        return False

    def paths(self) -> list[bytes]:
        """Of the cdb files, each once."""
        return list(dict.fromkeys(line.path for line in self.lines if line.path))

    def find(self, look: Lookup, mailbox: bytes) -> Finding:
        """What the lines say of a mailbox in lower case; raises
        :class:`SourceDown` where a file that counts cannot be read."""
        domain = mailbox[mailbox.rfind(b"@") + 1 :]
        keys = list(_keys(mailbox))
        seen = False
        down: SourceDown | None = None
        for line in self.lines:
            mine = line.is_for(domain)
            if line.everybody:
                if mine or (line.star and not seen):
                    return Finding(Says.FOUND, f"line {line.number}: everybody")
                continue
            seen = seen or mine
            # A path alone is for domains that no line before it is for.
            alone = not line.domain and not line.star
            if not (seen or line.star or alone) or (alone and seen):
                continue
            try:
                for key in keys:
                    if look(line.path, key) is not None:
                        note = f"line {line.number}: key {shown(key)}"
                        return Finding(Says.FOUND, note)
            except SourceDown as error:
                down = down or error
        if down is not None:
            raise down
        return Finding(Says.MISSING, f"no key {shown(keys[0])}")


def _keys(mailbox: bytes) -> Iterator[bytes]:
    """The address, and what it begins with up to the first of ``-``, ``=``, ``+``, as
    lists and rewritten senders have it (``:list-@domain``)."""
    yield b":" + mailbox
    user, at, domain = mailbox.rpartition(b"@")
    for number, byte in enumerate(user):
        if byte in b"-=+":
            yield b":" + user[: number + 1] + at + domain
            return


class RecipientsLines:
    """Makes :class:`Recipients` of the lines of the file at ``path``; paths in it
    begin in ``home``, qmail's."""

    def __init__(self, path: bytes, home: bytes) -> None:
        self._path = path
        self._home = home
        self._lines: list[Line] = []
        self._bad: list[Trouble] = []

    def line(self, number: int, line: bytes) -> None:
        """One line, as control_readfile reads it."""
        text = line.rstrip(b" \t")
        if not text or text.startswith(b"#"):
            return
        if b"\0" in text or b"\r" in text:
            self._trouble(number, "has a byte that is no text", "take it out")
        elif b"|" in text:
            what = "a checker behind | is not run by this rule"
            self._trouble(number, what, "take the line out, and write a rule for it")
        elif len(self._lines) >= LINES_MAX:
            self._trouble(number, f"more than {LINES_MAX} lines", "use several rules")
        else:
            self._lines.append(self._read(number, text))

    def _read(self, number: int, text: bytes) -> Line:
        if text.startswith(b"!"):
            domain = text[1:].lower()
            star = domain == b"*"
            only = not star
            return Line(
                number, b"" if star else domain, everybody=True, only=only, star=star
            )
        name, colon, path = text.partition(b":")
        if not colon:
            return Line(number, path=self._below_home(text))
        path = self._below_home(path)
        if name.startswith(b"*"):
            return Line(number, path=path, star=True)
        only = name.startswith(b"@")
        return Line(number, name.lstrip(b"@").lower(), path, only=only)

    def data(self) -> Recipients:
        """All of them; raises :class:`RuleError`."""
        if self._bad:
            raise RuleError(self._bad)
        return Recipients(self._lines)

    def _below_home(self, path: bytes) -> bytes:
        return path if path.startswith(b"/") else self._home + b"/" + path

    def _trouble(self, number: int, what: str, remedy: str) -> None:
        if len(self._bad) < 20:
            self._bad.append(Trouble(what, remedy, "", self._path, number))
