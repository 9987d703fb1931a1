"""Dot-qmail files: which one is in charge, and what its lines say.

Knows: the search for ``.qmail-ext`` and ``-default``, the kinds of lines.
Knows not: what a delivery to a line would bring (:mod:`proxy.qmail.local`).
Source: dot-qmail.5, ``qmesearch()`` and ``main()`` in qmail-local.c.
"""

from __future__ import annotations

import enum
import errno
import stat as stat_bits
from typing import NamedTuple

from proxy.qmail.errors import KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.walk import Missing, Place, Walker

# Longer files exist (lists of subscribers), but nobody reads them by eye.
FILE_MAX = 4 << 20


class Kind(enum.Enum):
    """The kinds of delivery instructions of dot-qmail(5)."""

    BLANK_FIRST = "blank first line"
    MBOX = "mbox"
    MAILDIR = "maildir"
    PROGRAM = "program"
    FORWARD = "forward"
    FORWARD_ONLY = "+list"


class Instruction(NamedTuple):
    """One line that does something."""

    kind: Kind
    argument: bytes
    line: int


class DotQmail(NamedTuple):
    """The dot-qmail file in charge.

    ``name`` is relative to the home directory, ``matched_default`` the text
    that ``-default`` stood for (the environment variable DEFAULT), ``None``
    where qmail-local does not set it.
    """

    name: bytes
    place: Place
    matched_default: bytes | None

    @property
    def forward_only(self) -> bool:
        """The owner's x bit: file and program lines are not obeyed."""
        return bool(self.place.status.st_mode & 0o100)


class SearchDeferred(Exception):
    """qmail-local gives up for now; ``name`` is the file, ``why`` its words."""

    def __init__(self, name: bytes, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why


def safe_extension(extension: bytes) -> bytes:
    """Lower case, and dots become colons (dot-qmail.5, EXTENSION ADDRESSES)."""
    return extension.lower().replace(b".", b":")


def search(
    walker: Walker,
    home: Place,
    dash: bytes,
    extension: bytes,
    unsafe_mode: int,
    names: frozenset[bytes] | None = None,
) -> DotQmail | None:
    """``qmesearch()``: the exact file, then ``-default`` at each dash.

    ``names`` are all names in ``home`` that begin with ``.qmail``, if known.
    Raises :class:`SearchDeferred`, :class:`CannotTell`.
    """
    tried = candidates(dash, extension)
    if b"/" in tried[0]:
        names = None  # not a name in the home itself
    for name in tried:
        if names is not None and name not in names:
            continue
        found = _exists(walker, home, name, unsafe_mode)
        if found is not None:
            return DotQmail(name, found, _matched(tried[0], name, dash, extension))
    return None


def candidates(dash: bytes, extension: bytes) -> list[bytes]:
    """The names that ``qmesearch()`` tries, in its order."""
    safe = safe_extension(extension)
    prefix = b".qmail" + dash
    names = [prefix + safe]
    end = safe.rfind(b"-")
    while end >= 0:
        names.append(prefix + safe[: end + 1] + b"default")
        end = safe.rfind(b"-", 0, end)
    names.append(prefix + b"default")
    return names


def _matched(exact: bytes, name: bytes, dash: bytes, extension: bytes) -> bytes | None:
    """What the environment variable DEFAULT would be (qmail-local.c)."""
    if name != exact:
        return extension[len(name) - len(b".qmail" + dash) - 7 :]
    safe = exact[len(b".qmail" + dash) :]
    return extension[len(safe) - 7 :] if safe.endswith(b"default") else None


def _exists(walker: Walker, home: Place, name: bytes, unsafe: int) -> Place | None:
    """``qmeexists()``: only a regular file counts."""
    try:
        place = walker.walk(name, home)
        if isinstance(place, Missing):
            return None
        walker.check_readable(place)
    except KernelError as error:
        if error.temporary or error.code in (errno.EPERM, errno.EACCES):
            raise SearchDeferred(name, f"unable to open it: {error}") from error
        return None
    if not stat_bits.S_ISREG(place.status.st_mode):
        return None
    if place.status.st_mode & unsafe:
        raise SearchDeferred(name, "the file is writable for others")
    return place


class OwnerNames(NamedTuple):
    """What the sender of a forwarded copy is made of."""

    local: bytes
    host: bytes
    sender: bytes


def new_sender(
    walker: Walker, home: Place, dash: bytes, extension: bytes, names: OwnerNames
) -> bytes:
    """The envelope sender of forwarded copies (dot-qmail.5, NEWSENDER)."""
    if names.sender in (b"", b"#@[]"):
        return names.sender
    prefix = b".qmail" + dash + safe_extension(extension)
    if not _there(walker, home, prefix + b"-owner"):
        return names.sender
    if _there(walker, home, prefix + b"-owner-default"):
        return names.local + b"-owner-@" + names.host + b"-@[]"
    return names.local + b"-owner@" + names.host


def _there(walker: Walker, home: Place, name: bytes) -> bool:
    try:
        walker.stat(name, home)
    except KernelError as error:
        if error.temporary:
            raise SearchDeferred(name, f"unable to open it: {error}") from error
        return False
    return True


def read_instructions(
    host: QmailHost, walker: Walker, file: DotQmail
) -> tuple[Instruction, ...] | None:
    """The instructions of ``file``; ``None`` when it is empty.

    Raises :class:`CannotTell`, also for a file above :data:`FILE_MAX`.
    """
    if not file.place.status.st_size:
        return None
    return host.cache.parsed(walker, file.place, parse, FILE_MAX) or ()


def parse(content: bytes) -> tuple[Instruction, ...]:
    """The lines that do something, in order.

    Comments and later blank lines do nothing.  Blanks at a line's end do not
    count; arguments end at a NUL, as C strings do.
    """
    instructions = []
    lines = content.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip(b" \t")
        instruction = _instruction(line, number)
        if instruction is not None:
            instructions.append(instruction)
    return tuple(instructions)


def delivery_trouble(text: str) -> str:
    """Why qmail-start would hardly be given ``text`` as its default delivery, in
    words; ``""`` for nothing.

    A line that begins with none of ``. / | & + #`` is an address (dot-qmail(5)): a
    mailbox without its ``./`` would be one, and bounce all mail.
    """
    for line in text.split("\n"):
        line = line.rstrip()
        if line.startswith("|"):
            if line[1:].lstrip()[:1] in ("", "|", "&", ";", ")"):
                return f"{line!r} is no command"
        elif line and line[0] not in "./&+#":
            local, at, domain = line.rpartition("@")
            if not (local and at and domain) or set(line) & set(" \t$`\"'()[]|;<>"):
                return (
                    f"{line!r} begins with none of . / | & # and is no address with a"
                    " domain: all mail without .qmail would bounce"
                )
    return ""


def _instruction(line: bytes, number: int) -> Instruction | None:
    first = line[:1]
    if first in (b"", b"\0"):
        return Instruction(Kind.BLANK_FIRST, b"", 1) if number == 1 else None
    text = line.partition(b"\0")[0]
    if first == b"#":
        return None
    if first in (b".", b"/"):
        kind = Kind.MAILDIR if line.endswith(b"/") else Kind.MBOX
        return Instruction(kind, text, number)
    if first == b"|":
        return Instruction(Kind.PROGRAM, text[1:], number)
    if first == b"+":
        if text == b"+list":
            return Instruction(Kind.FORWARD_ONLY, b"", number)
        return None
    if first == b"&":
        return Instruction(Kind.FORWARD, text[1:], number)
    return Instruction(Kind.FORWARD, text, number)
