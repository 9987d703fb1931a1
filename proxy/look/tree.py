"""A host's files below a root, read as text, and what could not be read.

Knows: names, links that stay below the root, sizes.  Knows not: what any file
means.  Made by ``host``; used by every other module here.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import DirectoryView, OpenFile, read_all
from proxy.qmail.walk import SUPERUSER, Place, Walker

_TEXT_MAX = 4 << 20
_NAMES_MAX = 20_000


class Found(NamedTuple):
    """Something that is there: ``what`` in a word or two, its file (``line`` 0:
    all of it), and ``detail``, which may be empty."""

    what: str
    path: str
    line: int = 0
    detail: str = ""

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}" if self.line else self.path


class Unseen(NamedTuple):
    """Something that may be there, and could not be looked at."""

    path: str
    why: str


class Tree:
    """The files below ``root``, an absolute path of this machine; all paths are
    those of the host that is looked at.  Nothing here raises: what cannot be read
    is not there, and is in ``unseen``."""

    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/") or "/"
        self.unseen: list[Unseen] = []
        self._view = DirectoryView(os.fsencode(root))
        self._walker = Walker(self._view, SUPERUSER)

    @property
    def live(self) -> bool:
        """Whether this is the running machine itself."""
        return self.root == "/"

    def shown(self, path: str) -> str:
        """The path as it is on this machine."""
        return path if self.live else self.root + path

    def text(self, path: str, limit: int = _TEXT_MAX) -> str | None:
        """The file's content, ``None`` without one; bytes that are not UTF-8 are
        kept as surrogates."""
        content = self.content(path, limit)
        return None if content is None else content.decode("utf-8", "surrogateescape")

    def content(self, path: str, limit: int = _TEXT_MAX) -> bytes | None:
        """The file's bytes, ``None`` without one."""
        return self._read(path, lambda file: read_all(file, limit))

    def ending(self, path: str, size: int) -> bytes | None:
        """The file's last bytes, ``None`` without one."""

        def last(file: OpenFile) -> bytes:
            return file.pread(size, max(file.status.st_size - size, 0))

        return self._read(path, last)

    def _read(self, path: str, read: Callable[[OpenFile], bytes]) -> bytes | None:
        place = self._place(path)
        if place is None or not stat_bits.S_ISREG(place.status.st_mode):
            return None
        try:
            file = self._walker.open(place)
        except CannotTell as error:
            self._missed(path, error.why)
            return None
        try:
            return read(file)
        except OSError as error:
            self._missed(path, error.strerror or str(error))
            return None
        finally:
            file.close()

    def line(self, path: str) -> str:
        """The first line, without blanks around it; ``""`` without one."""
        return (self.text(path) or "").partition("\n")[0].strip()

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        """Lines with their numbers that are not empty and no comments."""
        for number, line in enumerate((self.text(path) or "").split("\n"), start=1):
            line = line.strip()
            if line and not line.startswith("#"):
                yield number, line

    def exists(self, path: str) -> bool:
        """Whether anything is there."""
        return self._place(path) is not None

    def is_directory(self, path: str) -> bool:
        """Whether a directory is there."""
        place = self._place(path)
        return place is not None and stat_bits.S_ISDIR(place.status.st_mode)

    def changed(self, path: str) -> float:
        """When the content was changed, in seconds since 1970; 0 without it."""
        place = self._place(path)
        return place.status.st_mtime_ns / 1e9 if place else 0.0

    def real(self, path: str) -> str:
        """The path without links, itself where there is nothing."""
        place = self._place(path)
        return os.fsdecode(place.path) if place else path

    def names(self, path: str, prefix: str = "") -> list[str]:
        """The names in a directory that begin with ``prefix``, sorted; none where
        there is no such directory."""
        place = self._place(path)
        if place is None or not stat_bits.S_ISDIR(place.status.st_mode):
            return []
        try:
            found = self._view.names(place.path, os.fsencode(prefix), _NAMES_MAX)
        except OSError as error:
            self._missed(path, error.strerror or str(error))
            return []
        if found is None:
            self._missed(path, f"more than {_NAMES_MAX} names")
            return []
        return sorted(map(os.fsdecode, found))

    def _place(self, path: str) -> Place | None:
        try:
            return self._walker.stat(os.fsencode(path))
        except KernelError:
            return None
        except CannotTell as error:
            self._missed(path, error.why)
            return None

    def _missed(self, path: str, why: str) -> None:
        missed = Unseen(path, why.replace("the front door's own user may", "we may"))
        if missed not in self.unseen:
            self.unseen.append(missed)
