"""A stream of bytes that may stand still or fail: written to, never waited for.

Knows: regular files, pipes, sockets, terminals; how much they take now.
Knows not: what is written.  Called by ``log``.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
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
        self._raw, self._whole_lines, self._poll = _way(getattr(stream, "raw", stream))
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

        PIPE_BUF bytes are not mixed with those of other processes (pipe(7)).
        """
        end = start + select.PIPE_BUF
        if not self._whole_lines or end >= len(data):
            return len(data)
        return data.rfind(b"\n", start, end) + 1 or end


def make_own(descriptor: int) -> None:
    """If it is a pipe, put one of our own in its place that never waits.

    Whether a write to a pipe waits is a property of what was opened once, which we
    share with whoever started us; so the pipe is opened anew.  Only its owner and root
    may do that: call it before becoming another user."""
    opened = _opened_anew(descriptor)
    if opened is not None:
        os.dup2(opened, descriptor)
        os.close(opened)


class _Socket:
    """systemd's journal, for one."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))

    def write(self, data: bytes, /) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def __del__(self) -> None:
        self._socket.close()


class _Pipe:
    """Opened by ourselves."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes, /) -> int:
        return os.write(self._descriptor, data)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _way(stream: Any) -> tuple[Stream, bool, select.poll | None]:
    """What to write to, whether in pieces of whole lines, and who says first whether
    there is room, if the write itself would wait for it."""
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):
        return stream, False, None
    if stat.S_ISREG(mode):
        return stream, False, None
    if stat.S_ISSOCK(mode):
        with contextlib.suppress(OSError):
            return _Socket(descriptor), False, None
    if stat.S_ISFIFO(mode):
        if (opened := _opened_anew(descriptor)) is not None:
            return _Pipe(opened), True, None
        if not os.get_blocking(descriptor):
            return stream, True, None
    # Best effort: another process may take the room before we do.
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return stream, True, poll


def _opened_anew(descriptor: int) -> int | None:
    """The same pipe by a descriptor that never waits; ``None`` where that is not
    allowed, nobody reads it, or it is no pipe."""
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return None
