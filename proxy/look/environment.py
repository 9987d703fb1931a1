"""The environment that qmail-smtpd is started in, as far as files tell.

Knows: variables of run scripts, envdir, xinetd and systemd units, and those that
tcprules give to everybody.  Knows not: what any variable means (``recipients``).
Called by ``host``.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator

from proxy.look.script import assignments, commands
from proxy.look.smtpd import Smtpd
from proxy.look.tree import Found, Tree

_VALUES_MAX = 4096
_IN_RULES = re.compile(r',([A-Za-z_]\w*)=("[^"]*"|[^,]*)')


def environment(tree: Tree, smtpds: Iterable[Smtpd], tcprules: str) -> dict[str, Found]:
    """Variables by name, each with its value as ``detail``; ``tcprules`` is the text
    of the file that is asked, which comes last."""
    known: dict[str, Found] = {}
    for smtpd in smtpds:
        for found in _of(tree, smtpd):
            known[found.what] = found
    for number, line in tree.lines(tcprules) if tcprules else ():
        if line.startswith(":allow"):
            for name, value in _IN_RULES.findall(line):
                known[name] = Found(name, tcprules, number, value.strip('"'))
    return known


def _of(tree: Tree, smtpd: Smtpd) -> Iterator[Found]:
    if smtpd.kind == "xinetd":
        yield from _assigned(tree, smtpd.path, "env")
    elif smtpd.path.endswith(".service"):
        yield from _assigned(tree, smtpd.path, "Environment")
    elif smtpd.kind != "inetd":
        for name, value, line in assignments(tree, smtpd.path):
            yield Found(name, smtpd.path, line, value)
        yield from _directories(tree, smtpd.path)


def _assigned(tree: Tree, path: str, key: str) -> Iterator[Found]:
    """``key = A=b C=d``, of xinetd.conf(5) and systemd.exec(5)."""
    for number, line in tree.lines(path):
        name, _, value = line.partition("=")
        if name.rstrip("+ \t") != key:
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        for word in words:
            variable, equals, content = word.partition("=")
            if equals:
                yield Found(variable, path, number, content)


def _directories(tree: Tree, path: str) -> Iterator[Found]:
    """envdir(8): a file for each variable, its first line is the value."""
    for command in commands(tree, path):
        at = command.at("envdir")
        if not 0 <= at < len(command.words) - 1:
            continue
        directory = posixpath.join(os.path.dirname(path), command.words[at + 1])
        for name in tree.names(posixpath.normpath(directory)):
            file = posixpath.normpath(f"{directory}/{name}")
            value = tree.line(file)
            if tree.text(file) and len(value) <= _VALUES_MAX:
                yield Found(name, file, 1, value)
