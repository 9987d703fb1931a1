"""Programs that scripts start: the words of shell scripts, without running them.

Knows: quotes, continued lines, comments, the few kinds of variables that qmail's
run scripts use.  Knows not: conditions and loops; a command that may be started
counts as one.  Called by ``home``, ``smtpd``, ``environment`` and ``logs``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from proxy.look.tree import Tree
from proxy.qmail.passwd import Table, account, group_id


class Command(NamedTuple):
    """Words of one command line, and the line where it begins."""

    path: str
    line: int
    words: tuple[str, ...]

    def at(self, name: str) -> int:
        """Where the program ``name`` stands among the words; -1 if it does not."""
        for number, word in enumerate(self.words):
            if os.path.basename(word) == name:
                return number
        return -1


_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
_SUBSTITUTED = re.compile(r"`([^`]*)`|\$\(([^()]*)\)")
_KEPT = re.compile("\x01([0-9]+)\x01")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_QUOTED_LINES_MAX = 100


def commands(tree: Tree, path: str) -> Iterator[Command]:
    """The commands of a script; what is not known of them stays as it stands."""
    for command in _statements(tree, path):
        yield from inner(command)
        if not (len(command.words) == 1 and _ASSIGNMENT.fullmatch(command.words[0])):
            yield command


_SHELLS = frozenset({"sh", "bash", "ksh", "csh", "tcsh", "su"})
_INNER = re.compile(r"-[a-z]*c[a-z]*")


def inner(command: Command) -> Iterator[Command]:
    """What a shell is given to run (``sh -c``, ``csh -cf``, ``su -c``)."""
    shell = any(os.path.basename(word) in _SHELLS for word in command.words)
    for option, text in pairwise(command.words if shell else ()):
        if _INNER.fullmatch(option) and " " in text:
            yield command._replace(words=tuple(_split(text)))


_BEFORE = frozenset({"exec", "env", "-", "-i"})


def assignments(tree: Tree, path: str) -> Iterator[tuple[str, str, int]]:
    """Variables that a script sets, also for one command only: name, value, line."""
    for command in _statements(tree, path):
        for word in command.words:
            if word in _BEFORE:
                continue
            assigned = _ASSIGNMENT.fullmatch(word)
            if assigned is None:
                break
            yield assigned[1], assigned[2], line_with(tree, command, assigned[1])


def _statements(tree: Tree, path: str) -> Iterator[Command]:
    variables: dict[str, str] = {}
    for number, raw in _logical(tree.text(path) or ""):
        # Words are split before what programs print gets into them.
        outputs: list[str] = []

        def kept(match: re.Match[str], outputs: list[str] = outputs) -> str:
            outputs.append(_output(tree, match[1] or match[2]))
            return f"\x01{len(outputs) - 1}\x01"

        words = _split(_SUBSTITUTED.sub(kept, raw))
        words = [word for word in words if word != "export"]
        known = []
        for word in words:
            value = _with(variables, outputs, word)
            whole = value == word or not _unquoted(raw, word)
            known += [value] if whole else value.split()
        # What may be assigned counts, as a command that may be started does.
        alone = len(known) == 1 or known[-2:-1] in (["&&"], ["then"])
        assigned = _ASSIGNMENT.fullmatch(known[-1]) if alone else None
        if assigned:
            variables[assigned[1]] = assigned[2]
        if known:
            yield Command(path, number, tuple(known))


def line_with(tree: Tree, command: Command, name: str) -> int:
    """The line of the script, from the command's first on, that has ``name``."""
    lines = (tree.text(command.path) or "").split("\n")
    for number, line in enumerate(lines[command.line - 1 :], start=command.line):
        if name in line.partition(" #")[0] and not line.lstrip().startswith("#"):
            return number
    return command.line


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines, joined where one goes on behind a backslash or in a quotation."""
    kept, begin, lines = "", 0, text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not kept and line.lstrip().startswith("#"):
            continue
        begin = begin if kept else number
        kept += line
        if kept.endswith("\\"):
            kept = kept[:-1] + " "
            continue
        if _is_open(kept) and number - begin < _QUOTED_LINES_MAX:
            kept += "\n"
            continue
        yield begin, kept
        kept = ""
    if kept:
        yield begin, kept


def _is_open(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return text.split()


def _with(variables: dict[str, str], outputs: list[str], word: str) -> str:
    """The word, with what variables and programs come to."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], match[0])

    def printed(match: re.Match[str]) -> str:
        number = match[1]
        known = len(number) < 9 and int(number) < len(outputs)
        return outputs[int(number)] if known else match[0]

    return _KEPT.sub(printed, _VARIABLE.sub(value, word))


def _unquoted(raw: str, word: str) -> bool:
    """Whether ``word`` is a variable alone, which the shell splits and drops if it is
    empty, unless the line ``raw`` has it in quotes."""
    alone = rf"(?<!\S){re.escape(word)}(?!\S)"
    return bool(_VARIABLE.fullmatch(word) and re.search(alone, raw))


def _output(tree: Tree, command: str) -> str:
    """What the command would print; itself if it is not one of those that are
    known."""
    match _split(command):
        case ["cat", path]:
            known = (tree.text(path) or "").strip()
        case ["head", *_, path] if path.startswith("/"):
            known = tree.line(path)
        case ["id", "-u", name]:
            known = _user(tree, name)
        case ["id", "-g", name]:
            known = _group(tree, name)
        case ["hostname", *_]:
            known = tree.line("/etc/hostname")
        case _:
            known = ""
    return known or f"$({command})"


def _user(tree: Tree, name: str) -> str:
    passwd = Table(tree.content("/etc/passwd", 64 << 20) or b"")
    found = account(passwd, os.fsencode(name))
    return str(found.uid) if found else ""


def _group(tree: Tree, name: str) -> str:
    passwd = Table(tree.content("/etc/passwd", 64 << 20) or b"")
    found = account(passwd, os.fsencode(name))
    if found:
        return str(found.gid)
    number = group_id(Table(tree.content("/etc/group") or b""), os.fsencode(name))
    return "" if number is None else str(number)
