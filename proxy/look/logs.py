"""Where qmail-send's log is.

Knows: log services of supervisors, splogger and syslog's usual files, what a line of
qmail-send's looks like.  Knows not: who may read it (``check`` does).  Called by
``host``.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator

from proxy.look.script import commands, line_with
from proxy.look.tree import Found, Tree

_LOGGERS = ("multilog", "svlogd", "s6-log", "cyclog")
_SYSLOG = ("/var/log/mail.log", "/var/log/maillog", "/var/log/mail/info.log")
_LOOKED_MAX = 1 << 16
# qmail-log(5).
_QMAIL_SEND = re.compile(
    rb"(?:^|[ \n])(?:status: local \d|(?:new|end) msg \d|starting delivery \d)"
).search


def find_log(tree: Tree, scripts: Iterable[str]) -> Found | None:
    """The file that qmail-send's lines are written to, with the place that says so
    as ``detail``; only a file that has such lines."""
    for found in (*_of_supervisors(tree, scripts), *_of_syslog(tree)):
        if _QMAIL_SEND(tree.ending(found.path, _LOOKED_MAX) or b""):
            return found
    return None


def _of_supervisors(tree: Tree, scripts: Iterable[str]) -> Iterator[Found]:
    for script in scripts:
        if os.path.basename(script) != "run":
            continue
        path = f"{os.path.dirname(script)}/log/run"
        for command in commands(tree, path):
            for logger in _LOGGERS:
                at = command.at(logger)
                directories = [w for w in command.words[at + 1 :] if w[:1] in "/."]
                if at >= 0 and directories:
                    place = posixpath.join(os.path.dirname(path), directories[-1])
                    file = posixpath.normpath(place) + "/current"
                    line = line_with(tree, command, logger)
                    yield Found("qmail-send's log", file, 0, f"{path}:{line}")


def _of_syslog(tree: Tree) -> Iterator[Found]:
    for path in _SYSLOG:
        yield Found("qmail-send's log", path, 0, "the usual file of syslog")
