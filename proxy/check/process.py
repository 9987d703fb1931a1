"""``backstop check``, the process's part: who it would be, and what that user sees.

Knows: that files are looked at by the user that serves, not by the one that
checks; how to be that user for a while.  Knows not: what is looked at.  Called
by ``command``.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from proxy import assemble
from proxy.check.finding import ERROR, NOTE, WARNING, Finding, Settings
from proxy.config import Config
from proxy.process import privileges
from proxy.process.privileges import PrivilegeError

T = TypeVar("T")


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
        return in_a_child(lambda: _seen(config, settings, look))
    except ChildProcessError:
        what = "what that user sees could not be found out"
        return [_finding(settings, ERROR, what), *look()]


def in_a_child(ask: Callable[[], T]) -> T:
    """``ask()`` in a process of its own, which may give rights up to do so.

    The answer must be one for ``pickle``.  Raises :class:`ChildProcessError` if
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
                pickle.dump(ask(), output)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    if os.waitpid(child, 0)[1] or not data:
        raise ChildProcessError("it ended without an answer")
    told: T = pickle.loads(data)
    return told


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
