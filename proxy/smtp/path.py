"""Reverse-path and forward-path, cut out of a command as qmail-smtpd does it.

Knows: ``addrparse()`` of qmail-smtpd.c.  Knows not: RFC 5321's grammar, on
purpose: two readers of one address are a hole.  Called by the dialogue and by
``explain``.  Addresses are bytes and stay as they came.
"""

from __future__ import annotations

import re

ADDRESS_MAX = 899
"""Longest address qmail-smtpd takes, in bytes (900 with the final NUL)."""


# An address in brackets to which none of read_path()'s rules applies.
_PLAIN = re.compile(rb'[^<\0]*<((?:[^@>"\\\0][^>"\\\0]*)?)>').match


def read_path(argument: bytes) -> bytes:
    """The address in the argument of MAIL or RCPT; never fails.

    From the first ``<``, else after the first ``:`` up to a space; a source
    route is dropped, quotes and backslashes are taken off, a missing ``>`` is
    forgiven.  What follows a NUL is not seen, as in a C string.
    """
    plain = _PLAIN(argument)
    if plain is not None:
        address: bytes = plain[1]
        return address
    argument = argument.partition(b"\0")[0]
    terminator = 0x3E
    start = argument.find(b"<")
    if start >= 0:
        rest = argument[start + 1 :]
    else:
        terminator = 0x20
        rest = argument.partition(b":")[2].lstrip(b" ")
    if rest.startswith(b"@"):
        rest = rest.partition(b":")[2]
    if b"\\" not in rest and b'"' not in rest:
        end = rest.find(terminator)
        return rest if end < 0 else rest[:end]
    return _unquote(rest, terminator)


def _unquote(text: bytes, terminator: int) -> bytes:
    address = bytearray()
    escaped = quoted = False
    for byte in text:
        if escaped:
            address.append(byte)
            escaped = False
        elif byte == terminator and not quoted:
            break
        elif byte == 0x5C:
            escaped = True
        elif byte == 0x22:
            quoted = not quoted
        else:
            address.append(byte)
    return bytes(address)


_LITERAL = re.compile(rb"\[([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)\]")


def address_literal(address: bytes) -> tuple[int, bytes] | None:
    """Where the domain begins and which IPv4 address it is, for ``u@[1.2.3.4]``.

    ip_scanbracket() of ip.c keeps the low eight bits of each number.
    """
    at = address.rfind(b"@")
    if at < 0:
        return None
    match = _LITERAL.fullmatch(address, at + 1)
    if match is None:
        return None
    return at + 1, b".".join(b"%d" % _low_byte(p) for p in match.groups())


def _low_byte(digits: bytes) -> int:
    return int(digits[-8:]) & 255  # 2 ** 8 divides 10 ** 8


def write_path(address: bytes) -> bytes | None:
    """``TO:<...>`` from which :func:`read_path` takes ``address``; ``None`` where
    there is none."""
    return _written(b"TO:", address) if address else None


def write_reverse_path(address: bytes) -> bytes | None:
    """The same for MAIL, ``FROM:<...>``; empty is the null reverse-path."""
    return _written(b"FROM:", address)


def _written(before: bytes, address: bytes) -> bytes | None:
    argument = before + b"<" + _SPECIAL.sub(rb"\\\g<0>", address) + b">"
    if len(address) > ADDRESS_MAX or _CONTROL.search(address):
        return None
    return argument if read_path(argument) == address else None


_SPECIAL = re.compile(rb'[>"\\]')
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def path_end(argument: bytes) -> int:
    """Where the path ends and parameters begin, as :func:`read_path` reads it.

    Everything up to there, with the ``>``, is the client's own bytes.
    """
    start = argument.find(b"<")
    terminator = 0x3E
    if start < 0:
        terminator = 0x20
        start = argument.find(b":")
        start = len(argument) if start < 0 else start
        while argument[start + 1 : start + 2] == b" ":
            start += 1
    at = start + 1
    if b'"' not in argument and b"\\" not in argument and argument[at : at + 1] != b"@":
        end = argument.find(terminator, at)
        if end < 0:
            return len(argument)
        return end + 1 if terminator == 0x3E else end
    if argument[at : at + 1] == b"@":
        at = argument.find(b":", at) + 1 or len(argument)
    escaped = quoted = False
    while at < len(argument):
        byte = argument[at]
        if escaped:
            escaped = False
        elif byte == terminator and not quoted:
            return at + 1 if terminator == 0x3E else at
        elif byte == 0x5C:
            escaped = True
        elif byte == 0x22:
            quoted = not quoted
        at += 1
    return len(argument)
