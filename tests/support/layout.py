"""A recorded host as a real directory tree: owners, modes, FIFOs, devices.

For tests that read the files as the service does (as root, since owners are
changed).  Absolute links stay as recorded; whoever reads has to keep them
below the root.
"""

from __future__ import annotations

import os
import pathlib
import stat
from typing import Any

from tests.support.recorded import content_of, with_accounts

# chardev entries carry no number; qmail never gets as far as using it.
_NULL_DEVICE = os.makedev(1, 3)


def lay_out(world: dict[str, Any], root: pathlib.Path) -> None:
    """Make every file of ``world`` below ``root``; the caller is root.

    Where devices cannot be made, a FIFO stands in: not a regular file either.
    """
    for entry in sorted(with_accounts(world), key=_parents_first):
        path = os.fsencode(root) + entry["path"].encode("latin-1").rstrip(b"/")
        _make(path, entry)


def _parents_first(entry: dict[str, Any]) -> int:
    path: str = entry["path"].rstrip("/")
    return path.count("/")


def _make(path: bytes, entry: dict[str, Any]) -> None:
    kind = entry["type"]
    if kind == "dir":
        os.makedirs(path, exist_ok=True)
    elif kind == "symlink":
        os.symlink(content_of(entry), path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "chardev":
        _make_device(path)
    else:
        with open(path, "wb") as file:
            file.write(content_of(entry))
    os.chown(path, entry["uid"], entry["gid"], follow_symlinks=False)
    if kind != "symlink":
        os.chmod(path, int(entry["mode"], 8))  # after chown, which clears set-id


def _make_device(path: bytes) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, _NULL_DEVICE)
    except PermissionError:
        os.mkfifo(path)
