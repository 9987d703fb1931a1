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
from collections.abc import Iterable, Iterator, Mapping, Sequence

from proxy.look.script import assignments, commands
from proxy.look.smtpd import Smtpd
from proxy.look.tree import Found, Tree

_VALUES_MAX = 4096
_IN_RULES = re.compile(r',([A-Za-z_]\w*)=("[^"]*"|[^,]*)')


def environment(tree: Tree, smtpds: Iterable[Smtpd], tcprules: str) -> dict[str, Found]:
    """Variables by name, each with its value as ``detail``, that hold for every client
    of every listener; ``tcprules`` is the text of the file that is asked, which comes
    last.  Clients that may relay do not count: no recipients are looked up for them."""
    known = _common([given(tree, smtpd) for smtpd in smtpds])
    lines = list(_allowed(tree, tcprules)) if tcprules else []
    said = {name for variables in lines for name in variables}
    return {n: f for n, f in known.items() if n not in said} | _common(lines)


def given(tree: Tree, smtpd: Smtpd) -> dict[str, Found]:
    """The variables of one listener."""
    return {found.what: found for found in _of(tree, smtpd)}


def _common(each: Sequence[Mapping[str, Found]]) -> dict[str, Found]:
    """Those that all have, with the same value."""
    if not each:
        return {}
    first, *others = each
    return {
        name: found
        for name, found in first.items()
        if all(name in one and one[name].detail == found.detail for one in others)
    }


def _allowed(tree: Tree, tcprules: str) -> Iterator[dict[str, Found]]:
    """What each rule gives that lets in clients which may not relay; without a rule
    for everybody the rest have none."""
    everybody = False
    for number, line in tree.lines(tcprules):
        who, allow, rest = line.partition(":allow")
        everybody = everybody or (allow != "" and not who)
        found = {
            name: Found(name, tcprules, number, value.strip('"'))
            for name, value in _IN_RULES.findall(rest)
        }
        if allow and "RELAYCLIENT" not in found:
            yield found
    if not everybody:
        yield {}


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
