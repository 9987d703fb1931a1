"""Command lines of ``/bin/sh``, as far as their meaning is certain.

Knows: words, quotes, variables, ``&&``, ``||``, ``|``, ``;``, ``if``, ``exec``,
``(...)``, ``{ ...; }``, output to /dev/null.  Knows not: what a command does
(:mod:`proxy.qmail.program`), and nothing of other redirections, patterns,
substitutions: with those a line has no certain meaning.  Source: POSIX, Shell Command
Language, 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_PLAIN = re.compile(rb"[A-Za-z0-9_./@%+=:,!^-]+|\[|\]")
_SINGLE = re.compile(rb"'([^']*)'")
VARIABLE = re.compile(rb"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
"""``$NAME`` or ``${NAME}``."""
# What an expansion without quotes leaves as it is: no blank, no pattern.
_UNSPLIT = re.compile(rb"[!-)+->@-Z\]-~]+")
_ESCAPED = re.compile(rb"\\([ -~])")
_DOUBLE_ESCAPED = re.compile(rb"\\([$`\"\\])|(\\[ -~])")
_DOUBLE_PLAIN = re.compile(rb"[^\"$`\\]+")


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
    escaped = _ESCAPED.match(command, at)
    if escaped is not None:
        return escaped[1], escaped.end()
    variable = VARIABLE.match(command, at)
    if variable is not None:
        value = environment.get(variable[1] or variable[2], b"")
        # An empty one would be no word at all.
        return (value, variable.end()) if _UNSPLIT.fullmatch(value) else None
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
        escaped = _DOUBLE_ESCAPED.match(command, at)
        if escaped is not None:
            text += escaped[1] or escaped[2]
            at = escaped.end()
            continue
        variable = VARIABLE.match(command, at)
        if variable is None:
            return None
        value = environment.get(variable[1] or variable[2])
        if value is None:
            return None
        text += value
        at = variable.end()
    return None


@dataclass(frozen=True, slots=True)
class Simple:
    """A program or builtin with its arguments.  ``replaces``: by ``exec``, so that
    the shell is no more."""

    words: tuple[bytes, ...]
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``filter | ... | last``: each in a shell of its own; the last one's code is
    that of all."""

    filters: tuple[Command, ...]
    last: Command


@dataclass(frozen=True, slots=True)
class AndOr:
    """``left && right`` or, if not ``both``, ``left || right``."""

    left: Command
    right: Command
    both: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """``first; second; ...``"""

    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class If:
    """``if condition; then body; else otherwise; fi``"""

    condition: Command
    body: Command
    otherwise: Command | None


@dataclass(frozen=True, slots=True)
class Group:
    """``{ command; }`` or, with a shell of its own (``subshell``), ``( command )``."""

    command: Command
    subshell: bool


Command = Simple | Pipeline | AndOr | Sequence | If | Group

_OPERATORS = (b"&&", b"||", b";", b"|", b"(", b")")
# What they print does not count, nor where it goes, if it can go there.
_SILENCED = re.compile(
    rb"(?:[12]?>>?[ \t]*/dev/null|[12]?>&[ \t]*[12])(?=[ \t;|)]|&&|$)"
)
_KEYWORDS = frozenset({b"if", b"then", b"else", b"fi"})
_BRACE = re.compile(rb"[{}](?=[ \t;&|)]|$)")
# They change the shell itself, or what follows.
_BUILTINS = frozenset(
    b". alias break cd command continue eval exec export getopts hash kill local "
    b"read readonly return set shift trap ulimit umask unalias unset wait".split()
)
_DEPTH_MAX = 20
_WORDS_MAX = 200


class _Unknown(Exception):
    """The line means something that is not known here."""


@dataclass(slots=True)
class _Piece:
    """A word, or an operator or keyword as ``sign``."""

    word: bytes
    sign: bytes = b""


def parse(command: bytes, environment: Mapping[bytes, bytes]) -> Command | None:
    """The commands of a line, or ``None`` if its meaning is not certain.

    In words, these are understood: plain characters that mean nothing to the shell, or
    have a backslash before them, single quotes, double quotes with variables of
    ``environment`` in them, and outside of quotes such variables as stay one word.
    """
    try:
        pieces = _pieces(command, environment)
        if len(pieces) > _WORDS_MAX:
            return None
        reader = _Reader(pieces)
        found = reader.sequence(0)
        if reader.pieces:
            raise _Unknown
    except _Unknown:
        return None
    return found


def _pieces(command: bytes, environment: Mapping[bytes, bytes]) -> list[_Piece]:
    found: list[_Piece] = []
    at, end = 0, len(command)
    while at < end:
        if command[at] in b" \t":
            at += 1
            continue
        if command[at] == 0x23:  # a comment, up to the end
            break
        if command.startswith(b"((", at):  # bash(1) calculates
            raise _Unknown
        operator = next((o for o in _OPERATORS if command.startswith(o, at)), b"")
        if operator:
            found.append(_Piece(b"", operator))
            at += len(operator)
            continue
        silenced = _SILENCED.match(command, at)
        if silenced is not None:
            at = silenced.end()
            continue
        first = not found or bool(found[-1].sign)
        brace = _BRACE.match(command, at)
        if brace is not None and first:
            found.append(_Piece(b"", brace[0]))
            at = brace.end()
            continue
        word = bytearray()
        start = at
        while at < end and command[at] not in b" \t;&|()":
            piece = _piece(command, at, environment)
            if piece is None:
                raise _Unknown
            text, at = piece
            word += text
        if at == start:
            raise _Unknown
        found.append(_word(bytes(word), command[start:at], first))
    return found


def _word(word: bytes, raw: bytes, first: bool) -> _Piece:
    if first and raw in _KEYWORDS:
        return _Piece(b"", raw)
    if _is_special(word, raw, first=first):
        raise _Unknown
    return _Piece(word)


@dataclass(slots=True)
class _Reader:
    pieces: list[_Piece] = field(default_factory=list)

    def _next(self) -> bytes | None:
        """The sign that comes next; ``b""`` for a word, ``None`` at the end."""
        return self.pieces[0].sign if self.pieces else None

    def _expect(self, sign: bytes) -> None:
        if self._next() != sign:
            raise _Unknown
        self.pieces.pop(0)

    def sequence(self, depth: int) -> Command:
        if depth > _DEPTH_MAX:
            raise _Unknown
        commands = [self._and_or(depth)]
        while self._next() == b";":
            self.pieces.pop(0)
            if self._next() in (None, b"then", b"else", b"fi", b"}", b")"):
                break
            commands.append(self._and_or(depth))
        return commands[0] if len(commands) == 1 else Sequence(tuple(commands))

    def _and_or(self, depth: int) -> Command:
        left = self._pipeline(depth)
        while (sign := self._next()) in (b"&&", b"||"):
            self.pieces.pop(0)
            left = AndOr(left, self._pipeline(depth), sign == b"&&")
        return left

    def _pipeline(self, depth: int) -> Command:
        commands = [self._command(depth)]
        while self._next() == b"|":
            self.pieces.pop(0)
            commands.append(self._command(depth))
        *filters, last = commands
        return Pipeline(tuple(filters), last) if filters else last

    def _command(self, depth: int) -> Command:
        if self._next() == b"if":
            return self._if(depth)
        if self._next() in (b"(", b"{"):
            return self._group(depth)
        words = []
        while self._next() == b"":
            words.append(self.pieces.pop(0).word)
        replaces = words[:1] == [b"exec"] and words[1:2] != [b"--"]
        if replaces:
            words = words[1:]
        if not words or words[0] in _BUILTINS or (replaces and words[0][:1] == b"-"):
            raise _Unknown
        return Simple(tuple(words), replaces)

    def _group(self, depth: int) -> Command:
        subshell = self._next() == b"("
        self.pieces.pop(0)
        inner = self.sequence(depth + 1)
        self._expect(b")" if subshell else b"}")
        if self._next() == b"":
            raise _Unknown
        return Group(inner, subshell)

    def _if(self, depth: int) -> Command:
        self._expect(b"if")
        condition = self.sequence(depth + 1)
        self._expect(b"then")
        body = self.sequence(depth + 1)
        otherwise = None
        if self._next() == b"else":
            self.pieces.pop(0)
            otherwise = self.sequence(depth + 1)
        self._expect(b"fi")
        if self._next() == b"":
            raise _Unknown
        return If(condition, body, otherwise)
