"""Can the user that serves read what decides: every home, every dot-qmail file?

Knows: whose homes matter (passwd, users/assign).  Knows not: how to be that user
(``command``).  Progress is told to whoever wants it.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Callable, Iterator

from proxy import assemble
from proxy.check.host import HostFiles
from proxy.config import Config
from proxy.config.problem import printable
from proxy.doctor.result import GREEN, YELLOW, Result, several
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.passwd import FILE_MAX, Table, account

_UID_OF_PEOPLE = 1000  # login.defs(5), UID_MIN

Advance = Callable[[int, int], None]
"""Takes how many homes are done, and of how many."""


def reading(config: Config, advance: Advance) -> list[Result]:
    """Try to open every dot-qmail file of every home."""
    host = assemble.qmail_host(config)
    files = HostFiles(config, host)
    homes = sorted(_homes(files))
    closed: list[str] = []
    read = 0
    for number, home in enumerate(homes):
        advance(number, len(homes))
        for path in _dot_qmail(files, home):
            if _opens(files, path):
                read += 1
            else:
                closed.append(printable(os.fsdecode(path)))
        if _shut(files, home):
            closed.append(printable(os.fsdecode(home)))
    advance(len(homes), len(homes))
    if not closed:
        what = f"{read} dot-qmail files in {len(homes)} homes can be read"
        return [Result(GREEN, "files", what)]
    what = f"{len(closed)} of them cannot be read: {several(closed)}"
    remedy = "setfacl -m u:USER:r (on a directory: rx), or chmod; until then 451"
    return [Result(YELLOW, "files", what, remedy)]


def _homes(files: HostFiles) -> set[bytes]:
    passwd = files.content(b"/etc/passwd") or b""
    table = Table(passwd)
    found = set()
    for name in {line.partition(b":")[0] for line in passwd.split(b"\n")}:
        entry = account(table, name)
        if entry is not None and (entry.uid >= _UID_OF_PEOPLE or name == b"alias"):
            found.add(entry.home)
    for line in (files.content(files.home + b"/users/assign") or b"").split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 7 and line[:1] in (b"=", b"+"):
            found.add(fields[4])
    return {home for home in found if home.startswith(b"/") and home != b"/"}


def _dot_qmail(files: HostFiles, home: bytes) -> Iterator[bytes]:
    """Where a home cannot be listed, its .qmail is there or not."""
    try:
        place = files.walker.enter(home)
        names = files.view.names(place.path, b".qmail", FILE_MAX) or frozenset()
    except (KernelError, CannotTell, OSError):
        names = frozenset({b".qmail"})
    for name in sorted(names):
        try:
            found = files.walker.stat(home + b"/" + name)
        except (KernelError, CannotTell):
            continue  # not there; a home that cannot be searched is told of once
        if stat_bits.S_ISREG(found.status.st_mode):
            yield found.path


def _opens(files: HostFiles, path: bytes) -> bool:
    try:
        files.view.open(path).close()
    except OSError:
        return False
    return True


def _shut(files: HostFiles, home: bytes) -> bool:
    """Whether it may not be searched."""
    try:
        files.walker.stat(home + b"/.qmail")
    except CannotTell:
        return True
    except KernelError:
        return False
    return False
