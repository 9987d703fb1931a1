"""Address lines, cut into tokens as the programs around qmail do it.

Knows: atoms, quotes, comments, literals, and how they become text again.  Knows
not: what an address is.  Called by ``dotforward``.  Source: token822.c of
dot-forward 0.71 (RFC 822, loosely).
"""

from __future__ import annotations

from typing import NamedTuple

_SIGNS = b".,@<>:;"
_BLANK = b" \t\r\n"
_CLOSED_BY = {0x28: 0x29, 0x22: 0x22, 0x5B: 0x5D}
_KINDS = {0x28: "comment", 0x22: "quote", 0x5B: "literal"}
# atomok(): what ends an atom; a closing bracket inside one does not.
_ENDS_ATOM = _BLANK + _SIGNS + b'(["'


class Token(NamedTuple):
    """``kind`` is ``atom``, ``quote``, ``comment``, ``literal``, or a sign."""

    kind: str
    text: bytes


def tokens(line: bytes) -> list[Token] | None:
    """``token822_parse``: ``None`` where something is left open."""
    found = []
    at = 0
    while at < len(line):
        byte = line[at]
        if byte in _SIGNS:
            found.append(Token(chr(byte), line[at : at + 1]))
            at += 1
        elif byte in _BLANK:
            at += 1
        elif byte in b")]":
            return None
        elif byte in _CLOSED_BY:
            enclosed = _enclosed(line, at)
            if enclosed is None:
                return None
            text, at = enclosed
            found.append(Token(_KINDS[byte], text))
        else:
            text, at = _atom(line, at)
            found.append(Token("atom", text))
    return found


def _enclosed(line: bytes, at: int) -> tuple[bytes, int] | None:
    """What stands between ``line[at]`` and its end; comments may be nested, and
    keep no bracket of their own."""
    opened, closed = line[at], _CLOSED_BY[line[at]]
    text = bytearray()
    level = 1
    while level:
        at += 1
        if at >= len(line):
            return None
        byte = line[at]
        if byte == closed:
            level -= 1
        elif byte == opened == 0x28:
            level += 1
        else:
            if byte == 0x5C:
                at += 1
                if at >= len(line):
                    return None
            text.append(line[at])
    return bytes(text), at + 1


def _atom(line: bytes, at: int) -> tuple[bytes, int]:
    text = bytearray()
    while True:
        if line[at] == 0x5C:
            at += 1
            if at >= len(line):
                break
        text.append(line[at])
        at += 1
        if at >= len(line) or line[at] in _ENDS_ATOM:
            break
    return bytes(text), at


def unquoted(found: list[Token]) -> bytes:
    """``token822_unquote``: the text, without comments and quotes."""
    pieces = []
    for kind, text in found:
        if kind == "literal":
            pieces += [b"[", text, b"]"]
        elif kind != "comment":
            pieces.append(text)
    return b"".join(pieces)
