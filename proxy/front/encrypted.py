"""The part of a session that is about TLS.

Knows: what happens between 220 and the first encrypted command, and when it
fails.  Knows not: how a handshake is done (``tls``), SMTP (the dialogue).
:class:`~proxy.front.session.Session` is made of it.

All names here are the class's until TLS is asked for: a session that stays in the
clear costs nothing more.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from proxy.front.door import Door
from proxy.front.tls import Handshake, version_of
from proxy.observe.events import TlsFailed, TlsStarted
from proxy.smtp.dialogue import Dialogue


class Encrypted:
    """What :class:`~proxy.front.session.Session` does about TLS."""

    implicit = False
    """Whether a handshake comes first (RFC 8314 §3.3)."""

    _tls = b""  # version and cipher
    _handshake: Handshake | None = None  # while it lasts
    _discarded = 0

    # The session's own.
    _door: Door
    _dialogue: Dialogue
    _socket: Any
    _id: str
    _client: str
    _why: str
    _gone: bool
    _reading: bool

    def start_tls(self, discarded: int, received: bytes = b"") -> None:
        """See :class:`proxy.smtp.driver.Driver`; ``received`` are bytes of the
        handshake that were read already, behind a PROXY header."""
        tls = self._door.tls
        assert tls is not None  # else it was not offered
        self._forget_user()
        self._door.writes.now(self._socket)
        self._discarded = discarded
        self._reading = True  # whatever was before: the handshake reads
        self._handshake = Handshake(
            tls,
            self._socket,
            cast(asyncio.Protocol, self),
            self._tls_started,
            self._tls_failed,
            received,
            seconds=self._door.patience.command_timeout,
        )

    def _tls_started(self, transport: asyncio.Transport) -> None:
        self._handshake = None
        self._socket = transport
        version, cipher = version_of(transport) or ("", "")
        self._tls = f"{version} {cipher}".encode("ascii")
        self._door.observer(
            TlsStarted(self._id, self._client, version, cipher, self._discarded)
        )
        self._dialogue.tls_started(greet=self.implicit)
        self._after()

    def _tls_failed(self, why: str, ended: str = "tls") -> None:
        """Close; a reply in the clear would not be understood."""
        door, handshake = self._door, self._handshake
        self._gone = True
        self._why = ended
        if handshake is not None:
            self._handshake = None
            handshake.cancel()
        told = door.tls is not None and door.tls.worth_a_line(door.now)
        level = "info" if told else "debug"
        door.observer(TlsFailed(self._id, self._client, why, level))
        self._end()
        self._free()  # a handshake that is given up says no more

    def _forget_user(self) -> None:
        """The session's own."""
        raise NotImplementedError

    def _after(self) -> None:
        """The session's own."""
        raise NotImplementedError

    def _end(self) -> None:
        """The session's own."""
        raise NotImplementedError

    def _free(self) -> None:
        """The session's own."""
        raise NotImplementedError
