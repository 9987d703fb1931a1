"""The files that a backend reads once, when a connection begins.

qmail-smtpd reads its control files in setup(), before it greets (qmail-smtpd.c), and
tcpserver its rules when it accepts (tcpserver.c, -x).  A connection is as old as they
were then: once one of them has changed, it answers what is not so any more.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence

from proxy.system.file_clock import settled

Stamp = tuple[int, int, int, int, int] | None


class StartupFiles:
    """``paths`` are files, and directories whose files count each."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self._names: dict[str, tuple[Stamp, list[str]]] = {}

    def identity(self) -> object:
        """Equal as long as nothing has changed; equal to nothing while a file is so
        new that a further change could not be seen."""
        stamps: list[Stamp] = []
        for path in self._paths:
            top = _stamp(path)
            stamps.append(top)
            if top is not None and stat.S_ISDIR(top[0]):
                stamps.extend(map(_stamp, self._inside(path, top)))
        now = time.time_ns()
        if any(stamp is not None and not settled(stamp[4], now) for stamp in stamps):
            return object()
        return tuple(stamps)

    def _inside(self, directory: str, stamp: Stamp) -> list[str]:
        """Its entries: listed anew when it has changed."""
        known = self._names.get(directory)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            return []
        paths = [os.path.join(directory, name) for name in names]
        if stamp is not None and settled(stamp[4], time.time_ns()):
            self._names[directory] = stamp, paths
        return paths


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns
