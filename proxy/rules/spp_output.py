"""What a qmail-spp plugin says, line by line.

Knows: the commands of plugins, as the function ``spp()`` of qmail-spp.c reads them;
which of their texts can be said or written as they are.  Knows not: what follows from
them, how plugins are run.  Called by ``qmail_spp``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.rules.said import refusal
from proxy.smtp.reply import LastReply, Reply

CONNECTION, HELO, MAIL, RCPT = b"c", b"h", b"m", b"r"
PASS, DATA, AUTH = b"p", b"d", b"a"

Sections = dict[bytes, list[bytes]]
"""Plugins by the letter of their section."""

ENDING = b"AONERD"
"""After one of these a plugin's output counts no more."""

STORING = b"MRD"
"""What ``L`` may store an answer for: MAIL, RCPT, DATA."""


def read_sections(lines: list[tuple[bytes, int]]) -> Sections:
    """The file of plugins.  A section is known by the letter after its bracket;
    what stands before the first one belongs to none."""
    found: Sections = {}
    section = b""
    for line, _ in lines:
        if line.startswith(b"["):
            section = line[1:2]
        else:
            found.setdefault(section, []).append(line)
    return found


@dataclass(slots=True)
class Output:
    """What a plugin wants.  ``end`` is one of :data:`ENDING`, or empty; ``text`` goes
    with it.  ``stored``: answers for later, by the letter of the command.
    ``address``: what the current one is to be replaced by.  ``printed``: what is to be
    said at once.  ``header``: lines for the message.  ``variables``: new values, or
    ``None`` for what is not to be there."""

    end: bytes = b""
    text: bytes = b""
    stored: list[tuple[bytes, bytes]] = field(default_factory=list)
    address: bytes | None = None
    printed: list[bytes] = field(default_factory=list)
    header: list[bytes] = field(default_factory=list)
    variables: list[tuple[bytes, bytes | None]] = field(default_factory=list)


def read_output(output: bytes) -> Output:
    """What a plugin has written.

    A line without its end loses its last byte, and a line of one byte is none: so
    reads qmail-spp.c.  Lines of unknown letters do not count.
    """
    said = Output()
    *lines, rest = output.split(b"\n")
    for line in [*lines, rest[:-1]]:
        if line:
            _read_line(said, line)
        if said.end:
            break
    return said


def _read_line(said: Output, line: bytes) -> None:
    letter, text = line[:1], line[1:].partition(b"\0")[0]
    if letter in ENDING:
        said.end, said.text = letter, text
    elif letter == b"S":
        name, sign, value = text.partition(b"=")
        if sign and name:
            said.variables.append((name, value))
    elif letter == b"U":
        said.variables.append((text, None))
    elif letter == b"C":
        said.address = text
    elif letter == b"L":
        if text[:1] and text[:1] in STORING:
            said.stored.append((text[:1], text[1:]))
    elif letter == b"P":
        said.printed.append(text)
    elif letter == b"H":
        said.header.append(text)


_LINE = re.compile(rb"([45][0-5][0-9])-([^\r\n]*)")


def reply_of(texts: Sequence[bytes], *, last: bool = False) -> Reply | None:
    """The refusal that ``texts`` are together: the last of them, and those before it
    that are lines of the same reply, ``550-...``; ``None`` where that is no refusal.
    ``last``: the connection is closed after it."""
    reply = refusal(texts[-1])
    if reply is None:
        return None
    lines = [match[2] for text in texts[:-1] if (match := _continued(text, reply.code))]
    kind = LastReply if last else Reply
    return kind(reply.code, *lines, *reply.lines)


def _continued(text: bytes, code: int) -> re.Match[bytes] | None:
    match = _LINE.fullmatch(text.rstrip(b"\r"))
    return match if match is not None and int(match[1]) == code else None


_FIELD = re.compile(rb"(?!\.)[!-9;-~]+[ \t]*:[^\r\0]*")  # RFC 5322 §2.2
_FOLDED = re.compile(rb"[ \t]+[^ \t\r\0][^\r\0]*")


def header_of(lines: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """``lines`` as they stand on top of a message, and those that cannot: they would
    end its header, or belong to nothing."""
    good, bad = b"", []
    for line in lines:
        line = line.rstrip(b"\r")
        if _FIELD.fullmatch(line) or (good and _FOLDED.fullmatch(line)):
            good += line + b"\r\n"
        else:
            bad.append(line)
    return good, bad


_SAYS = re.compile(
    rb"""\b(?:echo|printf?|puts|say|write)\b(?:\s+-[a-z]+)?[\s(]*["']?([A-Z])"""
)
_COMMENT = re.compile(rb"^\s*#.*$", re.MULTILINE)
_TO_STDERR = re.compile(rb"^.*(?:>&\s*2|stderr).*$", re.IGNORECASE | re.MULTILINE)


def letters_in(script: bytes) -> set[bytes]:
    """The letters that ``script``, in sh, Perl or the like, seems to print first in a
    line: a guess, for people."""
    script = _TO_STDERR.sub(b"", _COMMENT.sub(b"", script))
    return set(_SAYS.findall(script))
