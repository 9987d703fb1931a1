"""How much a Maildir of vpopmail has, or a whole domain: every message in it.

Knows: which messages vpopmail counts, and for how much.  Knows not: when a count is
wanted, or how long it may take (:mod:`proxy.rules.counts`, which does it in a thread
of its own: nothing here touches what other decisions use).  Source:
``docheckquota()`` and ``readdomainquota()`` in maildirquota.c of vpopmail 5.4 to 5.6.

A Maildir whose directories are what they were is not counted again: names come and go
with a change of the directory, and the content of a message never changes
(maildir.5).
"""

from __future__ import annotations

import re
import stat as stat_bits
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.qmail.cache import identity, settled
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.questions import Kind, Stored
from proxy.qmail.view import FileView
from proxy.qmail.walk import READ, Identity, Missing, Place, Walker

_PATH_MAX = 255  # checkdir: longer paths are cut, and lead nowhere
_TRASHED = re.compile(rb"[A-SU-Z]*T")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_PAUSE_MASK = 0xFF  # names between two pauses

_KEPT_MAX = 50_000
"""Mailboxes of a domain that are remembered, some 250 bytes each."""


class Counted(NamedTuple):
    """A mailbox, and by what it is seen that it has not changed since."""

    mark: int
    size: int
    messages: int


class Count:
    """One count.  ``kept`` is what the next one may use."""

    def __init__(
        self,
        view: FileView,
        identity: Identity,
        before: dict[bytes, Counted],
        pause: Callable[[], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``before`` is ``kept`` of the last count; ``pause`` is called often and may
        raise, to give up.  ``clock``: nanoseconds since the epoch."""
        self._view = view
        self._walker = Walker(view, identity)
        self._before = before
        self._pause = pause
        self._clock = clock
        self.kept: dict[bytes, Counted] = {}

    def all_of(self, directory: bytes, kind: Kind) -> Stored:
        """What is in there; raises :class:`CannotTell` where only the front door may
        not look."""
        if kind is not Kind.MAILDIR:
            return self._domain(directory, hashed=kind is Kind.HASHED)
        maildir = self._directory(directory)
        found = self._maildir(maildir) if maildir is not None else _EMPTY
        return Stored(found.size, found.messages)

    def _domain(self, directory: bytes, *, hashed: bool) -> Stored:
        """``readdomainquota()``.

        In a ``hashed`` one, a name of one letter is a directory of more mailboxes.
        vpopmail begins at nothing again with each of them, and so it is here: it is
        what it goes by.
        """
        size = messages = 0
        base = self._directory(directory)
        for name in self._names(base) if base is not None else ():
            if hashed and len(name) == 1:
                below = directory + b"/" + name
                if len(below) > _PATH_MAX:
                    raise CannotTell(below, "vpopmail can count no further")
                size, messages = self._domain(below, hashed=True)
            elif base is not None and len(directory) + len(name) + 10 <= _PATH_MAX:
                found = self._mailbox(base, name)
                size, messages = size + found.size, messages + found.messages
        return Stored(size, messages)

    def _directory(self, path: bytes, base: Place | None = None) -> Place | None:
        """What stat(2) finds, if it is a directory."""
        try:
            found = self._walker.walk(path, base)
        except KernelError:
            return None
        if isinstance(found, Missing) or not stat_bits.S_ISDIR(found.status.st_mode):
            return None
        return found

    def _names(self, directory: Place) -> Iterator[bytes]:
        """readdir(3), in its order; what vpopmail may not list has no names."""
        if not self._walker.identity.may(directory.status, READ):
            return
        try:
            for number, name in enumerate(self._view.listing(directory.path)):
                if not number & _PAUSE_MASK:
                    self._pause()
                yield name
        except (FileNotFoundError, NotADirectoryError):
            return  # gone meanwhile
        except OSError as error:
            raise CannotTell(directory.path, error.strerror or "unreadable") from error

    def _mailbox(self, base: Place, name: bytes) -> Counted:
        home = self._directory(name, base)
        maildir = self._directory(b"Maildir", home) if home is not None else None
        return self._maildir(maildir) if maildir is not None else _EMPTY

    def _maildir(self, maildir: Place) -> Counted:
        """``readuserquota()``, unless nothing has changed."""
        places = list(self._message_directories(maildir))
        mark = hash(tuple(identity(place.status) for place in places))
        key = maildir.path
        found = self._before.get(key)
        if found is None or found.mark != mark:
            found = Counted(mark, *self._count(places))
        now = self._clock()
        if len(self.kept) < _KEPT_MAX and all(settled(p.status, now) for p in places):
            self.kept[key] = found
        return found

    def _message_directories(self, maildir: Place) -> Iterator[Place]:
        """``new`` and ``cur`` of the Maildir and of each of its folders."""
        yield from self._new_and_cur(maildir)
        for name in self._names(maildir):
            if name.startswith(b".") and name != b".Trash":
                folder = self._directory(name, maildir)
                if folder is not None:
                    yield from self._new_and_cur(folder)

    def _new_and_cur(self, folder: Place) -> Iterator[Place]:
        for name in (b"new", b"cur"):
            found = self._directory(name, folder)
            if found is not None:
                yield found

    def _count(self, places: list[Place]) -> Stored:
        """``docount()`` of each."""
        size = messages = 0
        for place in places:
            for name in self._names(place):
                if name.startswith(b".") or is_trashed(name):
                    continue
                told = told_size(name)
                if told is None:
                    told = self._size(place, name)
                if told is not None:
                    size += told
                    messages += 1
        return Stored(size, messages)

    def _size(self, directory: Place, name: bytes) -> int | None:
        try:
            return self._walker.stat(name, directory).status.st_size
        except KernelError:
            return None


_EMPTY = Counted(0, 0, 0)


def is_trashed(name: bytes) -> bool:
    """Whether a message is marked as deleted (``:2,T``): vpopmail does not count it."""
    at = name.find(b":2,")
    return at >= 0 and _TRASHED.match(name, at + 3) is not None


def told_size(name: bytes) -> int | None:
    """The size that the name of a message tells (``,S=``), ``None`` without one."""
    front = name.partition(b":")[0]
    at = front.rfind(b",S=")
    if at < 0:
        return None
    match = _DIGITS.match(front, at + 3)
    return int(match[0]) if match is not None else 0
