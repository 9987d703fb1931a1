"""Connections from proxies: before the greeting comes a PROXY header.

Knows: who must send one (``listen.proxy_from``), how long it may take, what is
said of those who do not.  Knows not: the header's form
(:mod:`proxy.front.proxy_protocol`), SMTP.  Called by the session for such peers
only; it hands the connection back with the client's own address
(:mod:`proxy.front.entry`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from proxy.backend.client import Client
from proxy.front.entry import enter, turn_away
from proxy.front.proxy_protocol import BadHeader, HeaderReader
from proxy.observe.events import Observer, ProxyHeaderBad

if TYPE_CHECKING:
    from proxy.front.door import Door
    from proxy.front.session import Session

HEADER_SECONDS = 5.0
"""A proxy sends its header at once; the protocol asks for at least 3 seconds."""

LOG_SECONDS = 10.0


class Complaints:
    """One event for each kind of trouble in :data:`LOG_SECONDS`, with its count:
    a balancer that is set up wrongly must not fill the log."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._held: dict[str, tuple[float, str, int]] = {}

    def add(self, peer: str, why: str, now: float) -> None:
        """One more; ``now`` in seconds."""
        held = self._held.get(why)
        if held is None:
            self._observer(ProxyHeaderBad(peer, why, 1))
            self._held[why] = (now + LOG_SECONDS, peer, 0)
        else:
            self._held[why] = (held[0], peer, held[2] + 1)

    def sweep(self, now: float) -> None:
        """Tell what was held back long enough."""
        for why, (due, peer, times) in list(self._held.items()):
            if due <= now:
                del self._held[why]
                if times:
                    self._observer(ProxyHeaderBad(peer, why, times))
                    self._held[why] = (now + LOG_SECONDS, peer, 0)


def expect_header(session: Session, peer: str) -> None:
    """A proxy has connected."""
    door = session._door
    refusal = door.full(peer)
    if refusal is not None:
        turn_away(session, refusal)
    else:
        HeaderPhase(door, session, session._socket, peer)


class HeaderPhase(asyncio.Protocol):
    """The time before the header.  It has a place among the connections of
    the door; ``deadline`` is in the door's time."""

    def __init__(self, door: Door, session: Session, transport: Any, peer: str) -> None:
        self.deadline = door.now + HEADER_SECONDS
        self._door = door
        self._session = session
        self._socket = transport
        self._peer = peer
        self._reader = HeaderReader()
        self._over = False
        door.expect_header(self, peer)
        transport.set_protocol(self)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            header = self._reader.feed(data)
        except BadHeader as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._leave()
        session, transport = self._session, self._socket
        transport.set_protocol(session)
        client = Client(*header.ends) if header.ends else None
        address = client.address if client else self._peer
        enter(session, address, client, by_proxy=True, received=header.rest)

    def eof_received(self) -> bool:
        # Who only looks whether somebody listens has nothing to say.
        if not self._over and not self._reader.empty:
            self._refuse("it ended within the header")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    # What the door calls.

    def time_out(self) -> None:
        """The deadline has passed."""
        self._refuse("not whole in time")

    def shut_down(self) -> None:
        """End it; nothing has begun."""
        self._leave()
        self._socket.abort()

    # Inside.

    def _refuse(self, why: str) -> None:
        """Close without a word: a proxy has no use for SMTP's."""
        self._leave()
        self._door.complaints.add(self._peer, why, self._door.now)
        self._socket.abort()

    def _leave(self) -> None:
        self._over = True
        self._door.header_over(self, self._peer)
