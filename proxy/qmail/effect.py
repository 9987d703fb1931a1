"""What a program of a dot-qmail line comes to, and what it is given.

Knows: the shape of an answer and of a question.  Knows not: any program; those
are listed in :mod:`proxy.qmail.known`.  Source: qmail-command.8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from proxy.qmail.host import QmailHost
from proxy.qmail.questions import NO_ANSWERS, Answers
from proxy.qmail.trail import Trail
from proxy.qmail.view import OpenFile
from proxy.qmail.walk import Place, Walker

# exit(100) and its like; qmail-command.8, "EXIT CODES".
_HARD = frozenset({100, 64, 65, 70, 76, 77, 78, 112})


class Effect(NamedTuple):
    """What a program would do: its exit code, and addresses it forwards to.

    ``sender`` is the envelope sender of what it forwards, ``None`` for the one
    that qmail-local's own forwards get ($NEWSENDER).  ``reason`` is for people,
    where there is more to say than the exit code.  ``passes``: success means no
    more than that the next line may have the mail.  ``inner`` is what programs
    that it ran forwarded by themselves.  ``kept`` says that a copy stays here beside
    what is forwarded; ``undecided`` that the exit code is only hoped for; ``full``
    that it is for want of room in the mailbox.
    """

    code: int
    forwards: tuple[bytes, ...] = ()
    sender: bytes | None = None
    reason: str = ""
    passes: bool = False
    inner: tuple[Effect, ...] = ()
    kept: bool = False
    undecided: bool = False
    full: bool = False

    def copies(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Every address that is forwarded to, with the sender of its copy."""
        for effect in self.inner:
            yield from effect.copies()
        for address in self.forwards:
            yield address, self.sender

    @property
    def succeeds(self) -> bool:
        """Exit 0 or 99 (qmail-command.8)."""
        return self.code in (0, 99)

    @property
    def stops(self) -> bool:
        """Exit 99: success, and the lines that follow are ignored."""
        return self.code == 99

    @property
    def fails(self) -> bool:
        """A permanent failure; neither this nor success is a deferral."""
        return self.code in _HARD


def _no_file() -> None:
    return None


class Run(NamedTuple):
    """What a program of a dot-qmail line finds when it starts.

    ``walker`` looks at files as the user of the delivery, ``home`` is the
    current directory, ``environment`` the variables whose values are certain.
    ``shell`` answers for a command line that the program runs itself, and
    ``depth`` says how many programs have run one another so far.  ``piped``: it
    gets the message by a pipe, which cannot be read twice.  ``users_cdb`` opens
    users/cdb, ``answers`` are those of databases so far; ``program`` is the name by
    which the program was called.
    """

    host: QmailHost
    walker: Walker
    home: Place
    environment: Mapping[bytes, bytes]
    trail: Trail
    shell: Callable[[bytes, Run], Effect | None]
    depth: int = 0
    piped: bool = False
    users_cdb: Callable[[], OpenFile | None] = _no_file
    answers: Answers = NO_ANSWERS
    program: bytes = b""


Program = Callable[[list[bytes], Run], Effect | None]
"""What a program would do with these arguments, or ``None`` if that is unknown.
May raise :class:`~proxy.qmail.errors.CannotTell`."""


def options(
    arguments: list[bytes], known: bytes
) -> tuple[dict[bytes, bytes], list[bytes]] | None:
    """Flags and the other arguments, as sgetopt(3) reads them.

    Each flag stands under its small letter, by the last that was given: ``-d``,
    then ``-D`` is ``{b"d": b"D"}``.  ``None`` for a flag that is not ``known``.
    """
    flags: dict[bytes, bytes] = {}
    at = 0
    while at < len(arguments) and arguments[at][:1] == b"-":
        letters = arguments[at][1:]
        if not letters:
            break
        at += 1
        if letters[:1] == b"-":
            break
        for number in letters:
            letter = bytes((number,))
            if letter not in known:
                return None
            flags[letter.lower()] = letter
    return flags, arguments[at:]


def program_fault(effect: Effect, run: Run, runner: str) -> Effect | None:
    """What fastforward and dot-forward make of a program that they ran: only 0
    goes on, and 99 is not known to them; then they rewind their input."""
    if effect.fails:
        return Effect(100, reason=f"{runner}: a program refuses the mail")
    if effect.code:
        return Effect(111, reason=f"{runner}: a program defers the mail")
    if run.piped:
        return Effect(111, reason=f"{runner}: in a pipe, it can run no program")
    return None
