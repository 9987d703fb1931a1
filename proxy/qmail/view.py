"""What may be asked of a host's files: the narrow waist under all qmail knowledge.

Knows: how to look at names below a root directory, reading only, never
following a symbolic link itself, never opening anything but a regular file.
Knows not: permissions of qmail's users, symbolic links (:mod:`proxy.qmail.walk`)
or what any file means.  Called by ``walk`` and ``cache``.

Paths are absolute on the *qmail host* (``b"/var/qmail/control/me"``).
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Iterator
from typing import Protocol


class Status(Protocol):
    """The part of ``stat(2)`` that decides anything; ``os.stat_result`` fits."""

    @property
    def st_mode(self) -> int:
        """Kind and permissions."""
        ...

    @property
    def st_uid(self) -> int:
        """The owner's number."""
        ...

    @property
    def st_gid(self) -> int:
        """The group's number."""
        ...

    @property
    def st_dev(self) -> int:
        """The file system's number."""
        ...

    @property
    def st_ino(self) -> int:
        """The file's number there."""
        ...

    @property
    def st_size(self) -> int:
        """Bytes."""
        ...

    @property
    def st_mtime_ns(self) -> int:
        """Of the last change of the content, nanoseconds since the epoch."""
        ...

    @property
    def st_ctime_ns(self) -> int:
        """Of the last change of anything, nanoseconds since the epoch."""
        ...


class OpenFile(Protocol):
    """A regular file open for reading at any offset (a cdb)."""

    status: Status

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        ...

    def close(self) -> None:
        """Give the descriptor back; may be called twice."""
        ...


class FileView(Protocol):
    """A host's files, read only.  Every method may raise :class:`OSError`."""

    @property
    def whole(self) -> bool:
        """Whether what is not here is not on the host either."""
        ...

    def lstat(self, path: bytes) -> Status:
        """lstat(2)."""
        ...

    def readlink(self, path: bytes) -> bytes:
        """readlink(2)."""
        ...

    def names(self, path: bytes, prefix: bytes, limit: int) -> frozenset[bytes] | None:
        """The names in a directory that begin with ``prefix``; ``None`` for a
        directory of more than ``limit`` names."""
        ...

    def listing(self, path: bytes) -> Iterator[bytes]:
        """All names in a directory but ``.`` and ``..``, in its order."""
        ...

    def open(self, path: bytes) -> OpenFile:
        """Open what :meth:`lstat` has just said is a regular file.

        Should it not be one any more, ``OSError(EINVAL)``.
        """
        ...


def read_all(file: OpenFile, limit: int) -> bytes:
    """The whole content of ``file``.

    Raises ``OSError(EFBIG)`` when it is longer than ``limit`` bytes.
    """
    pieces = []
    total = 0
    expected = min(file.status.st_size, limit) + 1
    while piece := file.pread(max(expected - total, 4096), total):
        pieces.append(piece)
        total += len(piece)
        if total > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if total < expected:
            break  # a short read: the end
    return b"".join(pieces)


_HEAD = 2048  # bytes: a cdb's 256 pairs


class DescriptorFile:
    """An :class:`OpenFile` on a file descriptor.

    The head is read once: it is where every search in a cdb begins.
    """

    __slots__ = ("_descriptor", "_head", "status")

    def __init__(self, descriptor: int, status: Status) -> None:
        self._descriptor = descriptor
        self._head: bytes | None = None
        self.status: Status = status

    def pread(self, size: int, offset: int) -> bytes:
        end = offset + size
        if end > _HEAD:
            return os.pread(self._descriptor, size, offset)
        if self._head is None:
            self._head = os.pread(self._descriptor, _HEAD, 0)
        return self._head[offset:end]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class DirectoryView:
    """The files below a directory of this machine (``/``, or a mounted host)."""

    # O_NONBLOCK: should a FIFO take the file's place after lstat, open(2)
    # returns at once.  O_NOFOLLOW: links are walk's business, inside the root.
    _FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY

    def __init__(self, root: bytes) -> None:
        self._root = root.rstrip(b"/")
        # Elsewhere, only what qmail needs may have been mounted or copied.
        self.whole = not self._root

    def lstat(self, path: bytes) -> Status:
        return os.lstat(self._root + path)

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self._root + path)

    def names(self, path: bytes, prefix: bytes, limit: int) -> frozenset[bytes] | None:
        found = []
        with os.scandir(self._root + path) as entries:
            for number, entry in enumerate(entries):
                if number >= limit:
                    return None
                if entry.name.startswith(prefix):
                    found.append(entry.name)
        return frozenset(found)

    def listing(self, path: bytes) -> Iterator[bytes]:
        with os.scandir(self._root + path) as entries:
            for entry in entries:
                yield entry.name

    def open(self, path: bytes) -> OpenFile:
        descriptor = os.open(self._root + path, self._FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat_bits.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
        except OSError:
            os.close(descriptor)
            raise
        return DescriptorFile(descriptor, status)
