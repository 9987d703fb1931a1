"""qmail's home, and what qmail-start is started with.

Knows: where qmail is, which control files say something to us.  Knows not: what
listens (``smtpd``).  Called by ``host``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from proxy.look.script import Command, line_with
from proxy.look.sockets import processes, words
from proxy.look.tree import Found, Tree
from proxy.qmail.dotqmail import delivery_trouble
from proxy.qmail.passwd import Table, account

USUAL = "/var/qmail"

# Each has qmail's home as its own, or a directory in it (INSTALL.ids).
_USERS = ("qmaild", "qmails", "qmailq", "qmailr", "qmailp", "alias")


class Home(NamedTuple):
    """Where qmail is, and how that is known."""

    path: str
    why: str


class Delivery(NamedTuple):
    """qmail-start's first argument, and where it stands; ``sure`` if a process was
    given it or control/defaultdelivery has it, else only a script says so."""

    text: str
    found: Found
    sure: bool = False


def find_home(tree: Tree, running: str = "") -> Home | None:
    """``running`` is the home that a qmail-send process has, if one is there."""
    if running and tree.is_directory(running + "/control"):
        return Home(running, "qmail-send runs there")
    if tree.is_directory(USUAL + "/control"):
        return Home(USUAL, "the usual place")
    passwd = Table(tree.content("/etc/passwd", 64 << 20) or b"")
    for user in _USERS:
        entry = account(passwd, user.encode())
        home = os.fsdecode(entry.home) if entry else ""
        for path in (home, os.path.dirname(home)):
            if path.startswith("/") and tree.is_directory(path + "/control"):
                return Home(path, f"/etc/passwd has it for {user}")
    return None


_LISTS = ("rcpthosts", "locals", "virtualdomains", "percenthack", "badmailfrom")
_LINES = ("me", "databytes", "concurrencyincoming", "defaultdelivery", "smtpgreeting")
_TABLES = ("morercpthosts.cdb", "servercert.pem")


def control_files(tree: Tree, home: str) -> Iterator[Found]:
    """Those that are there, each with its content or how much of it there is."""
    for name in _LINES:
        path = f"{home}/control/{name}"
        if tree.exists(path):
            yield Found(f"control/{name}", path, 0, tree.line(path) or "empty")
    for name in _LISTS:
        path = f"{home}/control/{name}"
        if tree.exists(path):
            count = sum(1 for _ in tree.lines(path))
            detail = f"{count} line{'' if count == 1 else 's'}"
            yield Found(f"control/{name}", path, 0, detail)
    for name in _TABLES:
        path = f"{home}/control/{name}"
        if tree.exists(path):
            yield Found(f"control/{name}", path)


def default_delivery(tree: Tree, started: Iterable[Command]) -> Delivery | None:
    """What a missing .qmail means: the word behind qmail-start in the first command
    that has a good one there; else, in the first that names it."""
    first: Delivery | None = None
    for command in started:
        at = command.at("qmail-start") + 1
        if at and command.words[at : at + 1] == ("--",):
            at += 1
        if not 0 < at < len(command.words):
            continue
        line = line_with(tree, command, "qmail-start")
        found = _delivery("qmail-start", command.words[at], command.path, line)
        if not delivery_trouble(found.text):
            return found
        first = first or found
    return first


def given_delivery(words: Sequence[str], path: str) -> Delivery | None:
    """The same by the ``words`` of a process in ``path``: qmail-start hands it on to
    qmail-lspawn (qmail-lspawn.8)."""
    if len(words) == 2 and os.path.basename(words[0]) == "qmail-lspawn":
        return _delivery("qmail-lspawn", words[1], path, 0)._replace(sure=True)
    return None


def running_delivery(proc: str = "/proc") -> Delivery | None:
    """What the qmail-lspawn that runs was given, ``None`` if none is seen, or several
    that differ."""
    found: dict[str, Delivery] = {}
    for pid in processes(proc):
        given = given_delivery(words(pid, proc), f"{proc}/{pid}/cmdline")
        if given is not None:
            found[given.text] = given
    return found.popitem()[1] if len(found) == 1 else None


def _delivery(program: str, text: str, path: str, line: int) -> Delivery:
    return Delivery(text, Found(program, path, line, text.replace("\n", "\\n")))
