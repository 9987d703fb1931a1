"""ezmlm-dispatch: one dot-qmail line for all lists in a directory.

Knows: which list and which file of it an address means, how the lines of such a file
are obeyed (not as qmail-local does it).  Knows not: what the programs in them do
(``run.shell`` does).  Called by way of :mod:`proxy.qmail.known`.  Source:
ezmlm-dispatch.c, ezmlm-idx 7.
"""

from __future__ import annotations

import stat as stat_bits

from proxy.qmail.effect import Effect, Run
from proxy.qmail.errors import KernelError
from proxy.qmail.walk import Place

_FILE_MAX = 1 << 20

# What stands for -default, by how it begins; only if the file is there.
_FILES = (
    (b"digest-return-", b"digest/bouncer"),
    (b"return-", b"bouncer"),
    (b"confirm-", b"confirmer"),
    (b"discard-", b"confirmer"),
    (b"accept-", b"moderator"),
    (b"reject-", b"moderator"),
)


def dispatch(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-dispatch dir [ list ]."""
    if arguments[:1] in ([b"--"], [b"-"]):
        arguments = arguments[1:]
    if not arguments or arguments[0].startswith(b"-"):
        return Effect(100, reason="ezmlm-dispatch: called in a wrong way")
    lists, *more = arguments
    word = run.environment.get(b"DEFAULT")
    if more:
        directory = _list(lists, more[0], run)
        if directory is None:
            return Effect(100, reason="ezmlm-dispatch: no such list")
        return _hand_over(directory, word, run)
    if not word:
        return Effect(100, reason="ezmlm-dispatch: not at the end of an address")
    if b"/" in word:
        return Effect(100, reason="ezmlm-dispatch: no list has a name with a slash")
    end = len(word)
    while end > 0:
        directory = _list(lists, word[:end], run)
        if directory is not None:
            rest = None if end == len(word) else word[end + 1 :]
            return _hand_over(directory, rest, run)
        end = word.rfind(b"-", 0, end)
    run.trail.add(lists, "ezmlm-dispatch: no list {}", word)
    return Effect(100, reason="ezmlm-dispatch: no such list")


def _list(lists: bytes, name: bytes, run: Run) -> bytes | None:
    """The directory of a list; whatever keeps it from being looked at, there is
    none (``is_dir()``)."""
    path = lists + b"/" + name
    place = _look(path, run)
    there = place is not None and stat_bits.S_ISDIR(place.status.st_mode)
    return path if there else None


def _look(path: bytes, run: Run) -> Place | None:
    try:
        return run.walker.stat(path, run.home)
    except KernelError:
        return None


def _hand_over(directory: bytes, rest: bytes | None, run: Run) -> Effect | None:
    """``dispatch()``: the file of the list that sees to ``rest``."""
    if not rest:
        return _obey(directory + b"/editor", None, run)
    if rest in (b"owner", b"digest-owner"):
        return _obey(directory + b"/owner", None, run)
    for beginning, name in _FILES:
        if not rest.startswith(beginning):
            continue
        path = directory + b"/" + name
        place = _look(path, run)
        if place is not None and stat_bits.S_ISREG(place.status.st_mode):
            return _obey(path, rest[len(beginning) :], run)
    return _obey(directory + b"/manager", rest, run)


def _obey(path: bytes, word: bytes | None, run: Run) -> Effect | None:
    """``execute()``: the lines of a file, up to one that does not exit 0, which is
    then its own exit code."""
    environment = dict(run.environment)
    environment.pop(b"DEFAULT", None)
    if word is not None:
        environment[b"DEFAULT"] = word
    inner_run = run._replace(environment=environment)
    try:
        place = run.walker.readable(path, run.home)
        if stat_bits.S_ISDIR(place.status.st_mode):
            return Effect(111, reason="ezmlm-dispatch: a directory in place of a file")
    except KernelError as error:
        run.trail.add(path, "ezmlm-dispatch: {}", str(error))
        return Effect(111, reason="ezmlm-dispatch: a file of the list is not there")
    content = run.host.cache.parsed(run.walker, place, bytes, _FILE_MAX)
    done: list[Effect] = []
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        if not content:
            break
        line = raw.partition(b"\0")[0].lstrip(b" \t")
        first = line[:1]
        if run.piped:
            return Effect(111, reason="ezmlm-dispatch: cannot read a pipe twice")
        if first == b"#":
            continue
        if not line:
            # qmail-queue takes the empty recipient; where it goes is anybody's guess.
            return None
        if first in (b"/", b"."):
            run.trail.add(path, "ezmlm-dispatch: no files: {}", line, line=number)
            return Effect(100, reason="ezmlm-dispatch: a file cannot be delivered to")
        if first != b"|":
            address = line.removeprefix(b"&")
            run.trail.add(path, "forwarded to {}", address, line=number)
            sender = run.environment[b"SENDER"]
            done.append(Effect(0, (address,), sender))
            continue
        found = run.shell(line[1:], inner_run)
        if found is None:
            text = "undecided: the program {} decides"
            run.trail.add(path, text, line[1:], line=number)
            return None
        text = "the program {} exits {}"
        run.trail.add(path, text, line[1:], found.code, line=number)
        done.append(found)
        if found.code:
            return found._replace(inner=tuple(done[:-1]) + found.inner)
    # A file without a line that does something takes the mail, and that is all.
    return Effect(
        0,
        passes=bool(done),
        inner=tuple(done),
        kept=any(_keeps(each) for each in done),
        undecided=any(each.undecided for each in done),
    )


def _keeps(effect: Effect) -> bool:
    """As qmail-local sees it: the program has taken the mail."""
    return effect.kept or not (effect.passes or any(True for _ in effect.copies()))
