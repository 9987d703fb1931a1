"""``case WORD in PATTERN) LIST;; ... esac`` on a line of its own.

Knows: which LIST of it would be run, where the word and the patterns are certain.
Knows not: what that list does (:mod:`proxy.qmail.shell` reads it).  Called by
``program``.  Source: POSIX, Shell Command Language, 2.9.4.3 and 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.qmail.shell import VARIABLE, parse

_BEGIN = re.compile(rb"[ \t]*case[ \t]+")
_IN = re.compile(rb"[ \t]+in[ \t]+")
_END = re.compile(rb"[ \t]*esac[ \t]*;?[ \t]*\Z")
_QUOTED = re.compile(rb"'[^']*'|\"[^\"\\`]*\"")
_PLAIN = re.compile(rb"[A-Za-z0-9_./@%+=:,^!#-]+")
_PATTERN = re.compile(rb"(?:'[^']*'|\"[^\"\\`$]*\"|[A-Za-z0-9_./@%+=:,*?-])+")
_BRACKET = re.compile(rb"(?<![^ \t;&|])(?:case|esac)(?![^ \t;&|])")
# In a list: what may hide its end, or be the next pattern.
_UNCERTAIN = re.compile(rb"['\"\\`()#<]|;&")
_WILD = {b"*": b".*", b"?": b"."}


def is_case(command: bytes) -> bool:
    """Whether it begins as a case does; :func:`chosen` then has the rest of it."""
    return _BEGIN.match(command) is not None


def chosen(command: bytes, environment: Mapping[bytes, bytes]) -> bytes | None:
    """The list of the first pattern that fits, ``:`` where none does or nothing
    is there to do; ``None`` if that is not certain."""
    begin = _BEGIN.match(command)
    if begin is None:
        return None
    word = _word(command, begin.end(), environment)
    if word is None:
        return None
    value, at = word
    found: bytes | None = None
    while not _END.match(command, at):
        patterns = _patterns(command, at)
        if patterns is None:
            return None
        branches, at = patterns
        end = _list_end(command, at)
        if end is None:
            return None
        text, at = command[at : end[0]].strip(b" \t"), end[1]
        # An error in one of them is one for the shell, which then runs none.
        if text and parse(text, environment) is None:
            return None
        if found is None:
            fits = [_fits(pattern, value) for pattern in branches]
            if None in fits:
                return None
            if any(fits):
                found = text
    return found or b":"


def _word(
    command: bytes, at: int, environment: Mapping[bytes, bytes]
) -> tuple[bytes, int] | None:
    """The value of WORD, which is neither split nor a pattern, and where ``in``
    has ended."""
    value = b""
    start = at
    while (end := _IN.match(command, at)) is None:
        quoted = _QUOTED.match(command, at)
        variable = VARIABLE.match(command, at)
        plain = _PLAIN.match(command, at)
        if quoted is not None and command[at : at + 1] == b"'":
            value, at = value + quoted[0][1:-1], quoted.end()
        elif quoted is not None:
            inner = _expanded(quoted[0][1:-1], environment)
            if inner is None:
                return None
            value, at = value + inner, quoted.end()
        elif variable is not None:
            known = environment.get(variable[1] or variable[2])
            if known is None:
                return None
            value, at = value + known, variable.end()
        elif plain is not None and not (at == start and plain[0][:1] == b"#"):
            value, at = value + plain[0], plain.end()
        else:
            return None
    return None if at == start else (value, end.end())


def _expanded(text: bytes, environment: Mapping[bytes, bytes]) -> bytes | None:
    """The inside of double quotes."""
    unknown = [
        name
        for match in VARIABLE.finditer(text)
        if (name := match[1] or match[2]) not in environment
    ]
    if unknown or b"$" in VARIABLE.sub(b"", text):
        return None
    return VARIABLE.sub(lambda match: environment[match[1] or match[2]], text)


def _patterns(command: bytes, at: int) -> tuple[list[bytes], int] | None:
    """``[(] PATTERN [| PATTERN ...] )``, as they are written, and the end of it."""
    at = _blanks(command, at)
    if command[at : at + 1] == b"(":
        at = _blanks(command, at + 1)
    found = []
    while (pattern := _PATTERN.match(command, at)) is not None:
        if pattern[0] == b"esac":
            return None
        found.append(pattern[0])
        at = _blanks(command, pattern.end())
        if command[at : at + 1] == b")":
            return found, at + 1
        if command[at : at + 1] != b"|":
            return None
        at = _blanks(command, at + 1)
    return None


def _blanks(command: bytes, at: int) -> int:
    while command[at : at + 1] in (b" ", b"\t"):
        at += 1
    return at


def _list_end(command: bytes, at: int) -> tuple[int, int] | None:
    """Where LIST ends, and where what follows its ``;;`` begins."""
    start = at
    while at < len(command):
        if command.startswith(b";;", at):
            return at, at + 2
        quoted = _QUOTED.match(command, at)
        if quoted is not None:
            at = quoted.end()
        elif _UNCERTAIN.match(command, at):
            return None
        elif _BRACKET.match(command, at):
            # The last list may be without its ";;".
            text = command[start:at].strip(b" \t")
            if not _END.match(command, at) or text[-1:] not in (b"", b";"):
                return None
            return at, at
        else:
            at += 1
    return None


def _fits(pattern: bytes, value: bytes) -> bool | None:
    """Whether ``value`` is what ``pattern`` says; ``None`` where ``?`` may be one
    byte or one character of several."""
    if b"?" in pattern and not value.isascii():
        return None
    wanted = b""
    at = 0
    while at < len(pattern):
        quoted = _QUOTED.match(pattern, at)
        if quoted is not None:
            wanted += re.escape(quoted[0][1:-1])
            at = quoted.end()
        else:
            one = pattern[at : at + 1]
            wanted += _WILD.get(one, re.escape(one))
            at += 1
    return re.fullmatch(wanted, value, re.DOTALL) is not None
