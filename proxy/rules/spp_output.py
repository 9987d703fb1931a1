"""What a qmail-spp plugin says, line by line.

Knows: the commands of plugins, as the function ``spp()`` of qmail-spp.c reads them.
Knows not: what follows from them, how plugins are run.  Called by ``qmail_spp``.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field

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
    with it.  ``stored``: answers for later.  ``address``: what the current one is to
    be replaced by.  ``other``: letters whose effect nobody but qmail-smtpd has."""

    end: bytes = b""
    text: bytes = b""
    stored: dict[bytes, bytes] = field(default_factory=dict)
    address: bytes | None = None
    other: bytes = b""


def read_output(output: bytes, environment: MutableMapping[bytes, bytes]) -> Output:
    """``S`` and ``U`` change ``environment`` at once.

    A line without its end loses its last byte, and a line of one byte is none: so
    reads qmail-spp.c.  Lines of unknown letters do not count.
    """
    said = Output()
    *lines, rest = output.split(b"\n")
    for line in [*lines, rest[:-1]]:
        if line:
            _read_line(said, line, environment)
        if said.end:
            break
    return said


def _read_line(
    said: Output, line: bytes, environment: MutableMapping[bytes, bytes]
) -> None:
    letter, text = line[:1], line[1:].partition(b"\0")[0]
    if letter in ENDING:
        said.end, said.text = letter, text
    elif letter == b"S":
        name, sign, value = text.partition(b"=")
        if sign and name:
            environment[name] = value
    elif letter == b"U":
        environment.pop(text, None)
    elif letter == b"C":
        said.address = text
    elif letter == b"L":
        if text[:1] and text[:1] in STORING:
            said.stored.setdefault(text[:1], text[1:])
    elif letter in b"HP":
        said.other += letter
