"""What the views that are dictionaries of paths have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxy.qmail.view import Status


@dataclass(frozen=True)
class FakeStatus:
    st_mode: int
    st_uid: int
    st_gid: int
    st_ino: int
    st_size: int = 0
    st_dev: int = 1
    st_mtime_ns: int = 1
    st_ctime_ns: int = 1


class FakeFile:
    """Keeps its content when the view's file is replaced, as an inode does."""

    def __init__(self, status: FakeStatus, content: bytes) -> None:
        self.status: Status = status
        self.content = content
        self.closed = 0

    def pread(self, size: int, offset: int) -> bytes:
        return self.content[offset : offset + size]

    def close(self) -> None:
        self.closed += 1


def listed(paths: Iterable[bytes], directory: bytes) -> Iterator[bytes]:
    """As :meth:`proxy.qmail.view.FileView.listing` has it."""
    inside = directory.rstrip(b"/") + b"/"
    below = [path[len(inside) :] for path in paths if path.startswith(inside)]
    yield from (name for name in below if b"/" not in name)


def names_below(
    paths: Iterable[bytes], directory: bytes, prefix: bytes, limit: int
) -> frozenset[bytes] | None:
    """As :meth:`proxy.qmail.view.FileView.names` has it."""
    found = list(listed(paths, directory))
    if len(found) > limit:
        return None
    return frozenset(name for name in found if name.startswith(prefix))
