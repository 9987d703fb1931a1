"""What all client sessions of one process share.

Knows: the rules, the backends, the caps on connections, how much patience there
is just now, who keeps guessing, the coarse clock that times sessions out.
Knows not: the dialogue.  Made by the service; used by every
:class:`~proxy.front.session.Session`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.backend.choice import Backends
from proxy.backend.client import Variables
from proxy.front.admission import Admit, relayclient
from proxy.front.client import client_key, client_number
from proxy.front.common import DELIVERED, GUESSED, Column
from proxy.front.harvest import REFUSE, Harvest, HarvestSettings
from proxy.front.pace import Pace
from proxy.front.pressure import Patience, Pressure, limits_under
from proxy.front.proxied import Complaints, HeaderPhase
from proxy.front.tls import ServerTls
from proxy.front.trusted import NOBODY, Trusted
from proxy.front.turns import Turns
from proxy.front.writes import Writes
from proxy.observe.events import LimitHit, Observer, PressureChanged, Turned
from proxy.rules.engine import Engine
from proxy.smtp import replies
from proxy.smtp.driver import Banner, Limits
from proxy.smtp.reply import Reply

if TYPE_CHECKING:
    from proxy.front.session import Session


_TURNED_AWAY = {
    "closing": replies.SHUTTING_DOWN,
    "harvest_defence": replies.TOO_MANY_GUESSES,
}


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """Bounds of the client's side; 0 is none, times in seconds.

    ``announced_size`` is what EHLO says with SIZE, in bytes.
    ``received`` puts a Received line on top of each message.  Clients in
    ``trusted`` may relay; peers in ``proxies`` are no clients, but must begin
    with a PROXY header that names the client.  ``admit`` is asked what tcp.smtp
    says of a client.  ``connections`` and ``connections_per_client`` are for all
    workers together, ``connections_here`` for this one.  ``data_rate`` in bytes
    a second.  Without ``harvest`` nobody is suspected of guessing.  With
    ``tls``, STARTTLS is offered.
    """

    connections: int = 4000
    connections_here: int = 0
    connections_per_client: int = 50
    command_timeout: float = 300.0
    data_timeout: float = 180.0
    data_rate: int = 100
    session_age: float = 7200.0
    announced_size: int = 0
    received: bool = True
    trusted: Trusted = NOBODY
    harvest: HarvestSettings | None = None
    tls: ServerTls | None = None
    admit: Admit | None = None
    proxies: Trusted = NOBODY
    session: Limits = field(default_factory=Limits)


class Door:
    """Where clients come in.

    :meth:`configure` may be called at any time: sessions that are open keep
    the rules and bounds that they began with.  ``clock`` gives seconds, the
    loop's time by default; deadlines are held against it.  ``common`` is what
    is counted together with other workers.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        backends: Backends,
        observer: Observer,
        hostname: bytes,
        settings: DoorSettings,
        clock: Callable[[], float] | None = None,
        common: Column | None = None,
    ) -> None:
        self.backends = backends
        self.observer = observer
        self.loop = asyncio.get_running_loop()
        self._clock = clock or self.loop.time
        self.tls: ServerTls | None = None
        self.sessions: set[Session] = set()
        self.writes = Writes(self.loop)
        self.turns = Turns(self.loop)
        self.awaiting: set[HeaderPhase] = set()
        self.complaints = Complaints(observer)
        self._common = common
        self._harvest = Harvest()
        self._pressure = Pressure(0)
        self.configure(engine, hostname, settings)
        self.closing = False
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
        starttls = settings.tls is not None
        self.banner = Banner(hostname, settings.announced_size, starttls=starttls)
        # Sessions that were offered it may still ask.
        self.tls = settings.tls or self.tls
        self._harvest.configure(settings.harvest)
        level = self._pressure.level
        self._pressure = Pressure(settings.connections)
        self._pressure.look(self._connections())
        self._be_patient()
        if self._pressure.level != level:
            self._say_pressure()

    def _set_clock(self) -> None:
        """Coarse time, and when a client that is silent from now on is too
        late: the same for all sessions, so it is reckoned once."""
        self.now = self._clock()
        limit = self.patience.command_timeout
        self.command_deadline = self.now + limit if limit else math.inf

    def next_id(self) -> str:
        """A session id, unique among all starts of the service."""
        self._counter += 1
        return f"{self._prefix}-{self._counter:x}"

    def enter(
        self, session: Session, client: str, *, capped: bool = True
    ) -> Reply | None:
        """Let a session in, or say why not.  Not ``capped``: ``client`` is a proxy,
        and may stand for many."""
        refusal = self.full(client)
        if refusal is not None:
            return refusal
        key = client_key(client)
        own = self._by_client.get(key, 0)
        if capped:
            refusal = self._refused(client, own)
            if refusal is not None:
                return refusal
        self._by_client[key] = own + 1
        self.sessions.add(session)
        if self._common is not None:
            self._common.enter(client_number(client))
        if self._connections() >= self._pressure.up:
            self._look_at_pressure()
        return None

    def full(self, client: str) -> Reply | None:
        """Why nobody at all is let in."""
        if self.closing:
            return self._turned(client, "closing")
        settings = self.settings
        here = len(self.sessions) + len(self.awaiting)
        full = 0 < settings.connections <= self._connections()
        if full or 0 < settings.connections_here <= here:
            return self._turned(client, "connections")
        return None

    def _refused(self, client: str, count: int) -> Reply | None:
        """Why this client is not; it has ``count`` sessions here."""
        if self._common is not None:
            count += self._common.of_client_elsewhere(client_number(client))
        if 0 < self.settings.connections_per_client <= count:
            return self._turned(client, "connections_per_client")
        refused = self._harvest.refused
        if refused and self._harvest.refuses(client_number(client), self.now):
            return self._turned(client, "harvest_defence")
        return None

    def expect_header(self, phase: HeaderPhase, peer: str) -> None:
        """A proxy has connected: a connection like any, before it is a session."""
        self.awaiting.add(phase)
        if self._common is not None:
            self._common.enter(client_number(peer))
        if self._connections() >= self._pressure.up:
            self._look_at_pressure()

    def header_over(self, phase: HeaderPhase, peer: str) -> None:
        """Its header is there, or will not come."""
        if phase not in self.awaiting:
            return
        self.awaiting.discard(phase)
        if self._common is not None:
            self._common.leave(client_number(peer))
        if self._connections() <= self._pressure.down:
            self._look_at_pressure()

    def leave(self, session: Session, client: str) -> None:
        """The connection of a session that was let in is closed."""
        if session not in self.sessions:
            return
        self.sessions.discard(session)
        key = client_key(client)
        count = self._by_client[key] - 1
        if count:
            self._by_client[key] = count
        else:
            del self._by_client[key]
        if self._common is not None:
            self._common.leave(client_number(client))
        if len(self.sessions) <= self._pressure.down:
            self._look_at_pressure()

    def oldest(self) -> float:
        """When a session that begins now is too old."""
        age = self.settings.session_age
        return self.now + age if age else math.inf

    def pace(self) -> Pace:
        """What is asked of a message that begins now."""
        return Pace(self.now, self.patience.data_rate)

    def guessed(self, session: str, client: str, refusal: Reply) -> tuple[Reply, float]:
        """A recipient was refused for want of a mailbox: what to tell the client
        (``refusal``, or 421), and the seconds by which to hold that back.  Not for
        clients that may relay."""
        if self.settings.harvest is None:
            return refusal, 0.0
        if self.proxied and client in self.settings.proxies:
            return refusal, 0.0  # it may stand for many
        number = client_number(client)
        if self._common is not None:
            self._common.tell(number, GUESSED)
        delay = self._harvest.guessed(number, self.now)
        if delay == REFUSE:
            self.observer(LimitHit(session, client, "harvest_refuse_after"))
            return replies.TOO_MANY_GUESSES, 0.0
        if 0 < delay <= 1.0:  # the first
            self.observer(LimitHit(session, client, "harvest_delay_after"))
        return refusal, delay

    def delivered(self, client: str) -> None:
        """Mail of a client was accepted."""
        if self.settings.harvest is None:
            return
        number = client_number(client)
        news = self._harvest.delivered(number, self.now)
        if news and self._common is not None:
            self._common.tell(number, DELIVERED)

    def relayclient(self, client: str, variables: Variables) -> bytes | None:
        """Whether ``client`` may relay: see :func:`admission.relayclient`."""
        trusted = self.settings.trusted
        return relayclient(bool(trusted and client in trusted), variables)

    def turn_away(self, client: str, why: str) -> None:
        """A session that was let in is not wanted after all."""
        self._turned(client, why)

    def sweep(self) -> None:
        """Move the coarse clock and end what is overdue; once a second."""
        self._set_clock()
        now = self.now
        for session in [s for s in self.sessions if s.deadline < now]:
            session.time_out()
        for phase in [p for p in self.awaiting if p.deadline < now]:
            phase.time_out()
        self.complaints.sweep(now)
        self.backends.sweep()
        self._harvest.sweep(now)
        if self._common is not None:
            self._listen(self._common)
            self._look_at_pressure()

    def _listen(self, common: Column) -> None:
        """What other workers' clients have done counts here too."""
        for number, kind in common.news():
            if kind == GUESSED:
                self._harvest.guessed(number, self.now)
            else:
                self._harvest.delivered(number, self.now)

    def _connections(self) -> int:
        elsewhere = 0 if self._common is None else self._common.elsewhere()
        return len(self.sessions) + len(self.awaiting) + elsewhere

    def _look_at_pressure(self) -> None:
        before = self._pressure.level
        if not self._pressure.look(self._connections()):
            return
        self._be_patient()
        self._say_pressure()
        if self._pressure.level > before:
            for session in self.sessions:
                session.hurry()

    def _be_patient(self) -> None:
        """What holds from now on, at the present pressure."""
        settings, step = self.settings, self._pressure.step
        usual = Patience(
            settings.command_timeout, settings.data_timeout, settings.data_rate
        )
        self.patience = usual.under(step)
        self.session_limits = limits_under(settings.session, step)
        self.backends.keep_at_most(step.kept)
        self._set_clock()

    def _say_pressure(self) -> None:
        count, cap = self._connections(), self.settings.connections
        self.observer(PressureChanged(self._pressure.level, count, cap))

    def _turned(self, client: str, limit: str) -> Reply:
        self.observer(Turned(client, limit))
        return _TURNED_AWAY.get(limit, replies.TOO_MANY_CONNECTIONS)
