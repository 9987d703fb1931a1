"""The status page's numbers of before, in a file that outlives the service.

Knows: what is written, when, and how a file that is damaged is told from a good one.
Knows not: what the numbers count (``history``), who may write where.  Made by
``showing``, in the one process that serves the page.

The file is replaced as a whole, so that it is either the old or the new one.  It is
not forced to the disk (fsync(2) may take long, and sessions would wait): after a power
failure it may be damaged, and then all begins anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from proxy.observe.history import History

SIZE_MAX = 64 << 10
"""Bytes; what is written is far less."""

_SAVE_SECONDS = 60.0
_NEW = ".new"

Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""


class Kept:
    """A :class:`History` that is read from ``path``, and written to it."""

    def __init__(
        self, path: str, say: Say, *, now: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._say = say
        self._now = now
        self._written: bytes = b""
        self._saved = now()
        self._failed = False

    def read(self) -> History:
        """What was kept; a new one where nothing was, or it is damaged."""
        now = self._now()
        try:
            found = _read(self.path, now)
        except _Bad as error:
            self._say("error", f"status.history: {error}: its numbers begin anew")
            found = None
        return found or History(now)

    def tick(self, history: History) -> None:
        """Write it now and then; called every few seconds."""
        if not 0 <= self._now() - self._saved < _SAVE_SECONDS:
            self.save(history)

    def save(self, history: History) -> None:
        """Write it, if there is something new; told once if that cannot be."""
        self._saved = self._now()
        data = json.dumps(history.plain(), separators=(",", ":")).encode() + b"\n"
        if data == self._written:
            return
        try:
            _replace(self.path, data)
        except OSError as error:
            if not self._failed:
                self._failed = True
                text = f"{self.path} cannot be written: {error.strerror}"
                self._say("error", f"status.history: {text}")
        else:
            self._written, self._failed = data, False


def trouble(path: str) -> str:
    """What is wrong with what is there, in words."""
    try:
        _read(path, time.time())
    except _Bad as error:
        return str(error)
    return ""


class _Bad(Exception):
    """A file of which no history can be made; the text says why."""


def _read(path: str, now: float) -> History | None:
    """What is kept there; ``None`` where nothing is."""
    try:
        return History.of(_content(path), now)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _Bad(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        why = "not JSON" if isinstance(error, _NOT_JSON) else error
        raise _Bad(f"{path} is damaged ({why})") from error


_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError)


def _content(path: str) -> Any:
    """What stands in the file; raises ``OSError`` and ``ValueError``."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        data = file.read(SIZE_MAX + 1)
    if len(data) > SIZE_MAX:
        raise ValueError("too long")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _replace(path: str, data: bytes) -> None:
    new = path + _NEW
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of one that was ended while it wrote
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o644), "wb") as file:
        file.write(data)
    os.replace(new, path)
