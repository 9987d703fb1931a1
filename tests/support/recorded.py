"""Recorded qmail hosts: a view made of the recorded files, and what qmail did.

A recording ("world") describes every file of a host by path, type, mode,
owner and content, and what a real qmail did with each recipient.
"""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

from proxy.qmail.host import HostSettings, QmailHost
from tests.support.dictionary import FakeFile, FakeStatus, listed, names_below

DATA = pathlib.Path(__file__).parent.parent / "data" / "recorded"

_TYPES = {
    "dir": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "chardev": stat.S_IFCHR,
}


class FilesView:
    """A :class:`proxy.qmail.view.FileView` on a dictionary of files."""

    whole = True

    def __init__(self, files: list[dict[str, Any]]) -> None:
        self._files: dict[bytes, tuple[FakeStatus, bytes]] = {}
        for number, entry in enumerate(files):
            content = content_of(entry)
            status = FakeStatus(
                st_mode=_TYPES[entry["type"]] | int(entry["mode"], 8),
                st_uid=entry["uid"],
                st_gid=entry["gid"],
                st_ino=number,
                st_size=len(content),
            )
            self._files[entry["path"].encode("latin-1")] = status, content

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
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return FakeFile(status, content)

    def _get(self, path: bytes) -> tuple[FakeStatus, bytes]:
        try:
            return self._files[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


class RecordedView(FilesView):
    """The files of a recorded host, with its accounts."""

    def __init__(self, world: dict[str, Any]) -> None:
        super().__init__(with_accounts(world))


def with_accounts(world: dict[str, Any]) -> list[dict[str, Any]]:
    """The recorded files with /etc/passwd and /etc/group among them."""
    files = [f for f in world["files"] if not f["path"].startswith("/etc")]
    files.append({"path": "/etc", "type": "dir", "mode": "0755", "uid": 0, "gid": 0})
    for name in ("passwd", "group"):
        file = {"path": f"/etc/{name}", "type": "file", "mode": "0644"}
        files.append({**file, "uid": 0, "gid": 0, "content": world[name]})
    return files


def content_of(entry: dict[str, Any]) -> bytes:
    if "base64" in entry:
        return base64.b64decode(entry["base64"])
    text: str = entry.get("content") or entry.get("target") or ""
    return text.encode("latin-1")


def world_names() -> list[str]:
    return sorted(p.name.removesuffix(".json.gz") for p in DATA.glob("*.json.gz"))


def load(name: str) -> dict[str, Any]:
    with gzip.open(DATA / f"{name}.json.gz") as file:
        world: dict[str, Any] = json.load(file)
    return world


def settings(world: dict[str, Any]) -> HostSettings:
    default = world["aliasempty"]
    return HostSettings(
        default_delivery=(
            b"./Mailbox" if default is None else default.encode("latin-1")
        ),
        local_ips=frozenset(ip.encode() for ip in world["local_ips"]),
    )


def recorded_host(world: dict[str, Any]) -> QmailHost:
    return QmailHost(RecordedView(world), settings(world))


def relayclient(world: dict[str, Any]) -> bytes | None:
    value = (world.get("smtpd_env") or {}).get("RELAYCLIENT")
    return None if value is None else value.encode("latin-1")
