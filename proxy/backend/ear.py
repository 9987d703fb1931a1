"""What programs say on standard error, as lines for the log.

Knows: one pipe for all programs of one kind, how much a line and a second may
hold.  Knows not: which program said it, how it is started.  Used by ``program``,
and by the rules that run programs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

Say = Callable[[str, str], None]
"""Level and text for the log."""

_LINES_PER_SECOND = 50
_LINE_MAX = 1000  # bytes
_READ_SIZE = 65536


class Ear:
    """Hears what is written to :attr:`mouth`; ``title`` is put before each line.

    One pipe for all of them: nothing is to be set up for each.
    """

    def __init__(self, title: str, now: Callable[[], float], say: Say) -> None:
        self._title = title
        self._now = now
        self._say = say
        self._ear = -1
        self._mouth = -1
        self._unfinished = b""
        self._second = 0.0
        self._lines = 0
        self._untold = 0

    @property
    def mouth(self) -> int:
        """The descriptor for a program's standard error; made when it is first
        asked for, in a running loop.  Raises :class:`OSError`."""
        if self._ear < 0:
            self._ear, self._mouth = os.pipe()
            os.set_blocking(self._ear, False)
            asyncio.get_running_loop().add_reader(self._ear, self._hear)
        return self._mouth

    def close(self) -> None:
        """Hear what is still there, and no more."""
        if self._ear >= 0:
            self._hear()
            asyncio.get_running_loop().remove_reader(self._ear)
            os.close(self._ear)
            os.close(self._mouth)
            self._ear = self._mouth = -1
        self.tell_untold()

    def tell_untold(self) -> None:
        """Say how many lines were left out."""
        if self._untold:
            text = f"{self._title}: {self._untold} more lines in one second, not shown"
            self._untold = 0
            self._say("warning", text)

    def _hear(self) -> None:
        try:
            data = os.read(self._ear, _READ_SIZE)
        except OSError:
            return
        *lines, rest = (self._unfinished + data).split(b"\n")
        self._unfinished = rest if len(rest) < _LINE_MAX else b""
        for line in lines if rest is self._unfinished else [*lines, rest]:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        now = self._now()
        if now - self._second >= 1.0:
            self.tell_untold()
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines > _LINES_PER_SECOND:
            self._untold += 1
            return
        text = line[:_LINE_MAX].decode("utf-8", "backslashreplace")
        self._say("info", f"{self._title}: {text}")
