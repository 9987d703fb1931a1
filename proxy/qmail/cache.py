"""File contents, kept as long as the file is the same file.

Knows: a file's identity (device, inode, size, times in nanoseconds) and when
that identity cannot be trusted yet.  Knows not: what the contents mean; each
caller hands in its own parser.  Called by ``control``, ``users``, ``passwd``,
``dotqmail``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from proxy.qmail.errors import CannotTell
from proxy.qmail.view import FileView, OpenFile, Status, read_all
from proxy.qmail.walk import Place, Walker
from proxy.system import file_clock

T = TypeVar("T")

# Directories whose names are kept, and names in one of them.
_HOMES_MAX = 10_000
_NAMES_MAX = 2_000
_UNREAD: frozenset[bytes] = frozenset({b"/"})  # no name

Identity = tuple[int, int, int, int, int]

# Answers by domain that are kept beside a control file's content.
_ANSWERS_MAX = 1_000


def identity(status: Status) -> Identity:
    """What changes whenever the content may have changed."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def settled(status: Status, now_ns: int) -> bool:
    """Whether the next change of a file will be seen by its :func:`identity`."""
    return file_clock.settled(status.st_ctime_ns, now_ns)


def keep(answers: dict[bytes, T], key: bytes, answer: T) -> T:
    """Remember ``answer``; strangers choose the keys, so their number is
    bounded."""
    if len(answers) >= _ANSWERS_MAX:
        answers.clear()
    answers[key] = answer
    return answer


class FileCache:
    """Parsed files and open cdb files, both bounded in number.

    ``clock`` gives nanoseconds since the epoch, as the files' times do.
    """

    def __init__(
        self, *, entries: int = 32768, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._entries = entries
        self._clock = clock
        self._parsed: dict[tuple[bytes, Any], tuple[Identity, Any]] = {}
        self._names: dict[bytes, tuple[Identity, frozenset[bytes] | None]] = {}
        self._open: dict[bytes, tuple[Identity, OpenFile]] = {}

    def parsed(
        self, walker: Walker, place: Place, parse: Callable[[bytes], T], limit: int
    ) -> T:
        """``parse(content)`` of the regular file at ``place``.

        Raises :class:`CannotTell` when it cannot be read or is longer than
        ``limit`` bytes.
        """
        key = (place.path, parse)
        now = identity(place.status)
        kept = self._parsed.get(key)
        if kept is not None and kept[0] == now:
            value: T = kept[1]
            return value
        file = walker.open(place)
        try:
            content = read_all(file, limit)
            read = identity(file.status)
        except OSError as error:
            raise CannotTell(place.path, error.strerror or "cannot be read") from error
        finally:
            file.close()
        value = parse(content)
        if self._settled(file.status):
            if len(self._parsed) >= self._entries:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[key] = (read, value)
        else:
            self._parsed.pop(key, None)
        return value

    def names(self, view: FileView, home: Place) -> frozenset[bytes] | None:
        """Every name in the directory ``home`` that begins with ``.qmail``.

        ``None`` where that is not known: the first time, while the directory is
        changing, and for large directories; then each name is looked at.  Names
        that are not here do not exist, which spares two lstat(2) for each
        unknown recipient.
        """
        now = identity(home.status)
        kept = self._names.get(home.path)
        if kept is None or kept[0] != now:
            if len(self._names) >= _HOMES_MAX:
                self._names.clear()
            self._names[home.path] = now, _UNREAD
            return None
        names = kept[1]
        if names is _UNREAD:
            names = self._list(view, home)
            self._names[home.path] = now, names
        return names

    def _list(self, view: FileView, home: Place) -> frozenset[bytes] | None:
        try:
            names = view.names(home.path, b".qmail", _NAMES_MAX)
            same = identity(view.lstat(home.path)) == identity(home.status)
        except OSError:
            return None
        return names if same and self._settled(home.status) else None

    def opened(self, walker: Walker, place: Place) -> OpenFile:
        """The regular file at ``place``, open; closed by the cache, later.

        Raises :class:`CannotTell`.
        """
        kept = self._open.get(place.path)
        if kept is not None and kept[0] == identity(place.status):
            return kept[1]
        file = walker.open(place)
        if len(self._open) >= 64:
            self._open.pop(next(iter(self._open)))[1].close()
        if kept is not None:
            kept[1].close()
        self._open[place.path] = (identity(file.status), file)
        return file

    def close(self) -> None:
        """Close every descriptor and forget everything."""
        for _, file in self._open.values():
            file.close()
        self._open.clear()
        self._parsed.clear()
        self._names.clear()

    def _settled(self, status: Status) -> bool:
        return settled(status, self._clock())
