"""One question to the backend: would it relay for us?

Knows: the commands that ask, and what the answers mean.  Knows not: when it is
asked, and what becomes of the answer (:mod:`proxy.interlock`); connections
(:mod:`proxy.backend.question`).

It goes the way that mail goes, by a connection of its own: EHLO, MAIL, RCPT,
RSET, QUIT.  There is no DATA, so nothing can be sent by it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from proxy.backend.pool import Backend
from proxy.backend.question import Question
from proxy.smtp.reply import Reply

FOREIGN = b"backstop-interlock@relay-test.invalid"
"""A recipient that is nowhere: nobody has a domain in .invalid (RFC 2606 §2),
so that nobody lists one in rcpthosts."""


class Relaying(enum.Enum):
    """Whether the backend would relay for us."""

    RELAYS = "relays"
    REFUSES = "refuses"
    UNKNOWN = "unknown"


class Answer(NamedTuple):
    """``why`` is the backend's reply, or the trouble with asking it."""

    relaying: Relaying
    why: str


class RelayProbe:
    """Asks once; ``on_answer`` is called once, unless it is cancelled before."""

    def __init__(self, backend: Backend, on_answer: Callable[[Answer], None]) -> None:
        self._on_answer = on_answer
        self._answer: Answer | None = None
        self._question = Question(backend, self._mail, self._lost)

    def cancel(self) -> None:
        """Ask no further, and close at once."""
        self._question.cancel()

    # Inside, in the order in which it happens.

    def _mail(self) -> None:
        self._question.ask(b"MAIL FROM:<>", self._mailed)

    def _mailed(self, reply: Reply) -> None:
        if reply.positive:
            self._question.ask(b"RCPT TO:<" + FOREIGN + b">", self._judged)
        else:
            self._answer = Answer(Relaying.UNKNOWN, f"MAIL: {reply.text}")
            self._finish()

    def _judged(self, reply: Reply) -> None:
        relaying = Relaying.UNKNOWN  # 4yz may be greylisting
        if reply.positive:
            relaying = Relaying.RELAYS
        elif reply.permanent:
            relaying = Relaying.REFUSES
        self._answer = Answer(relaying, f"RCPT: {reply.text}")
        if reply.code == 421:
            self._finish()
        else:
            self._question.ask(b"RSET", lambda _: self._finish())

    def _finish(self) -> None:
        assert self._answer is not None
        self._question.finish()
        self._on_answer(self._answer)

    def _lost(self, why: str) -> None:
        self._on_answer(self._answer or Answer(Relaying.UNKNOWN, why))
