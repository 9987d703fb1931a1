"""A connection to the backend for a question of our own.

Knows: how it is opened, greeted, ended and given up.  Knows not: what is asked
(:mod:`proxy.backend.probe`, :mod:`proxy.backend.offers`, its only callers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.backend.channel import Channel, OnReply
from proxy.backend.greeting import Greeting
from proxy.backend.pool import Backend
from proxy.smtp.reply import Reply


class Question:
    """Opens one at once; ``on_ready`` is called when commands may be asked,
    ``on_trouble`` with the reason when the connection is no more.

    Every step has the backend's own time: ``connect_timeout``, then
    ``command_timeout`` for each command (held by :meth:`Backend.sweep`).
    """

    def __init__(
        self,
        backend: Backend,
        on_ready: Callable[[], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._on_ready = on_ready
        self._on_trouble = on_trouble
        self._channel: Channel | None = None
        self._over = False
        self._opening: asyncio.Task[None] | None = None
        self._opening = backend.open(None, self._opened, self._not_opened)

    def ask(self, line: bytes, on_reply: OnReply) -> None:
        """Send a command line (without CRLF); ``on_reply`` is told the reply."""
        channel, backend = self._channel, self._backend
        assert channel is not None
        channel.deadline = backend.now() + backend.settings.command_timeout
        channel.ask((line, on_reply))

    @property
    def extended(self) -> bool:
        """Whether it was EHLO that was answered, and not HELO."""
        return self._channel is not None and self._channel.helo is not None

    def finish(self) -> None:
        """End the connection politely; nobody is called any more."""
        self._over = True
        channel, self._channel = self._channel, None
        if channel is not None:
            self._backend.finish(channel)

    def cancel(self) -> None:
        """Close at once; nobody is called any more."""
        self._over = True
        if self._opening is not None:
            self._opening.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            self._backend.discard(channel)

    # The channel's owner.

    def channel_lost(self, why: str, said: Reply | None = None) -> None:
        """What was not answered will not be."""
        self._channel = None
        self._fail(why)

    def channel_blocked(self) -> None:
        """Some short lines wait; the deadline holds."""

    def channel_writable(self) -> None:
        """They do no longer."""

    # Inside.

    def _not_opened(self, step: str, why: str, refusal: Reply | None) -> None:
        self._opening = None
        self._fail(why)

    def _opened(self, channel: Channel) -> None:
        self._opening = None
        if self._over:  # it could not be cancelled in time
            self._backend.discard(channel)
            return
        self._channel = channel
        channel.owner = self
        backend = self._backend
        Greeting(
            backend, channel, backend.hostname, None, self._on_ready, self._not_greeted
        )

    def _not_greeted(self, answer: Reply, step: str, why: str) -> None:
        self.finish()
        self._on_trouble(f"{step}: {why}")

    def _fail(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._on_trouble(why)
