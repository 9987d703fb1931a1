"""What may stand in a list of addresses, and which entry a mailbox is found by.

Knows: the kinds of entries, their order, what is no entry.  Knows not: files, or what
being in a list means.  Used by ``list``.  All in lower case, ASCII letters only, as
qmail compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from proxy.qmail.smtpd import suffixes

ENTRY_MAX = 1000
"""Bytes; qmail-smtpd takes addresses of 900."""

WILDCARDS_MAX = 1000
"""Of one list: each is tried for every recipient that nothing else has."""


class BadEntry(ValueError):
    """What stands there is no entry: ``what`` is wrong, and the ``remedy``."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy


class Found(NamedTuple):
    """The entry, in lower case, and its line; 0 without lines."""

    entry: bytes
    line: int


class Entries:
    """One list, with its exceptions."""

    def __init__(self) -> None:
        self._kept = _Kept()
        self._exceptions = _Kept()

    def __len__(self) -> int:
        return len(self._kept) + len(self._exceptions)

    def add(self, text: bytes, line: int = 0) -> None:
        """One entry; raises :class:`BadEntry`."""
        text = text.lower()
        if text.startswith(b"!"):
            self._exceptions.add(text[1:], line)
        else:
            self._kept.add(text, line)

    def exception(self, mailbox: bytes) -> Found | None:
        """The exception that a mailbox, in lower case, falls under."""
        found = self._exceptions.find(mailbox)
        return found and Found(b"!" + found.entry, found.line)

    def find(self, mailbox: bytes) -> Found | None:
        """The entry that a mailbox, in lower case, is found by, whatever the
        exceptions say: the address itself, ``user@``, a wildcard, its domain."""
        return self._kept.find(mailbox)

    def addresses(self) -> Iterator[bytes]:
        """Every entry but the exceptions; domains as ``@domain``."""
        return self._kept.addresses()

    def __contains__(self, address: object) -> bool:
        return isinstance(address, bytes) and self._kept.has(address)

    def domains(self) -> int:
        """Of how many domains there are entries."""
        return len({each[each.rfind(b"@") + 1 :] for each in self.addresses()})


class _Wildcard(NamedTuple):
    """What stands between the stars, on both sides of the ``@``."""

    user: list[bytes]
    domain: list[bytes]
    line: int


class _Kept:
    """Entries of each kind, by what they are looked up with."""

    def __init__(self) -> None:
        self._exact: dict[bytes, int] = {}  # user@domain
        self._users: dict[bytes, int] = {}  # user@
        self._wild: dict[bytes, _Wildcard] = {}
        self._domains: dict[bytes, int] = {}  # @domain and @.domain

    def __len__(self) -> int:
        count = len(self._exact) + len(self._users)
        return count + len(self._wild) + len(self._domains)

    def has(self, entry: bytes) -> bool:
        return (
            entry in self._exact
            or entry in self._users
            or entry in self._wild
            or entry in self._domains
        )

    def addresses(self) -> Iterator[bytes]:
        for kind in (self._exact, self._users, self._wild, self._domains):
            yield from kind

    def add(self, entry: bytes, line: int) -> None:
        user, _, domain = _checked(entry)
        if b"*" in entry:
            if len(self._wild) >= WILDCARDS_MAX:
                what = f"the list has more than {WILDCARDS_MAX} entries with a star"
                raise BadEntry(what, "write addresses and domains where you can")
            wildcard = _Wildcard(user.split(b"*"), domain.split(b"*"), line)
            self._wild.setdefault(entry, wildcard)
        elif not user:
            self._domains.setdefault(b"@" + domain, line)
        elif not domain:
            self._users.setdefault(entry, line)
        else:
            self._exact.setdefault(entry, line)

    def find(self, mailbox: bytes) -> Found | None:
        line = self._exact.get(mailbox)
        if line is not None:
            return Found(mailbox, line)
        user, _, domain = mailbox.rpartition(b"@")
        if self._users:
            line = self._users.get(user + b"@")
            if line is not None:
                return Found(user + b"@", line)
        for entry, wild in self._wild.items():
            if _matches(wild.user, user) and _matches(wild.domain, domain):
                return Found(entry, wild.line)
        if self._domains:
            for suffix in suffixes(domain):
                line = self._domains.get(b"@" + suffix)
                if line is not None:
                    return Found(b"@" + suffix, line)
        return None


_BAD = re.compile(rb"[\x00-\x20\x7f]")


def _checked(entry: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before, at, and behind the last ``@``."""
    if len(entry) > ENTRY_MAX:
        raise BadEntry(f"is longer than {ENTRY_MAX} bytes", "write one entry a line")
    if not entry.strip(b"*@!."):
        raise BadEntry("names nobody, or everybody", "use the keys found and missing")
    if _BAD.search(entry):
        raise BadEntry("is more than one word", "write one entry a line")
    if entry.startswith(b"<") or entry.endswith(b">"):
        raise BadEntry("has brackets around it", 'write "user@example.org" without')
    if b"@" not in entry:
        if b"*" in entry:
            raise BadEntry("has a star and no @", 'write "info-*@example.org"')
        if b"." not in entry:
            what = "is neither an address nor a domain"
            raise BadEntry(what, 'write "user@" for any domain, "@host" for a domain')
        return b"", b"@", entry
    return entry.rpartition(b"@")


def _matches(pieces: list[bytes], text: bytes) -> bool:
    """Whether ``text`` is the pieces with anything between them.  Each piece is
    looked for once, from where the last one ended: no pattern takes long."""
    first, *middle = pieces
    if not middle:
        # No star: the word itself; where nothing stands, anything ("user*@").
        return text == first or not first
    last = middle.pop()
    if len(text) < len(first) + len(last):
        return False
    if not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
