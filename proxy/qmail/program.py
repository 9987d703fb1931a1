"""Program lines whose meaning is known without running anything.

Knows: a small, certain part of ``/bin/sh -c`` (plain words, quotes, the
environment that qmail-local sets) and a few programs that come with qmail.
Knows not: anything else; it asks :mod:`proxy.qmail.known`, and then the answer is
"unknown", never a guess.  Called by ``local``.  Source: qmail-command.8,
bouncesaying.1, except.1, condredirect.1, forward.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.qmail.effect import Effect, Run
from proxy.qmail.known import PROGRAMS

_QMAIL_BIN = b"bin/"

# A program may be the argument of another, and so on.
_WORDS_MAX = 200


def effect(command: bytes, run: Run) -> Effect | None:
    """What ``/bin/sh -c command`` would do, or ``None`` if that is unknown.

    Raises :class:`~proxy.qmail.errors.CannotTell` where the program reads what
    the front door may not.
    """
    words = split_words(command, run.environment)
    if not words or len(words) > _WORDS_MAX:
        return None
    return _run(words, run, shell=True)


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
    if name in _PROGRAMS:
        return _PROGRAMS[name](arguments, run)
    if shell and name == b"exit":
        return _exit(arguments)
    if shell and name == b":":
        return Effect(0)
    if name == b"true":
        return Effect(0)
    if name == b"false":
        return Effect(1)
    if name == b"[" and arguments[-1:] == [b"]"]:
        return _test(arguments[:-1])
    if name == b"test":
        return _test(arguments)
    if name == b"sh" and len(arguments) == 2 and arguments[0] == b"-c":
        inner = split_words(arguments[1], {})
        return None if not inner else _run(inner, run, shell=True)
    return None


def _exit(arguments: list[bytes]) -> Effect | None:
    if not arguments:
        return Effect(0)
    if len(arguments) == 1 and re.fullmatch(rb"[0-9]{1,3}", arguments[0]):
        return Effect(int(arguments[0]) & 255)
    return None


def _test(arguments: list[bytes]) -> Effect | None:
    """test(1) with three arguments; others need files or more care."""
    if len(arguments) != 3 or arguments[0] in (b"!", b"(") or arguments[2] == b")":
        return None
    left, operator, right = arguments
    if operator == b"=":
        return Effect(int(left != right))
    if operator == b"!=":
        return Effect(int(left == right))
    return None


def _bouncesaying(arguments: list[bytes], run: Run) -> Effect | None:
    """bouncesaying error [ program ]: bounce if there is no program, or if it
    exits 0; 111 is passed on; any other exit of the program means delivery."""
    if len(arguments) < 2:
        return Effect(100)
    inner = _run(arguments[1:], run, shell=False)
    if inner is None or inner.forwards or inner.undecided:
        return None
    return {0: Effect(100), 111: Effect(111)}.get(inner.code, Effect(0))


def _except(arguments: list[bytes], run: Run) -> Effect | None:
    if not arguments:
        return Effect(100)
    inner = _run(arguments, run, shell=False)
    if inner is None or inner.forwards or inner.undecided:
        return None
    return {0: Effect(100), 111: Effect(111)}.get(inner.code, Effect(0))


def _condredirect(arguments: list[bytes], run: Run) -> Effect | None:
    """condredirect newaddress program: forward and stop if it exits 0."""
    if len(arguments) < 2:
        return Effect(100)
    inner = _run(arguments[1:], run, shell=False)
    if inner is None or inner.forwards or inner.undecided:
        return None
    if inner.code == 0:
        return Effect(99, (arguments[0],))
    return Effect(111) if inner.code == 111 else Effect(0)


def _forward(arguments: list[bytes], run: Run) -> Effect | None:
    return Effect(0, tuple(arguments))


_PROGRAMS = {
    b"bouncesaying": _bouncesaying,
    b"except": _except,
    b"condredirect": _condredirect,
    b"forward": _forward,
}

_PLAIN = re.compile(rb"[A-Za-z0-9_./@%+=:,!^-]+|\[|\]")
_SINGLE = re.compile(rb"'([^']*)'")
_VARIABLE = re.compile(rb"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_DOUBLE_PLAIN = re.compile(rb"[^\"$`\\]+")


def split_words(
    command: bytes, environment: Mapping[bytes, bytes]
) -> list[bytes] | None:
    """The words of a simple command, or ``None`` if it is not that simple.

    Understood: plain characters that mean nothing to the shell, single
    quotes, double quotes with variables of ``environment`` in them.
    """
    words: list[bytes] = []
    at, end = 0, len(command)
    while at < end:
        if command[at] in b" \t":
            at += 1
            continue
        word = bytearray()
        start = at
        while at < end and command[at] not in b" \t":
            piece = _piece(command, at, environment)
            if piece is None:
                return None
            text, at = piece
            word += text
        if _is_special(bytes(word), command[start:at], first=not words):
            return None
        words.append(bytes(word))
    return words


def _is_special(word: bytes, raw: bytes, *, first: bool) -> bool:
    """Words that mean more than themselves: an assignment or a reserved word
    in front, a pattern or a tilde anywhere."""
    if raw in (b"[", b"]"):
        return False
    if b"[" in raw and not (b"'" in raw or b'"' in raw):
        return True
    if first:
        return b"=" in word or word in _RESERVED or raw.startswith(b"!")
    return False


_RESERVED = frozenset(
    b"if then else elif fi for while until do done case esac in time function "
    b"select coproc { }".split()
)


def _piece(
    command: bytes, at: int, environment: Mapping[bytes, bytes]
) -> tuple[bytes, int] | None:
    if command[at] == 0x27:
        single = _SINGLE.match(command, at)
        return None if single is None else (single[1], single.end())
    if command[at] == 0x22:
        return _double_quoted(command, at + 1, environment)
    plain = _PLAIN.match(command, at)
    return None if plain is None else (plain[0], plain.end())


def _double_quoted(
    command: bytes, at: int, environment: Mapping[bytes, bytes]
) -> tuple[bytes, int] | None:
    text = bytearray()
    while at < len(command):
        if command[at] == 0x22:
            return bytes(text), at + 1
        plain = _DOUBLE_PLAIN.match(command, at)
        if plain is not None:
            text += plain[0]
            at = plain.end()
            continue
        variable = _VARIABLE.match(command, at)
        if variable is None:
            return None
        value = environment.get(variable[1] or variable[2])
        if value is None:
            return None
        text += value
        at = variable.end()
    return None
