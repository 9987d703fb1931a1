"""The rule ``rcptcheck``: programs made for the RCPTCHECK patches of qmail-smtpd.

Knows: their environment, and what their exit statuses mean.  Knows not: how programs
are run (``eachtime``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from proxy.config.rules import RemoteKeys
from proxy.config.values import AbsolutePath
from proxy.rules.eachtime import EachTime
from proxy.rules.pointed import program as check_program
from proxy.rules.running import Ended
from proxy.rules.said import refusal, worded
from proxy.rules.source import (
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.surroundings import as_smtpd_has_it
from proxy.rules.trouble import Trouble
from proxy.rules.verdict import Question
from proxy.smtp import replies

# The only words here are ours: $0 is the program, descriptor 4 where it writes.
_WITH_FD4 = ("/bin/sh", "-c", 'exec "$0" 4>&1 >/dev/null')

_NOT_FOUND, _NOT_RUN = 127, 126  # of sh(1)


class Settings(RemoteKeys):
    """A program made for qmail-smtpd's RCPTCHECK, unchanged: SENDER, RECIPIENT and
    HELO in its environment beside tcpserver's variables; exit status 100 is missing,
    111 a deferral, 112 no opinion, 113 a sender over limit, 120 cannot execute,
    anything else found."""

    runs_programs: ClassVar[bool] = True

    type: Literal["rcptcheck"] = Field(description="A RCPTCHECK program.")
    program: AbsolutePath = Field(
        examples=["/var/qmail/bin/rcptcheck"],
        description="The program; it has no arguments.",
    )
    use_fd4: bool = Field(
        default=False,
        description="As USE_FD4=1 of the newer patches: what the program writes to"
        " descriptor 4 is said to the client.",
    )
    relayclients: bool = Field(
        default=False,
        description="Whether it is asked for clients that may relay, too. The patches"
        " do not ask then.",
    )

    def is_forgetful(self) -> bool:
        return True


class RcptCheck(EachTime):
    """Runs the program for each question."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings.concurrency, context)
        self._settings = settings

    def query(self, question: Question) -> str:
        return self._settings.program

    async def ask(self, question: Question) -> Finding:
        if question.relayclient is not None and not self._settings.relayclients:
            return Finding(Says.PASS, "not asked: the client may relay")
        command: tuple[str, ...] = (self._settings.program,)
        more: dict[str, bytes] = {}
        if self._settings.use_fd4:
            command, more = (*_WITH_FD4, *command), {"USE_FD4": b"1"}
        recipient = as_smtpd_has_it(question)
        return self._finding(await self.run(command, question, recipient, **more))

    def _finding(self, ended: Ended) -> Finding:
        status = ended.status
        note = f"exit status {status}"
        own = refusal(ended.output) if self._settings.use_fd4 else None
        if status == 100:
            return worded(Says.MISSING, note, own)
        if status == 111:
            return worded(Says.DEFER, note, own)
        if status == 112:
            return Finding(Says.PASS, note)
        if status == 113:
            own = own if own is not None and own.temporary else replies.OVER_QUOTA
            return Finding(Says.DEFER, note, own)
        if status < 0:
            raise SourceDown(f"{self._settings.program}: ended by signal {-status}")
        if status == 120 or status in (_NOT_RUN, _NOT_FOUND):
            raise SourceDown(f"{self._settings.program}: {note}: cannot execute")
        return Finding(Says.FOUND, note)


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, RcptCheck(settings, context), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """Whether the program can be run."""
    return check_program(settings.program)
