"""One question to the backend: would it relay for us?

Knows: the commands that ask, and what the answers mean.  Knows not: when it is
asked, and what becomes of the answer (:mod:`proxy.interlock`).

It goes the way that mail goes, by a connection of its own: EHLO, MAIL, RCPT,
RSET, QUIT.  There is no DATA, so nothing can be sent by it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import NamedTuple

from proxy.backend.channel import Channel
from proxy.backend.pool import Backend
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
    """Asks once; ``on_answer`` is called once, unless it is cancelled before.

    Every step has the backend's own time: ``connect_timeout``, then
    ``command_timeout`` for each command (held by :meth:`Backend.sweep`).
    """

    def __init__(self, backend: Backend, on_answer: Callable[[Answer], None]) -> None:
        self._backend = backend
        self._on_answer = on_answer
        self._channel: Channel | None = None
        self._answer: Answer | None = None
        self._over = False
        self._opening: asyncio.Task[None] | None = None
        self._opening = backend.open(None, self._opened, self._not_opened)

    def cancel(self) -> None:
        """Ask no further, and close at once."""
        self._over = True
        if self._opening is not None:
            self._opening.cancel()
        if self._channel is not None:
            self._backend.discard(self._channel)
            self._channel = None

    # The channel's owner.

    def channel_lost(self, why: str, said: object = None) -> None:
        """What was not answered will not be."""
        self._channel = None
        self._end(self._answer or Answer(Relaying.UNKNOWN, why))

    def channel_blocked(self) -> None:
        """Some short lines wait; the deadline holds."""

    def channel_writable(self) -> None:
        """They do no longer."""

    # Inside, in the order in which it happens.

    def _not_opened(self, *why: str) -> None:
        self._opening = None
        self._end(Answer(Relaying.UNKNOWN, why[-1]))

    def _opened(self, channel: Channel) -> None:
        self._opening = None
        if self._over:  # it could not be cancelled in time
            self._backend.discard(channel)
            return
        self._channel = channel
        channel.owner = self
        self._ask(b"EHLO " + self._backend.hostname, self._greeted)

    def _greeted(self, reply: Reply) -> None:
        if reply.positive:
            self._mail()
        elif 400 <= reply.code < 600 and reply.code != 421:
            self._ask(b"HELO " + self._backend.hostname, self._greeted_briefly)
        else:
            self._cannot_ask("EHLO", reply)

    def _greeted_briefly(self, reply: Reply) -> None:
        if reply.positive:
            self._mail()
        else:
            self._cannot_ask("HELO", reply)

    def _mail(self) -> None:
        self._ask(b"MAIL FROM:<>", self._mailed)

    def _mailed(self, reply: Reply) -> None:
        if reply.positive:
            self._ask(b"RCPT TO:<" + FOREIGN + b">", self._judged)
        else:
            self._cannot_ask("MAIL", reply)

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
            self._ask(b"RSET", lambda _: self._finish())

    def _cannot_ask(self, step: str, reply: Reply) -> None:
        self._answer = Answer(Relaying.UNKNOWN, f"{step}: {reply.text}")
        self._finish()

    def _finish(self) -> None:
        channel, self._channel = self._channel, None
        assert channel is not None
        assert self._answer is not None
        self._backend.finish(channel)
        self._end(self._answer)

    def _ask(self, line: bytes, on_reply: Callable[[Reply], None]) -> None:
        channel, backend = self._channel, self._backend
        assert channel is not None
        channel.deadline = backend.now() + backend.settings.command_timeout
        channel.ask((line, on_reply))

    def _end(self, answer: Answer) -> None:
        if not self._over:
            self._over = True
            self._on_answer(answer)
