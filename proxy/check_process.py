"""``backstop check``, the process's part: who it would be, and what that user sees.

Knows: that files are looked at by the user that serves, not by the one that
checks; how to be that user for a while.  Knows not: what is looked at.  Called
by ``check``.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

from proxy import assemble, privileges
from proxy.config import Config
from proxy.finding import ERROR, NOTE, WARNING, Finding, Settings
from proxy.privileges import PrivilegeError


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
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Of other threads: the child needs none, and calls exec on nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            with os.fdopen(writing, "wb") as output:
                _answer(config, settings, look, output)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        what = "what that user sees could not be found out"
        return [_finding(settings, ERROR, what), *look()]
    found: list[Finding] = pickle.loads(data)
    return found


def _answer(
    config: Config,
    settings: Settings,
    look: Callable[[], list[Finding]],
    output: BinaryIO,
) -> None:
    """In the child: be that user, look, tell the parent."""
    try:
        rights = privileges.settle(config.process, assemble.needs(config))
    except PrivilegeError as error:
        found = [_refusal(settings, error), *look()]
    else:
        found = [_finding(settings, WARNING, text) for text in rights.warnings]
        found += [_finding(settings, NOTE, text) for text in rights.hints]
        found += [*_source(config, settings), *look()]
        found.append(_finding(settings, NOTE, f"looked at as this user: {rights}"))
    pickle.dump(found, output)


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
