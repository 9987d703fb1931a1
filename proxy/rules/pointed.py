"""What a rule's keys point to, looked at before anything is served.

Knows: how a program and a socket are looked at.  Knows not: any rule.  Used by
``check(settings, context)`` of the rules' modules.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from proxy.config.values import UNIX
from proxy.rules.trouble import ERROR, WARNING, Trouble


def program(path: str | bytes) -> Iterator[Trouble]:
    """A program that has to be run by the service's user."""
    name = os.fsdecode(path)
    try:
        status = os.stat(path)
    except OSError as error:
        text = f"{name}: {error.strerror}"
        yield Trouble(text, "name the whole path of a program", level=ERROR)
        return
    if not stat.S_ISREG(status.st_mode):
        yield Trouble(f"{name}: not a file", "name a program", level=ERROR)
    elif not os.access(path, os.X_OK):
        text = f"{name}: the service may not run it"
        yield Trouble(text, "chmod a+rx, its directories too", level=ERROR)


def service(address: str) -> Iterator[Trouble]:
    """A service's address; only a socket's path can be looked at."""
    if not address.startswith(UNIX):
        return
    path = address[len(UNIX) :]
    try:
        status = os.stat(path)
    except OSError as error:
        text = f"{path}: {error.strerror}"
        remedy = "start the service; until then its recipients are deferred"
        yield Trouble(text, remedy, level=WARNING)
        return
    if not stat.S_ISSOCK(status.st_mode):
        yield Trouble(f"{path}: not a socket", "name the service's socket", level=ERROR)
    elif not os.access(path, os.W_OK):
        text = f"{path}: the service may not connect to it"
        yield Trouble(text, "let its user write to the socket", level=ERROR)
