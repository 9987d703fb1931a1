"""The part of a session that is about AUTH.

Knows: what a client may that the backend has authenticated, and until when.
Knows not: SMTP (``proxy.smtp.auth``), the backend's answers (the conversation).
:class:`~proxy.front.session.Session` is made of it.

All names here are the class's until a client succeeds: a session without AUTH
costs nothing more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from proxy.backend.conversation import Conversation
from proxy.front.door import Door
from proxy.front.stages import after_auth
from proxy.observe.events import AuthEnded
from proxy.rules.engine import Engine
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.reply import Reply

if TYPE_CHECKING:
    from proxy.front.session import Session


class Authenticated:
    """What :class:`~proxy.front.session.Session` does about AUTH."""

    _authenticated = False
    _user = b""
    _by_address: bytes | None = None  # RELAYCLIENT without AUTH

    # The session's own.
    _door: Door
    _engine: Engine
    _task: asyncio.Task[None] | None
    _dialogue: Dialogue
    _conversation: Conversation | None
    _relayclient: bytes | None
    _id: str
    _client: str

    # Driver

    def relay_auth(self, line: bytes) -> None:
        """See :class:`proxy.smtp.driver.Driver`."""
        conversation = self._conversation or self._converse()
        conversation.authenticate(self._dialogue.helo, line)

    def auth_ended(
        self, mechanism: bytes, outcome: str, reply: Reply, user: bytes
    ) -> None:
        """See :class:`proxy.smtp.driver.Driver`."""
        if outcome == "accepted":
            self._authenticated, self._user = True, user
            self._by_address = self._relayclient
            self._relayclient = b""  # as the backend's own patch does
        self._door.observer(
            AuthEnded(self._id, self._client, mechanism, outcome, reply.code, user)
        )

    # Listener

    def auth_answered(self, reply: Reply) -> None:
        """See :class:`proxy.backend.listener.Listener`."""
        if reply.code == 235 and self._engine.stages:
            session = cast("Session", self)
            self._task = self._door.loop.create_task(after_auth(session, reply))
            return
        self._dialogue.auth_answered(reply)
        self._after()

    def _forget_user(self) -> None:
        """STARTTLS: what was said in the clear counts no more (RFC 3207 §4.2), nor
        does the backend's connection that was authenticated by it."""
        if not self._authenticated:
            return
        self._authenticated, self._user = False, b""
        self._relayclient = self._by_address
        if self._conversation is not None:
            self._conversation.leave()
            self._conversation = None

    def _converse(self) -> Conversation:
        """The session's own."""
        raise NotImplementedError

    def _after(self) -> None:
        """The session's own."""
        raise NotImplementedError
