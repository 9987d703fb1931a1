"""What a program of a dot-qmail line comes to, and what it is given.

Knows: the shape of an answer and of a question.  Knows not: any program; those
are listed in :mod:`proxy.qmail.known`.  Source: qmail-command.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from proxy.qmail.host import QmailHost
from proxy.qmail.trail import Trail
from proxy.qmail.view import OpenFile
from proxy.qmail.vpopmail_data import NO_ANSWERS, Answers
from proxy.qmail.walk import Place, Walker

# exit(100) and its like; qmail-command.8, "EXIT CODES".
_HARD = frozenset({100, 64, 65, 70, 76, 77, 78, 112})


class Effect(NamedTuple):
    """What a program would do: its exit code, and addresses it forwards to.

    ``sender`` is the envelope sender of what it forwards, ``None`` for the one
    that qmail-local's own forwards get ($NEWSENDER).  ``reason`` is for people,
    where there is more to say than the exit code.  ``kept`` says that a copy stays
    here beside what is forwarded; ``undecided`` that the exit code is only hoped
    for; ``full`` that it is for want of room in the mailbox.
    """

    code: int
    forwards: tuple[bytes, ...] = ()
    sender: bytes | None = None
    reason: str = ""
    kept: bool = False
    undecided: bool = False
    full: bool = False

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


def _unknown(command: bytes, run: Run) -> None:
    return None


class Run(NamedTuple):
    """What a program of a dot-qmail line finds when it starts.

    ``walker`` looks at files as the user of the delivery, ``home`` is the
    current directory, ``environment`` the variables whose values are certain.
    ``users_cdb`` opens users/cdb, ``answers`` are those of databases so far,
    ``shell`` is what a command line comes to; ``program`` is the name by which the
    program was called.
    """

    host: QmailHost
    walker: Walker
    home: Place
    environment: Mapping[bytes, bytes]
    trail: Trail
    users_cdb: Callable[[], OpenFile | None] = _no_file
    answers: Answers = NO_ANSWERS
    shell: Callable[[bytes, Run], Effect | None] = _unknown
    program: bytes = b""


Program = Callable[[list[bytes], Run], Effect | None]
"""What a program would do with these arguments, or ``None`` if that is unknown.
May raise :class:`~proxy.qmail.errors.CannotTell`."""
