"""``backstop check``, the process's part: who it would be, and what that user sees.

Knows: that files are looked at by the user that serves, not by the one that
checks; how to be that user for a while.  Knows not: what is looked at.  Called
by ``command``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import Any

from proxy import assemble
from proxy.check.finding import ERROR, NOTE, WARNING, Finding, Settings
from proxy.config import Config, Problem
from proxy.process import privileges
from proxy.process.privileges import PrivilegeError

_ANSWER_MAX = 1 << 24


def as_run_user(
    config: Config, settings: Settings, look: Callable[[], list[Finding]]
) -> list[Finding]:
    """What ``look`` finds as the user that ``serve`` would become.

    As root it is asked in a process of its own, which gives root's rights up
    just as ``serve`` does.
    """
    if not privileges.is_root() or config.process.allow_root:
        return [*_staying(config, settings), *look()]
    try:
        privileges.run_user(config.process)
    except PrivilegeError as error:
        return [_refusal(settings, error), *look()]
    try:
        told = in_a_child(lambda: _rows(config, settings, look))
        return [_told(row) for row in told]
    except ChildProcessError:
        what = "what that user sees could not be found out"
        return [_finding(settings, ERROR, what), *look()]


def in_a_child(ask: Callable[[], object]) -> Any:
    """``ask()`` in a process of its own, which may give rights up to do so.

    The answer comes as JSON, which cannot make the reader, who may be root, do
    anything; what it says is not to be trusted.  Raises :class:`ChildProcessError` if
    there is none.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Of other threads: the child needs none, and calls exec on nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            with os.fdopen(writing, "wb") as output:
                output.write(json.dumps(ask()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read(_ANSWER_MAX + 1)
    if os.waitpid(child, 0)[1] or len(data) > _ANSWER_MAX:
        raise ChildProcessError("it ended without an answer")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChildProcessError("what it says is no JSON") from error


def texts(row: object, count: int) -> list[str]:
    """A row of so many texts, out of what a child says, with nothing in them that a
    terminal would obey; raises :class:`ChildProcessError`."""
    if not isinstance(row, list) or len(row) != count:
        raise ChildProcessError("what it says is no answer")
    if not all(isinstance(text, str) for text in row):
        raise ChildProcessError("what it says is no answer")
    return ["".join(map(_printable, text)) for text in row]


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else f"\\x{ord(letter):02x}"


def _rows(
    config: Config, settings: Settings, look: Callable[[], list[Finding]]
) -> list[list[object]]:
    found = _seen(config, settings, look)
    return [[each.level, *astuple(each.problem)] for each in found]


def _told(row: object) -> Finding:
    """What a row says, which a child without rights has sent."""
    if not isinstance(row, list):
        raise ChildProcessError("what it says is no finding")
    level, where, key, value, what, remedy = texts(row[:-2], 6)
    line, column = row[-2:]
    if level not in (ERROR, WARNING, NOTE) or type(line) is not int:
        raise ChildProcessError("what it says is no finding")
    if type(column) is not int:
        raise ChildProcessError("what it says is no finding")
    return Finding(level, Problem(where, key, value, what, remedy, line, column))


def _seen(
    config: Config, settings: Settings, look: Callable[[], list[Finding]]
) -> list[Finding]:
    """In the child: be that user, and look."""
    try:
        rights = privileges.settle(config.process, assemble.needs(config))
    except PrivilegeError as error:
        return [_refusal(settings, error), *look()]
    found = [_finding(settings, WARNING, text) for text in rights.warnings]
    found += [_finding(settings, NOTE, text) for text in rights.hints]
    found += [*_source(config, settings), *look()]
    found.append(_finding(settings, NOTE, f"looked at as this user: {rights}"))
    return found


def _source(config: Config, settings: Settings) -> Iterator[Finding]:
    """The configuration file itself, which HUP reads.  Tried, not asked for:
    access(2) is about root's capabilities."""
    if config.source is None:
        return
    try:
        config.source.open("rb").close()
    except OSError as error:
        what = f"that user may not read the configuration ({error.strerror})"
        yield _finding(settings, WARNING, what, "let it, or HUP will fail")


def _staying(config: Config, settings: Settings) -> Iterator[Finding]:
    if privileges.is_root():
        what = "it stays root, with all of root's rights"
        yield settings.finding(
            NOTE, ("process", "allow_root"), what, "take the key out if it can be"
        )


def _refusal(settings: Settings, error: PrivilegeError) -> Finding:
    return settings.finding(ERROR, ("process", error.key), error.what, error.remedy)


def _finding(settings: Settings, level: str, what: str, remedy: str = "") -> Finding:
    return settings.finding(level, ("process", "user"), what, remedy)
