"""qmail's control files, read as control.c and constmap.c read them.

Knows: line syntax, comments, defaults from control/me, case folding, which
entry wins.  Knows not: what any single file is for.  Called by ``smtpd`` and
``send``.  Source: qmail-control(5), control.c, constmap.c.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from collections.abc import Callable
from typing import TypeVar

from proxy.qmail.cache import FileCache
from proxy.qmail.errors import KernelError
from proxy.qmail.view import OpenFile, Status
from proxy.qmail.walk import Place, Walker

T = TypeVar("T")

# 50,000 virtual domains are some 2 MB; this is only a bound.
FILE_MAX = 64 << 20

_NOTHING = b"/dev/null"

Names = dict[bytes, int]
"""A list file: lower-cased entry to its line number."""

Map = dict[bytes, tuple[bytes, int]]
"""A ``key:value`` file: lower-cased key to value and line number."""


class ControlError(Exception):
    """A control file that exists but that qmail cannot read.

    qmail-smtpd answers 421 then and qmail-send does not start.
    """

    def __init__(self, name: bytes, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"control/{self.name.decode('latin-1')}: {self.why}"


class NotRegular:
    """An :class:`~proxy.qmail.view.OpenFile` of which nothing can be read."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def pread(self, size: int, offset: int) -> bytes:
        raise OSError(errno.EINVAL, "not a regular file")

    def close(self) -> None:
        """Nothing was opened."""


class ControlFiles:
    """The control directory, as one of qmail's users sees it."""

    __slots__ = ("_cache", "_directory", "_walker")

    def __init__(self, cache: FileCache, walker: Walker, directory: Place) -> None:
        self._cache = cache
        self._walker = walker
        self._directory = directory

    def line(self, name: bytes) -> bytes | None:
        """``control_readline``: the first line, or ``None`` without the file.

        Raises :class:`ControlError`, :class:`~proxy.qmail.errors.CannotTell`.
        """
        return self._parsed(name, first_line)

    def line_or_me(self, name: bytes, default: bytes | None) -> bytes | None:
        """``control_rldef``: the line, else control/me, else ``default``."""
        line = self.line(name)
        if line is None:
            line = self.line(b"me")
        return default if line is None else line

    def names(self, name: bytes) -> Names | None:
        """``control_readfile`` with ``constmap_init``: a list of names."""
        return self._parsed(name, parse_names)

    def lines(self, name: bytes) -> list[tuple[bytes, int]] | None:
        """``control_readfile`` alone: every entry as it stands, with its line number.
        ``name`` may be a path, from the control directory."""
        return self._parsed(name, entries)

    def map(self, name: bytes) -> Map | None:
        """``control_readfile`` with ``constmap_init`` on ``key:value`` lines."""
        return self._parsed(name, parse_map)

    def open(self, name: bytes) -> OpenFile | None:
        """A cdb in the control directory, or ``None`` without the file.

        open(2) takes a directory or FIFO too; then every lookup fails.
        """
        place = self._look(name)
        if place is None:
            return None
        if not stat_bits.S_ISREG(place.status.st_mode):
            return NotRegular(place.status)
        return self._cache.opened(self._walker, place)

    def readable(self, name: bytes) -> bool:
        """Whether the file exists; :class:`ControlError` if it cannot be read."""
        return self._find(name) is not None

    def _parsed(self, name: bytes, parse: Callable[[bytes], T]) -> T | None:
        place = self._find(name)
        if place is None:
            return None
        if _is_nothing(place):
            return parse(b"")
        return self._cache.parsed(self._walker, place, parse, FILE_MAX)

    def _find(self, name: bytes) -> Place | None:
        place = self._look(name)
        if place is None or stat_bits.S_ISREG(place.status.st_mode):
            return place
        if not _is_nothing(place):
            raise ControlError(name, "not a regular file")
        return place

    def _look(self, name: bytes) -> Place | None:
        try:
            return self._walker.readable(name, self._directory)
        except KernelError as error:
            if error.code == errno.ENOENT:
                return None
            raise ControlError(name, str(error)) from error


def _is_nothing(place: Place) -> bool:
    """A link to null(4), which is an empty file to all who read it."""
    return place.path == _NOTHING and stat_bits.S_ISCHR(place.status.st_mode)


def first_line(content: bytes) -> bytes:
    """The first line without blanks and tabs at its end (control_readline)."""
    return content.partition(b"\n")[0].rstrip(b" \t")


def entries(content: bytes) -> list[tuple[bytes, int]]:
    """Every entry with its line number (control_readfile).

    Lines that are empty or begin with ``#`` or NUL do not count; a NUL inside
    a line separates entries, since qmail keeps them separated by NUL.
    """
    found: list[tuple[bytes, int]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        line = line.rstrip(b" \t")
        if not line or line[0] in b"#\0":
            continue
        if b"\0" in line:
            found.extend((entry, number) for entry in line.split(b"\0"))
        else:
            found.append((line, number))
    return found


def parse_names(content: bytes) -> Names:
    """A list file, folded to lower case as constmap compares (ASCII only)."""
    return {entry.lower(): number for entry, number in entries(content)}


def parse_map(content: bytes) -> Map:
    """A ``key:value`` file; entries without a colon do not count, and of two
    entries with the same key the later wins (constmap.c chains from the end)."""
    found: Map = {}
    if b"\0" in content:
        for entry, number in entries(content):
            key, colon, value = entry.partition(b":")
            if colon:
                found[key.lower()] = (value, number)
        return found
    # The same in one go: there are files of 50,000 lines.
    for number, line in enumerate(content.split(b"\n"), start=1):
        key, colon, value = line.partition(b":")
        if colon and not line.startswith(b"#"):
            found[key.lower()] = (value.rstrip(b" \t"), number)
    return found
