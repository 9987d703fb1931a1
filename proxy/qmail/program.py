"""Program lines whose meaning is known without running anything.

Knows: what a command line of :mod:`proxy.qmail.shell` comes to, and a few programs
that come with qmail.
Knows not: anything else; it asks :mod:`proxy.qmail.known`, and then the answer is
"unknown", never a guess.  Called by ``local``.  Source: qmail-command.8,
bouncesaying.1, except.1, condredirect.1, forward.1.
"""

from __future__ import annotations

import re
import stat as stat_bits
from typing import NamedTuple

from proxy.qmail.effect import Effect, Run, options
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.filetest import condition
from proxy.qmail.known import PROGRAMS
from proxy.qmail.shell import (
    AndOr,
    Command,
    Group,
    If,
    Pipeline,
    Sequence,
    Simple,
    parse,
)
from proxy.qmail.shellcase import chosen, is_case

_QMAIL_BIN = b"bin/"

# A program may be the argument of another, and so on.
_WORDS_MAX = 200
_DEPTH_MAX = 5
_ENDINGS_MAX = 64
# Success, and no copy of the mail is anywhere for it.
_OVER = Effect(0, passes=True)

_SYSTEM = re.compile(rb"(?:/usr)?/bin/(?:true|false|cat|echo|test|\[|sh|nice)")


def effect(command: bytes, run: Run) -> Effect | None:
    """What ``/bin/sh -c command`` would do, or ``None`` if that is unknown.

    Raises :class:`~proxy.qmail.errors.CannotTell` where the program reads what
    the front door may not.
    """
    if run.depth > _DEPTH_MAX:
        return None
    run = run._replace(depth=run.depth + 1)
    if command.lstrip(b" \t")[:1] in (b"", b"#"):  # nothing to do is success
        return _OVER
    if is_case(command):
        branch = chosen(command, run.environment)
        if branch is None:
            return None
        command = branch
    parsed = parse(command, run.environment)
    if parsed is None:
        return None
    if isinstance(parsed, Simple):
        return _run(list(parsed.words), run, shell=not parsed.replaces)
    return _only(_endings(parsed, run))


def name_of(command: bytes) -> str:
    """The program of a line that decides, for people: its name without the directory.

    Of several, the first that is not merely in front of another.
    """
    rest = _CONDITION.sub(b"", command)
    name = _first_name(rest) or _first_name(command) or command
    return name.decode("latin-1")


def _first_name(command: bytes) -> bytes:
    in_front = b""
    left_out = 0
    for token in _TOKEN.findall(command):
        if token.startswith(b"#"):  # a comment, up to the end
            break
        if token[:1] in b";&|()":
            left_out = 0
        elif left_out:
            left_out -= 1
        else:
            first = _QUOTES.sub(b"", token).split(None, 1)[:1]
            name = b"".join(first).rpartition(b"/")[2]
            if name in _WITH_TEXT:
                in_front, left_out = in_front or name, 1
            elif name in _NOT_IT:
                left_out = _WORDS_MAX
            elif name not in _IN_FRONT and not _ARGUMENT.match(token):
                return bytes(name)
    return in_front


_CONDITION = re.compile(rb"^\s*if\s.*?\bthen\b")
_TOKEN = re.compile(rb"[;&|()]+|(?:[^\s;&|()'\"\\]|\\.|'[^']*'|\"[^\"]*\")+")
_QUOTES = re.compile(rb"['\"\\]")
_ARGUMENT = re.compile(rb"-|#|[0-9]+\Z|[A-Za-z_]\w*=")
_WITH_TEXT = frozenset({b"bouncesaying", b"condredirect"})
_NOT_IT = frozenset(b"test [ exit true false echo printf : cat spamc".split())
_IN_FRONT = frozenset(
    [*b"if ! then else fi { } preline exec env nice sh sudo except".split(), b""]
)


class _Ending(NamedTuple):
    """One way in which a command may end.

    ``code`` is ``None`` for some code that is not 0.  ``done`` is what programs
    did so far, ``taken`` whether one had the mail, ``exited`` the whole shell.
    """

    code: int | None
    done: tuple[Effect, ...] = ()
    taken: bool = False
    exited: bool = False
    reason: str = ""


def _endings(command: Command, run: Run) -> list[_Ending]:
    """Every way in which ``command`` may end: where a program is not known, it
    succeeds or it fails."""
    if isinstance(command, Simple):
        return _simple(command, run)
    if isinstance(command, Pipeline):
        return _pipeline(command, run)
    if isinstance(command, Group):
        inner = _endings(command.command, run)
        if command.subshell:
            inner = [ending._replace(exited=False) for ending in inner]
        return inner
    if isinstance(command, AndOr):
        found = []
        for left in _endings(command.left, run):
            if left.exited or (left.code == 0) != command.both:
                found.append(left)
            else:
                found += _after(left, _endings(command.right, run))
        return found
    if isinstance(command, Sequence):
        found = [_Ending(0)]
        for each in command.commands:
            if len(found) > _ENDINGS_MAX:
                break
            running = [ending for ending in found if not ending.exited]
            found = [ending for ending in found if ending.exited]
            if running:
                following = _endings(each, run)
                for ending in running:
                    found += _after(ending, following)
        return found
    return _if(command, run)


def _if(command: If, run: Run) -> list[_Ending]:
    found = []
    for before in _endings(command.condition, run):
        if before.exited:
            found.append(before)
        elif before.code == 0:
            found += _after(before, _endings(command.body, run))
        elif command.otherwise is not None:
            found += _after(before, _endings(command.otherwise, run))
        else:
            found.append(before._replace(code=0))
    return found


def _after(before: _Ending, following: list[_Ending]) -> list[_Ending]:
    return [
        each._replace(done=(*before.done, *each.done), taken=before.taken or each.taken)
        for each in following
    ]


def _pipeline(command: Pipeline, run: Run) -> list[_Ending]:
    """The last program decides; what those before it do with the mail besides, they
    do whatever becomes of it."""
    done: tuple[Effect, ...] = ()
    taken = False
    for each in command.filters:
        known = isinstance(each, Simple) and each.words[0] != b"exit"
        ways = _endings(each, run) if known else []
        if len(ways) == 1:
            done, taken = (*done, *ways[0].done), taken or ways[0].taken
        else:
            taken = True
    return [
        each._replace(done=(*done, *each.done), taken=taken or each.taken, exited=False)
        for each in _endings(command.last, run._replace(piped=True))
    ]


def _simple(command: Simple, run: Run) -> list[_Ending]:
    words = list(command.words)
    found = _run(words, run, shell=not command.replaces)
    if command.replaces:
        if found is None:
            return [_Ending(code, taken=True, exited=True) for code in (0, None)]
        return [_Ending(found.code, (found,), _took(found), True, found.reason)]
    if words[0] == b"exit":
        if found is None or len(words) == 1:
            # Not a number: some shells end, with 2, others go on.
            over = [_Ending(code, taken=True, exited=True) for code in (0, None)]
            return [*over, _Ending(None, taken=True)]
        return [_Ending(found.code, exited=True)]
    if found is None:
        quiet = words[0] in (b"test", b"[")
        return [_Ending(0, taken=not quiet), _Ending(None, taken=not quiet)]
    return [_Ending(found.code, (found,), _took(found), reason=found.reason)]


def _took(effect: Effect) -> bool:
    """Whether a program whose meaning is known has the mail: one that fails has not."""
    return effect.succeeds and not effect.passes


def _only(endings: list[_Ending]) -> Effect | None:
    """What all of them come to, if that is one thing."""
    if len(endings) > _ENDINGS_MAX or not endings:
        return None
    first = endings[0]
    alike = {(each.code, tuple(_copies(each))) for each in endings}
    if first.code is None or len(alike) > 1:
        return None
    taken = any(each.taken for each in endings)
    return Effect(
        first.code,
        reason=first.reason,
        passes=not taken,
        inner=first.done,
        kept=any(each.kept for each in first.done),
        undecided=any(each.undecided for each in first.done),
        full=any(each.full for each in first.done),
    )


def _copies(ending: _Ending) -> list[tuple[bytes, bytes | None]]:
    return [copy for effect in ending.done for copy in effect.copies()]


def _run(words: list[bytes], run: Run, *, shell: bool) -> Effect | None:
    name, arguments = words[0], words[1:]
    known = PROGRAMS.get(name.rpartition(b"/")[2])
    if known is not None:
        return known(arguments, run._replace(program=name))
    home = run.host.settings.home
    if name.startswith(home + b"/" + _QMAIL_BIN):
        name = name[len(home) + 1 + len(_QMAIL_BIN) :]
        if name not in _PROGRAMS:
            return None
    elif _installed(name, run):
        name = name.rpartition(b"/")[2]
    if name in _PROGRAMS:
        return _PROGRAMS[name](arguments, run)
    if _SYSTEM.fullmatch(name):
        name = name.rpartition(b"/")[2]
    if shell and name == b"exit":
        return _exit(arguments)
    if name in (b"true", b"echo") or (shell and name == b":"):
        return _OVER
    if name == b"cat" and not arguments:
        return _OVER
    if name == b"false":
        return Effect(1)
    if name == b"[" and arguments[-1:] == [b"]"]:
        return _test(arguments[:-1], run)
    if name == b"test":
        return _test(arguments, run)
    if name == b"nice":
        return _nice(arguments, run)
    if name == b"sh" and len(arguments) == 2 and arguments[0] == b"-c":
        return effect(arguments[1], run)
    return None


def _installed(name: bytes, run: Run) -> bool:
    """Whether it is one of qmail's programs in a place that is not qmail's own: by
    those names nobody else's are known, but it has to be there."""
    if not _ELSEWHERE.fullmatch(name):
        return False
    try:
        return stat_bits.S_ISREG(run.walker.stat(name, run.home).status.st_mode)
    except (KernelError, CannotTell):
        return False


_ELSEWHERE = re.compile(rb"/.*/(?:bouncesaying|condredirect|except|preline)")


def _exit(arguments: list[bytes]) -> Effect | None:
    if not arguments:
        return _OVER
    if len(arguments) == 1 and re.fullmatch(rb"[0-9]{1,3}", arguments[0]):
        return Effect(int(arguments[0]) & 255, passes=True)
    return None


def _test(arguments: list[bytes], run: Run) -> Effect | None:
    true = condition(arguments, run.walker, run.home)
    return None if true is None else Effect(int(not true), passes=True)


def _preline(arguments: list[bytes], run: Run) -> Effect | None:
    """preline [ -fFrRdD ] program: the program's exit code; it gets a pipe.

    A program that does not read all of it may make a deferral of that code.
    """
    found = options(arguments, b"fFrRdD")
    if found is None or not found[1]:
        return Effect(100)
    return _run(found[1], run._replace(piped=True), shell=False)


def _bouncesaying(arguments: list[bytes], run: Run) -> Effect | None:
    """bouncesaying error [ program ]: bounce if there is no program, or if it
    exits 0; 111 is passed on; any other exit of the program means delivery."""
    if len(arguments) < 2:
        return Effect(100)
    inner = _run(arguments[1:], run, shell=False)
    if inner is None or any(inner.copies()) or inner.undecided:
        return None
    return {0: Effect(100), 111: Effect(111)}.get(inner.code, _OVER)


def _except(arguments: list[bytes], run: Run) -> Effect | None:
    if not arguments:
        return Effect(100)
    inner = _run(arguments, run, shell=False)
    if inner is None or any(inner.copies()) or inner.undecided:
        return None
    return {0: Effect(100), 111: Effect(111)}.get(inner.code, _OVER)


def _condredirect(arguments: list[bytes], run: Run) -> Effect | None:
    """condredirect newaddress program: forward and stop if it exits 0."""
    if len(arguments) < 2:
        return Effect(100)
    inner = _run(arguments[1:], run, shell=False)
    if inner is None or any(inner.copies()) or inner.undecided:
        return None
    if inner.code == 0 and run.piped:  # "unable to rewind"
        return Effect(111)
    if inner.code == 0:
        # From $SENDER, where forward(1) takes $NEWSENDER.
        return Effect(99, (arguments[0],), run.environment[b"SENDER"])
    return Effect(111) if inner.code == 111 else _OVER


def _nice(arguments: list[bytes], run: Run) -> Effect | None:
    """nice [ -n N ] program: the program's exit code; 125 without a number."""
    if arguments[:1] == [b"-n"]:
        if not re.fullmatch(rb"[-+]?[0-9]+", b"".join(arguments[1:2])):
            return Effect(125)
        arguments = arguments[2:]
    elif arguments and re.fullmatch(rb"-n?-?[0-9]+", arguments[0]):
        arguments = arguments[1:]
    if not arguments or arguments[0].startswith(b"-"):
        return None
    return _run(arguments, run, shell=False)


def _qreceipt(arguments: list[bytes], run: Run) -> Effect | None:
    """qreceipt address: it may write to the sender; the mail is nothing to it."""
    return Effect(0, passes=True) if arguments else Effect(100)


def _qbiff(arguments: list[bytes], run: Run) -> Effect | None:
    """qbiff: it tells who is logged in."""
    return Effect(0, passes=True)


def _forward(arguments: list[bytes], run: Run) -> Effect | None:
    return Effect(0, tuple(arguments))


_PROGRAMS = {
    b"bouncesaying": _bouncesaying,
    b"except": _except,
    b"condredirect": _condredirect,
    b"forward": _forward,
    b"preline": _preline,
    b"qbiff": _qbiff,
    b"qreceipt": _qreceipt,
}
