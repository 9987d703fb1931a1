"""A few commands of SMTP, asked one after the other, with a bound on each.

Knows: how a :class:`~proxy.backend.pool.Backend` is used for questions of our own.
Knows not: what is asked, and what answers mean.  Called by ``backend`` and
``front``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from proxy.backend.channel import Channel
from proxy.backend.pool import Backend
from proxy.backend.settings import BackendSettings
from proxy.smtp.reply import Reply

PATIENCE = 5.0
"""Seconds for a connection, and for each answer."""


class NoAnswer(Exception):
    """No connection, or no reply in time; says why."""


@contextlib.asynccontextmanager
async def talking(
    settings: BackendSettings, hostname: bytes
) -> AsyncIterator[Dialogue]:
    """Connect, and QUIT in the end.  Raises :class:`NoAnswer`."""
    settings = patient(settings)
    backend = Backend(settings, hostname)
    opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    def failed(step: str, why: str, refusal: Reply | None) -> None:
        if not opened.done():
            opened.set_exception(NoAnswer(why))

    try:
        backend.open(None, opened.set_result, failed)
        dialogue = Dialogue(await opened, settings.command_timeout)
        yield dialogue
        if not dialogue.lost:
            backend.finish(dialogue.channel)
    finally:
        await backend.close()


def patient(settings: BackendSettings) -> BackendSettings:
    """The same way to it, with our own bounds on time."""
    return replace(
        settings,
        connect_timeout=min(settings.connect_timeout, PATIENCE),
        command_timeout=min(settings.command_timeout, PATIENCE),
        breaker_failures=0,
        connections=0,
    )


class Dialogue:
    """The connection's owner: asks, and waits for the answer."""

    def __init__(self, channel: Channel, patience: float) -> None:
        """``patience``: seconds for each answer."""
        self.channel = channel
        self._patience = patience
        self.lost = ""
        self._waiting: asyncio.Future[Reply] | None = None
        channel.owner = self

    async def ask(self, line: bytes) -> Reply:
        """The reply to a command; raises :class:`NoAnswer`."""
        if self.lost:
            raise NoAnswer(self.lost)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self.channel.ask((line, waiting.set_result))
        try:
            async with asyncio.timeout(self._patience):
                return await waiting
        except TimeoutError:
            verb = line.partition(b" ")[0].decode()
            self.lost = f"no answer to {verb} within {self._patience:g} s"
            self.channel.discard()
            raise NoAnswer(self.lost) from None

    def channel_lost(self, why: str, said: Reply | None) -> None:
        """What was not answered will not be."""
        self.lost = f"{why} ({said.text})" if said else why
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NoAnswer(self.lost))

    def channel_blocked(self) -> None:
        """Short lines wait; the bound on time holds."""

    def channel_writable(self) -> None:
        """They do no longer."""
