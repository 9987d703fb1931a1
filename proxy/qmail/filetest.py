"""test(1): conditions on files and strings, as ``test`` and ``[`` have them.

Knows: which files a user's program would find.  Knows not: conditions that are
read in more than one way; then the answer is unknown.  Called by ``program``.
Source: POSIX, test; dash's builtin agrees about what is taken here.
"""

from __future__ import annotations

import stat as stat_bits

from proxy.qmail.errors import KernelError
from proxy.qmail.walk import READ, Identity, Place, Walker

_WORDS = frozenset({b"!", b"(", b")", b"-a", b"-o"})


def condition(arguments: list[bytes], walker: Walker, home: Place) -> bool | None:
    """Whether ``test arguments`` is true; ``None`` if that is unknown.

    Raises :class:`~proxy.qmail.errors.CannotTell`.
    """
    any_true = False
    for alternative in _split(arguments, b"-o"):
        found = [_one(part, walker, home) for part in _split(alternative, b"-a")]
        if None in found:
            return None
        any_true = any_true or all(found)
    return any_true


def _split(arguments: list[bytes], at: bytes) -> list[list[bytes]]:
    parts: list[list[bytes]] = [[]]
    for word in arguments:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _one(words: list[bytes], walker: Walker, home: Place) -> bool | None:
    if len(words) > 2 and words[0] == b"!" and words[1] not in (b"!", b"=", b"!="):
        found = _one(words[1:], walker, home)
        return None if found is None else not found
    if _WORDS.intersection(words):
        return None
    if len(words) == 3 and words[1] in (b"=", b"!="):
        return (words[0] == words[2]) == (words[1] == b"=")
    if len(words) == 2:
        return _unary(words[0], words[1], walker, home)
    return None


def _at_home(word: bytes, home: Place) -> bool:
    """Whether a path stays in the home directory, which is there as a whole."""
    if b".." in word.split(b"/"):
        return False
    return not word.startswith(b"/") or word.startswith(home.path + b"/")


def _unary(operator: bytes, word: bytes, walker: Walker, home: Place) -> bool | None:
    if operator == b"-z":
        return not word
    if operator == b"-n":
        return bool(word)
    if operator not in (b"-e", b"-f", b"-d", b"-s", b"-r"):
        return None
    try:
        status = walker.stat(word, home).status
    except KernelError:
        return False if walker.view.whole or _at_home(word, home) else None
    if operator == b"-f":
        return stat_bits.S_ISREG(status.st_mode)
    if operator == b"-d":
        return stat_bits.S_ISDIR(status.st_mode)
    if operator == b"-s":
        # Of a directory the file system says what it likes.
        return None if stat_bits.S_ISDIR(status.st_mode) else status.st_size > 0
    if operator == b"-r":
        identity: Identity = walker.identity
        return identity.may(status, READ)
    return True
