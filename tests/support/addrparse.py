"""addrparse() of qmail-smtpd.c written once more, byte by byte, with a cursor."""

from __future__ import annotations


def cut_like_c(argument: bytes) -> bytes:
    """The address in the argument of MAIL or RCPT."""
    text = argument + b"\0"

    def find(byte: bytes, start: int) -> int:
        while text[start : start + 1] not in (byte, b"\0"):
            start += 1
        return start

    at = find(b"<", 0)
    terminator = b">"
    if text[at : at + 1] == b"<":
        at += 1
    else:
        terminator = b" "
        at = find(b":", 0)
        if text[at : at + 1] == b":":
            at += 1
        while text[at : at + 1] == b" ":
            at += 1
    if text[at : at + 1] == b"@":
        at = find(b":", at)
        if text[at : at + 1] == b":":
            at += 1
    address = b""
    escaped = quoted = False
    while (byte := text[at : at + 1]) != b"\0":
        at += 1
        if escaped:
            address += byte
            escaped = False
        elif byte == terminator and not quoted:
            break
        elif byte == b"\\":
            escaped = True
        elif byte == b'"':
            quoted = not quoted
        else:
            address += byte
    return address
