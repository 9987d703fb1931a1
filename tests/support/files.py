"""A qmail host of a few files in memory, made and changed by a test.

``Files`` is a :class:`proxy.qmail.view.FileView` that remembers what was
opened and fails the test when that is not a regular file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from proxy.qmail.decide import Decision, decide
from proxy.qmail.host import HostSettings, QmailHost
from tests.support.dictionary import FakeFile, FakeStatus, listed, names_below

CONTROL = b"/var/qmail/control/"
ALICE, BOB, ALIAS, QMAILD, QMAILS, QMAILP = 1001, 1002, 7790, 7791, 7796, 7793
QMAIL, NOFILES = 2107, 2108

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
alias:x:7790:2108::/var/qmail/alias:/bin/true
qmaild:x:7791:2108::/var/qmail:/bin/true
qmailp:x:7793:2108::/var/qmail:/bin/true
qmails:x:7796:2107::/var/qmail:/bin/true
alice:x:1001:1001::/home/alice:/bin/sh
bob:x:1002:1002::/home/bob:/bin/sh
"""
GROUP = b"root:x:0:\nqmail:x:2107:\nnofiles:x:2108:\nalice:x:1001:\nbob:x:1002:\n"


class Files:
    """Files by absolute path; parents are made as needed (root's, 0755)."""

    whole = True

    def __init__(self) -> None:
        self._files: dict[bytes, tuple[FakeStatus, bytes]] = {}
        self._number = 0
        self.now_ns = 1
        self.opened: list[bytes] = []
        self.errors: dict[bytes, OSError] = {}
        self._add(b"/", stat.S_IFDIR | 0o755, 0, 0, b"")

    def dir(self, path: bytes, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        self._add(path, stat.S_IFDIR | mode, uid, gid, b"")

    def file(
        self,
        path: bytes,
        content: bytes = b"",
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
    ) -> None:
        self._add(path, stat.S_IFREG | mode, uid, gid, content)

    def link(self, path: bytes, target: bytes) -> None:
        self._add(path, stat.S_IFLNK | 0o777, 0, 0, target)

    def special(self, path: bytes, kind: int, mode: int = 0o666, uid: int = 0) -> None:
        """A FIFO, socket or device, by its ``stat.S_IF...``."""
        self._add(path, kind | mode, uid, 0, b"")

    def control(self, name: bytes, content: bytes) -> None:
        self.file(CONTROL + name, content)

    def remove(self, path: bytes) -> None:
        del self._files[path]
        self._touch(os.path.dirname(path))

    def _touch(self, directory: bytes) -> None:
        """A name was made or removed there."""
        if directory in self._files:
            self.change(directory, st_mtime_ns=self.now_ns, st_ctime_ns=self.now_ns)

    def change(self, path: bytes, **what: int) -> None:
        """Set parts of the status, for instance ``st_mode``."""
        status, content = self._files[path]
        times = {"st_ctime_ns": self.now_ns}
        self._files[path] = replace(status, **{**times, **what}), content

    def lstat(self, path: bytes) -> FakeStatus:
        return self._get(path)[0]

    def names(self, path: bytes, prefix: bytes, limit: int) -> frozenset[bytes] | None:
        return names_below(self._files, path, prefix, limit)

    def listing(self, path: bytes) -> Iterator[bytes]:
        return listed(list(self._files), path)

    def readlink(self, path: bytes) -> bytes:
        status, content = self._get(path)
        assert stat.S_ISLNK(status.st_mode)
        return content

    def open(self, path: bytes) -> FakeFile:
        status, content = self._get(path)
        assert stat.S_ISREG(status.st_mode), f"opened {path!r}, not a regular file"
        self.opened.append(path)
        return FakeFile(status, content)

    def _get(self, path: bytes) -> tuple[FakeStatus, bytes]:
        if path in self.errors:
            raise self.errors[path]
        if b"\0" in path:
            raise ValueError("embedded null byte")  # as os.lstat does
        try:
            return self._files[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def _add(self, path: bytes, mode: int, uid: int, gid: int, content: bytes) -> None:
        parent = os.path.dirname(path)
        if parent != path and parent not in self._files:
            self.dir(parent)
        kept = self._files.get(path)
        self._number += 1
        self._files[path] = (
            FakeStatus(
                st_mode=mode,
                st_uid=uid,
                st_gid=gid,
                st_ino=kept[0].st_ino if kept else self._number,
                st_size=len(content),
                st_mtime_ns=self.now_ns,
                st_ctime_ns=self.now_ns,
            ),
            content,
        )
        if path != b"/":
            self._touch(os.path.dirname(path))


def mail_host_files() -> Files:
    """A sound host for example.test with the users alice, bob and alias."""
    files = Files()
    files.file(b"/etc/passwd", PASSWD)
    files.file(b"/etc/group", GROUP)
    files.control(b"me", b"mx.example.test\n")
    files.control(b"locals", b"example.test\n")
    files.control(b"rcpthosts", b"example.test\nvirt.test\n")
    files.dir(b"/var/qmail/alias", 0o2755, ALIAS, QMAIL)
    for name, uid in ((b"alice", ALICE), (b"bob", BOB)):
        home = b"/home/" + name
        files.dir(home, 0o755, uid, uid)
        files.file(home + b"/.qmail", b"./Mailbox\n", uid=uid, gid=uid)
    return files


def ask(
    files: Files,
    recipient: bytes,
    sender: bytes = b"someone@elsewhere.test",
    *,
    host: QmailHost | None = None,
    relayclient: bytes | None = None,
    settings: HostSettings | None = None,
) -> Decision:
    """The decision on a host of its own, or on ``host``; with and without its
    reasons, and with what was learnt from the time before."""
    if host is not None:
        return decide(host, recipient, sender, relayclient)
    host = QmailHost(files, settings or HostSettings())
    decision = decide(host, recipient, sender, relayclient)
    for _ in range(3):
        same_untraced(host, decision, recipient, sender, relayclient)
    return decision


def same_untraced(
    host: QmailHost,
    decision: Decision,
    recipient: bytes,
    sender: bytes,
    relayclient: bytes | None,
) -> None:
    """The serving way, which takes short cuts, comes to the same."""
    other = decide(host, recipient, sender, relayclient, traced=False)
    assert not other.trail
    assert _said(other) == _said(decision)


def _said(decision: Decision) -> tuple[object, ...]:
    return (
        decision.outcome,
        decision.reason,
        decision.undecided,
        decision.open_relay,
    )


def explain(decision: Decision) -> str:
    """The trail as one text, rendered in full."""
    return "\n".join(f"{step.where()}: {step.note()}" for step in decision.trail)
