"""Command lines: verb, argument, parameters.

Knows: how qmail's commands.c cuts a line, ESMTP parameters (RFC 5321 §4.1.2).
Knows not: what a command does.  Called by the dialogue and the backend.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from proxy.smtp.path import path_end

# qmail's C strings end at NUL, and a CR may be a line end to somebody: two
# readers of one command.  HT is text to qmail-smtpd and harmless.
has_control = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


def is_rcpt(line: bytes) -> bool:
    """Whether it may be answered before its forerunners are."""
    return line[:5].lower() == b"rcpt "


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """Verb in lower case, and argument without blanks before it (commands.c)."""
    verb, _, argument = line.partition(b" ")
    return verb.lower(), argument.lstrip(b" ")


def parameters(argument: bytes) -> dict[bytes, bytes]:
    """The ESMTP parameters behind the path, keywords in upper case."""
    found: dict[bytes, bytes] = {}
    for word in argument[path_end(argument) :].split():
        keyword, _, value = word.partition(b"=")
        found[keyword.upper()] = value
    return found


_MAIL_EXTENSIONS = {b"SIZE": b"SIZE", b"BODY": b"8BITMIME", b"AUTH": b"AUTH"}


def for_backend(verb: bytes, argument: bytes, offered: Collection[bytes]) -> bytes:
    """The command for a backend that offers the extensions ``offered``.

    The path is the client's own bytes; of the parameters, only those whose
    extension the backend offers are kept (RFC 5321 §4.1.1.11).
    """
    end = path_end(argument)
    path, rest = argument[:end], argument[end:]
    kept = [
        word
        for word in rest.split()
        if verb == b"MAIL"
        and _MAIL_EXTENSIONS.get(word.partition(b"=")[0].upper()) in offered
    ]
    return b" ".join([verb, path, *kept])
