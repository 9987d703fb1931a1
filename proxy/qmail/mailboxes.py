"""When a mailbox file or a Maildir can be written.

Knows: what qmail-local and others do to deliver there, as one of the host's users.
Knows not: who asks for it.  Called by ``local`` and ``vpopmail``.  Source: mbox.5,
maildir.5, qmail-local.c.
"""

from __future__ import annotations

import stat as stat_bits

from proxy.qmail.errors import KernelError
from proxy.qmail.walk import SEARCH, WRITE, Missing, Place, Walker


def mbox_fault(walker: Walker, home: Place, path: bytes) -> str | None:
    """Why ``open_append`` or the writing would fail, or ``None``.

    mbox.5; qmail-local.c, ``mailfile()``: open for append, created with mode
    0600, written, fsync(2).
    """
    try:
        found = walker.walk(_plain(path), home)
    except KernelError as error:
        return str(error)
    if isinstance(found, Missing):
        if walker.identity.may(found.directory, WRITE | SEARCH):
            return None
        return "it does not exist, and its directory is not writable"
    if not walker.identity.may(found.status, WRITE):
        return "not writable for the user"
    if not stat_bits.S_ISREG(found.status.st_mode):
        return "not a regular file"
    return None


def _plain(path: bytes) -> bytes:
    """``./Maildir`` is ``Maildir``, by far the most frequent, and one look."""
    name = path[2:]
    if path.startswith(b"./") and name and b"/" not in name:
        return name
    return path


def maildir_fault(walker: Walker, home: Place, path: bytes) -> str | None:
    """Why a delivery to the Maildir would fail, or ``None``.

    maildir.5; qmail-local.c, ``maildir_child()``: chdir, a new file in tmp,
    a link to it in new.
    """
    try:
        maildir = walker.enter(_plain(path.rstrip(b"/")) or path, home)
    except KernelError as error:
        return str(error)
    found = []
    for name in (b"tmp", b"new"):
        try:
            directory = walker.enter(name, maildir)
        except KernelError as error:
            return f"{name.decode()}: {error}"
        if not walker.identity.may(directory.status, WRITE | SEARCH):
            return f"{name.decode()} is not writable for the user"
        found.append(directory.status)
    tmp, new = found
    if tmp.st_dev != new.st_dev:
        return "tmp and new are on two file systems"
    # link(2) finds its own file there.
    return "tmp and new are one directory" if tmp.st_ino == new.st_ino else None
