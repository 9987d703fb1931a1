"""What the backend offers, asked before the first client wants to know.

Knows: EHLO and QUIT, and when to ask again.  Knows not: what is made of it
(:attr:`proxy.backend.pool.Backend.auth_offered`).  Made by the service, in each
of its processes, and called about once a second.

Clients are told of AUTH in the answer to their EHLO, and strangers' sessions
must not touch qmail: so it has to be known before.  What is heard on
connections for mail counts as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.backend.channel import Channel
from proxy.backend.pool import Backend
from proxy.smtp.reply import Reply

AGAIN_SECONDS = 300.0
RETRY_SECONDS = 5.0
"""After a failure: as long as nothing is known, nothing is offered."""


Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""


def _say_nothing(level: str, text: str) -> None:
    """A :data:`Say` of those processes that are not to repeat the first one."""


class Offers:
    """Asks if ``learn_auth`` is set in the backend's settings; ``say`` hears the
    answer, where it is another than before."""

    def __init__(self, backend: Backend, say: Say | None = None) -> None:
        self._backend = backend
        self._say = say or _say_nothing
        self._said: bytes | None = None
        self._channel: Channel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._due = 0.0

    def tick(self) -> None:
        """Ask if it is time."""
        backend = self._backend
        if (
            backend.settings.learn_auth
            and self._opening is None
            and self._channel is None
            and backend.now() >= self._due
        ):
            self._due = backend.now() + RETRY_SECONDS
            self._opening = backend.open(None, self._opened, self._not_opened)

    def ask_again(self) -> None:
        """Another configuration: ask at once."""
        self.close()
        self._said = None
        self._due = 0.0
        self.tick()

    def close(self) -> None:
        """Ask no more."""
        self._due = float("inf")
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._channel is not None:
            self._backend.discard(self._channel)
            self._channel = None

    # The channel's owner.

    def channel_lost(self, why: str, said: object = None) -> None:
        """It will not answer; it is asked again soon."""
        self._channel = None

    def channel_blocked(self) -> None:
        """One short line waits; the deadline holds."""

    def channel_writable(self) -> None:
        """It does no longer."""

    # Inside.

    def _not_opened(self, step: str, why: str) -> None:
        self._opening = None

    def _opened(self, channel: Channel) -> None:
        if self._opening is None:  # it could not be cancelled in time
            self._backend.discard(channel)
            return
        self._opening = None
        self._channel = channel
        channel.owner = self
        backend = self._backend
        channel.deadline = backend.now() + backend.settings.command_timeout
        channel.ask((b"EHLO " + backend.hostname, self._answered))

    def _answered(self, reply: Reply) -> None:
        channel, self._channel = self._channel, None
        assert channel is not None
        if reply.code == 250:
            self._backend.heard(reply)
            self._due = self._backend.now() + AGAIN_SECONDS
            self._tell(self._backend.auth_offered)
        self._backend.finish(channel)

    def _tell(self, offered: bytes) -> None:
        if offered == self._said:
            return
        self._said = offered
        where = f"the backend {self._backend.settings}"
        if offered:
            self._say("info", f"{where} offers {offered.decode('ascii')}")
        else:
            text = "offers no AUTH, and so no client is offered it (auth.offer)"
            self._say("warning", f"{where} {text}")
