"""A conversation's connection: chosen, opened or used again, greeted, replaced.

Knows: which backends may be tried, in which order, and whether the connection is
a new one.  Knows not: what is said after the greeting
(:mod:`proxy.backend.conversation` does, which has one of these).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol, cast

from proxy.backend.channel import Channel, ChannelOwner
from proxy.backend.choice import Group
from proxy.backend.client import Client
from proxy.backend.greeting import Greeting
from proxy.backend.listener import Listener
from proxy.backend.pool import Backend
from proxy.smtp import replies
from proxy.smtp.reply import Reply


class LinkOwner(ChannelOwner, Protocol):
    """The conversation, which hears of the channel itself, too."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to say over a connection that is made."""

    def link_ready(self) -> None:
        """There is a connection, and it was greeted."""

    def link_trouble(self, answer: Reply, step: str, why: str) -> None:
        """The backend did not take the greeting as it should."""

    def link_failed(self, answer: Reply, step: str, why: str) -> None:
        """There is none, and none is left to be tried."""


class Link:
    """``channel`` is ``None`` while there is no connection.

    ``fresh``: the connection was made for the transaction that is under way.
    ``client`` is ``None`` for nobody in particular; ``listener`` hears of backends
    that are passed over.
    """

    __slots__ = (
        "_alone",
        "_client",
        "_listener",
        "_opening",
        "_others",
        "_owner",
        "_resting",
        "backend",
        "channel",
        "fresh",
        "group",
        "helo",
        "ready",
    )

    def __init__(
        self,
        owner: LinkOwner,
        group: Group,
        listener: Listener,
        client: Client | None,
    ) -> None:
        self._owner = owner
        self._listener = listener
        self._client = client
        self._alone = False
        self._opening: asyncio.Task[None] | None = None
        self._others: list[Backend] = []  # that may still be tried
        self.helo = b""
        """The client's own name, or none."""
        self.group = group
        """The backends that may serve what comes."""
        self.backend = group.backends[0]
        """The one that is spoken to, or was last."""
        self.channel: Channel | None = None
        self.ready = False
        """Whether the channel was greeted."""
        self.fresh = False
        self._resting: Backend | None = None  # whose pool may have one of ours

    @property
    def opening(self) -> bool:
        """Whether a connection is being made."""
        return self._opening is not None

    def open(self, helo: bytes, *, alone: bool = False) -> None:
        """Have a connection, greeted as ``helo``; ``alone``: a new one."""
        self.helo = helo
        self.fresh = False
        self._alone = alone
        self._others = self.group.candidates(self._resting)
        self._connect()

    def know(self, client: Client) -> None:
        """More is known of the client now: what was told less is not used again."""
        self._forsake()
        self._client = client

    def replace(self, step: str, why: str) -> bool:
        """Another connection in the place of a lost one: once where it was, if
        that was one that had been used before, then at the other backends.
        ``False`` if there is nowhere to go."""
        if not self.fresh:
            self.fresh = True
            self._others.insert(0, self.backend)
        if not self._others:
            return False
        if self._others[0] is not self.backend:
            self._listener.backend_passed_over(step, why)
        self._alone = False
        self._connect()
        return True

    def expect(self, seconds: float) -> None:
        """Something must happen within so many seconds."""
        if self.channel is not None:
            self.channel.deadline = self.backend.now() + seconds

    def forget(self) -> None:
        """The channel is not ours any more, nor does it hold the client up."""
        if self.channel is not None:
            self.channel = None
            self._listener.relay_writable()
        self.ready = False

    def part(self) -> None:
        """The owner is gone, and with it whoever listened."""
        self._owner = cast(LinkOwner, None)
        self._listener = cast(Listener, None)

    def discard(self) -> None:
        """End the connection at once."""
        channel = self.channel
        if channel is not None:
            self.forget()
            self.backend.discard(channel)

    def rest(self) -> None:
        """No transaction is open: the connection goes back, for the next one, or for
        others if they may have it."""
        channel = self.channel
        if channel is not None:
            self.forget()
            self._resting = self.backend
            self.backend.release(channel, self._client)

    def give_back(self) -> None:
        """The connection is not needed any more."""
        channel = self.channel
        if channel is not None:
            self.forget()
            self.backend.release(channel)

    def let_go(self, *, complete: bool) -> None:
        """Use the connection no more: give it back if it is in order, and what
        was under way ``complete``."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self.ready and complete:
            self.give_back()
        else:
            self.discard()
        self._forsake()

    # Inside.

    def _forsake(self) -> None:
        """End what is kept for us alone."""
        if self._resting is not None and self._client is not None:
            self._resting.forsake(self._client)

    def _connect(self) -> None:
        """Go to the first of those that may be tried."""
        backend = self._others.pop(0)
        if backend is not self.backend:
            self.backend = backend
            self.fresh = False
        new = self.fresh or self._alone
        channel = None if new else backend.reuse(self._client)
        if channel is not None:
            self._greet(channel)
            return
        self.fresh = True
        self._opening = backend.open(
            self._client,
            partial(self._opened, backend),
            partial(self._open_failed, backend),
        )

    def _awaited(self, backend: Backend) -> bool:
        """Whether its connection is still wanted: an attempt cannot always be
        cancelled in time."""
        return self._opening is not None and backend is self.backend

    def _opened(self, backend: Backend, channel: Channel) -> None:
        if not self._awaited(backend):
            backend.release(channel)
            return
        self._opening = None
        self._greet(channel)

    def _open_failed(
        self, backend: Backend, step: str, why: str, refusal: Reply | None
    ) -> None:
        if not self._awaited(backend):
            return
        self._opening = None
        if refusal is not None:  # another one is not asked to judge anew
            self._owner.link_failed(refusal, step, why)
            return
        if step == "connections":  # enough was waited
            self._others = [other for other in self._others if not other.full]
        if self._others and self._owner.waiting:
            self._listener.backend_passed_over(step, why)
            self._connect()
        else:
            self._owner.link_failed(replies.BACKEND_UNREACHABLE, step, why)

    def _greet(self, channel: Channel) -> None:
        """Say EHLO with the client's own name; it also resets a connection
        that was used before (RFC 5321 §4.1.4).  Where that was done under the
        same name, RSET is enough, and goes out with the envelope; after a message of
        the same client, it is not even needed."""
        self.channel = channel
        self.ready = False
        channel.owner = self._owner
        helo = self.helo or self.backend.hostname
        if channel.helo == helo:
            ours = self._client is not None and channel.client is self._client
            channel.reset_first = channel.reset_first or not ours
            channel.client = self._client
            self._greeted()
        else:
            channel.reset_first = False
            Greeting(
                self.backend, channel, helo, self._client, self._greeted, self._trouble
            )

    def _greeted(self) -> None:
        self.ready = True
        self._owner.link_ready()

    def _trouble(self, answer: Reply, step: str, why: str) -> None:
        self.discard()
        self._owner.link_trouble(answer, step, why)
