"""A stream of bytes that may stand still or fail: written to, never waited for.

Knows: regular files, pipes, sockets, terminals; how much they take now.
Knows not: what is written.  Called by ``log``.
"""

from __future__ import annotations

import os
import select
import stat
from typing import Any, Protocol

_FULL_SECONDS = 0.05
_BROKEN_SECONDS = 1.0
"""How long a stream is left alone that takes no more, or fails."""


class Stream(Protocol):
    """A raw binary stream: ``None`` or a short count where it takes no more."""

    def write(self, data: bytes, /) -> int | None:
        """How many bytes were taken."""
        ...


class Output:
    """Writes as much as the stream takes now; never raises, never waits."""

    def __init__(self, stream: Stream) -> None:
        # A buffered writer keeps what it could not write, and we keep it too.
        self._raw: Stream = getattr(stream, "raw", stream)
        self._poll = _poll(self._raw)
        self.patience = 0.0

    def write(self, data: bytes) -> int:
        """How many bytes were taken; if not all, ``patience`` is the time
        until trying again may help."""
        taken = 0
        self.patience = _FULL_SECONDS
        try:
            while taken < len(data):
                if self._poll is not None and not self._poll.poll(0):
                    break
                written = self._raw.write(data[taken : self._piece_end(data, taken)])
                if not written:
                    break
                taken += written
        except BlockingIOError:
            pass
        except (OSError, ValueError):  # ValueError: closed
            self.patience = _BROKEN_SECONDS
        return taken

    def _piece_end(self, data: bytes, start: int) -> int:
        """All of it; to a pipe, whole lines that are written in one go.

        PIPE_BUF bytes never block where poll said that there is room, and
        are not mixed with those of other processes (pipe(7)).
        """
        end = start + select.PIPE_BUF
        if self._poll is None or end >= len(data):
            return len(data)
        return data.rfind(b"\n", start, end) + 1 or end


def _poll(stream: Any) -> select.poll | None:
    """Who to ask whether a write would block; a file's never does."""
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
    except (AttributeError, OSError, ValueError):
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
