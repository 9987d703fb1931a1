"""What all client sessions of one process share.

Knows: the rules, the backend, the caps on connections, the coarse clock that
times sessions out.  Knows not: the dialogue.  Made by the service; used by
every :class:`~proxy.front.session.Session`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.backend.pool import Backend
from proxy.front.proxied import Complaints, HeaderPhase
from proxy.front.trusted import NOBODY, Trusted
from proxy.observe.events import Observer, Turned
from proxy.rules.engine import Engine
from proxy.smtp.driver import Banner, Limits

if TYPE_CHECKING:
    from proxy.front.session import Session


# A client that does not read its last reply keeps a descriptor no longer.
_LINGER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """Bounds of the client's side; 0 is none, times in seconds.

    ``announced_size`` is what EHLO says with SIZE, in bytes.
    ``received`` puts a Received line on top of each message.  Clients in
    ``trusted`` may relay; peers in ``proxies`` are no clients, but must begin
    with a PROXY header that names the client.
    """

    connections: int = 4000
    connections_per_client: int = 50
    command_timeout: float = 300.0
    data_timeout: float = 180.0
    announced_size: int = 0
    received: bool = True
    trusted: Trusted = NOBODY
    proxies: Trusted = NOBODY
    session: Limits = field(default_factory=Limits)


class Door:
    """Where clients come in.

    :meth:`configure` may be called at any time: sessions that are open keep
    the rules and bounds that they began with.  ``clock`` gives seconds, the
    loop's time by default; deadlines are held against it.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        backend: Backend,
        observer: Observer,
        hostname: bytes,
        settings: DoorSettings,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.backend = backend
        self.observer = observer
        self.loop = asyncio.get_running_loop()
        self._clock = clock or self.loop.time
        self.configure(engine, hostname, settings)
        self.sessions: set[Session] = set()
        self.awaiting: set[HeaderPhase] = set()
        self.complaints = Complaints(observer)
        self.closing = False
        self._lingering: list[tuple[float, asyncio.Transport]] = []
        self._by_client: dict[str, int] = {}
        # Distinguishes this start of this process in the logs.
        self._prefix = secrets.token_hex(3)
        self._counter = 0

    def configure(
        self, engine: Engine, hostname: bytes, settings: DoorSettings
    ) -> None:
        """What holds for sessions from now on."""
        self.engine = engine
        self.hostname = hostname
        self.settings = settings
        self.proxied = bool(settings.proxies)
        self.banner = Banner(hostname, settings.announced_size)
        self._set_clock()

    def _set_clock(self) -> None:
        """Coarse time, and when a client that is silent from now on is too
        late: the same for all sessions, so it is reckoned once."""
        self.now = self._clock()
        limit = self.settings.command_timeout
        self.command_deadline = self.now + limit if limit else math.inf

    def next_id(self) -> str:
        """A session id, unique among all starts of the service."""
        self._counter += 1
        return f"{self._prefix}-{self._counter:x}"

    def enter(self, session: Session, client: str, *, capped: bool = True) -> str:
        """Let a session in; the name of the cap that forbids it, or ``""``.

        Not ``capped``: ``client`` is a proxy, and may stand for many.
        """
        settings = self.settings
        if forbidden := self.full(client):
            return forbidden
        key = client_key(client)
        count = self._by_client.get(key, 0)
        per_client = settings.connections_per_client
        if per_client and count >= per_client and capped:
            return self._turned(client, "connections_per_client")
        self._by_client[key] = count + 1
        self.sessions.add(session)
        return ""

    def full(self, client: str) -> str:
        """Why nobody at all is let in, or ``""``."""
        if self.closing:
            return self._turned(client, "closing")
        limit = self.settings.connections
        if limit and len(self.sessions) + len(self.awaiting) >= limit:
            return self._turned(client, "connections")
        return ""

    def leave(self, session: Session, client: str) -> None:
        """A session that was let in is gone."""
        if session not in self.sessions:
            return
        self.sessions.discard(session)
        key = client_key(client)
        count = self._by_client[key] - 1
        if count:
            self._by_client[key] = count
        else:
            del self._by_client[key]

    def relayclient(self, client: str) -> bytes | None:
        """RELAYCLIENT, as tcprules would set it for ``client`` (qmail-smtpd.8):
        empty, so that nothing is appended to addresses, or not set."""
        trusted = self.settings.trusted
        return b"" if trusted and client in trusted else None

    def shut(self, transport: asyncio.Transport) -> None:
        """Close a connection; what is still to be sent has some seconds."""
        transport.close()
        if transport.get_write_buffer_size():
            self._lingering.append((self.now + _LINGER_SECONDS, transport))

    def sweep(self) -> None:
        """Move the coarse clock and end what is overdue; once a second."""
        self._set_clock()
        now = self.now
        for session in [s for s in self.sessions if s.deadline < now]:
            session.time_out()
        for phase in [p for p in self.awaiting if p.deadline < now]:
            phase.time_out()
        lingering, self._lingering = self._lingering, []
        for deadline, transport in lingering:
            if deadline > now:
                self._lingering.append((deadline, transport))
            else:
                transport.abort()
        self.complaints.sweep(now)
        self.backend.sweep()

    def _turned(self, client: str, limit: str) -> str:
        self.observer(Turned(client, limit))
        return limit


def client_key(client: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 /64 network."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
