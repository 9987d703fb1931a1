"""The service: where the parts are put together, drained and reloaded.

Knows: every part, by its constructor only; signals; the order of start and
stop.  Knows not: SMTP, qmail, how many processes there are, whose rights they
have.  Called by ``process.serve`` and ``demo``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from proxy import __version__, assemble, obstacles
from proxy.again import Again
from proxy.backend.choice import Backends
from proxy.certificates import TlsError, expires_soon, server_tls
from proxy.config import Config, ConfigError
from proxy.engines import Engines
from proxy.front.descriptors import connections_that_fit
from proxy.front.door import Door, DoorSettings
from proxy.front.session import Session
from proxy.front.sockets import bind_all, bind_status, bind_trouble, shown
from proxy.front.tls import ServerTls
from proxy.front.tls_session import TlsSession
from proxy.leakwatch import LeakWatch
from proxy.observe.events import Event, Observer
from proxy.observe.log import Logger
from proxy.observe.metrics import Metrics
from proxy.observe.page import StatusInfo
from proxy.observe.quota import Limiter
from proxy.process import capabilities
from proxy.process.notify import Tell
from proxy.process.workers import Board, Pulse
from proxy.qmail.host import QmailHost
from proxy.relaying import Relaying
from proxy.rules.engine import Engine
from proxy.showing import Showing, status_info
from proxy.watch import Watch

_SWEEP_SECONDS = 1.0
_LOG_SECONDS = 0.02
_BACKLOG = 1024
# asyncio takes up to so many connections before the first is looked at; they
# have to fit what descriptors.py leaves for others.
_AT_ONCE = 32

Reload = Callable[[], Config]


class StartError(Exception):
    """The service cannot start; the text says what, where, and what to do."""


def _tell_nobody(what: str, text: str) -> None:
    """A :data:`~proxy.process.notify.Tell` without a supervisor."""


class Share(NamedTuple):
    """What a process is given: its sockets, and who hears how it is.

    On ``tls_sockets`` TLS comes first; ``tls`` was read with root's rights.
    ``inherited`` sockets are a supervisor's own and outlive the service.  One
    of several workers also has its number and the common board; ``status``
    stays with the parent too, for the worker that follows.
    """

    sockets: Sequence[socket.socket]
    status: socket.socket | None = None
    inherited: bool = False
    tell: Tell = _tell_nobody
    worker: int = 0
    board: Board | None = None
    tls_sockets: Sequence[socket.socket] = ()
    tls: ServerTls | None = None


class Service:
    """One process of the front door, from start to stop.

    ``reload`` reads the configuration anew on HUP; it may raise
    :class:`~proxy.config.ConfigError`, and then the old one stays.
    """

    def __init__(
        self,
        config: Config,
        log: Logger,
        reload: Reload | None,
        share: Share | None = None,
    ) -> None:
        """``share``: sockets that are bound; by default it binds them itself."""
        self.config = config
        self.log = log
        self._limited = Limiter(log)
        self._reload = reload
        self._hup = Again(self._take_new)
        self._share = share
        self._worker = share.worker if share else 0
        board = share.board if share else None
        self._pulse = Pulse(board) if board else None
        self._tell = share.tell if share else _tell_nobody
        self.metrics = Metrics(__version__)
        self.showing = Showing(self.metrics, self._others, log.notice)
        self.door: Door | None = None
        self.backends: Backends | None = None
        self.watch: Watch | None = None
        self.leaks: LeakWatch | None = None
        self.addresses: list[str] = []
        self.status_port = 0
        self._sockets: Sequence[socket.socket] = ()
        self._tls_sockets: Sequence[socket.socket] = ()
        self._servers: list[asyncio.Server] = []
        self._stopping = asyncio.Event()
        self._kill = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        heard = _all([self.log, self.metrics])
        self._engines = Engines(heard, self._rule_failed, self.log.notice)
        self._listening = False
        self._started = asyncio.Event()
        self._configuration = "as at the start"
        self._configured = time.time()

    async def start(self) -> None:
        """Bind, and serve; raises :class:`StartError`, or
        :class:`~proxy.certificates.TlsError`."""
        config = self.config
        host = assemble.qmail_host(config)
        problem = obstacles.start_problem(config, host)
        if problem := problem or obstacles.backend_problem(config):
            raise StartError(problem)
        hostname = assemble.hostname(config, host)
        observers: list[Observer] = [self._limited, self.metrics, self.showing.recent]
        if config.leakwatch.log:
            say = self.log.notice if self._first else _tell_nobody
            told = _all([self._limited, self.metrics])
            self.leaks = leaks = LeakWatch(config.leakwatch.log, told, say)
            observers.append(leaks)
            self.metrics.leakwatch = lambda: leaks.reading
        observer = _all(observers)
        tls = self._share.tls if self._share else server_tls(config)
        self._sockets = self._own_sockets()
        places = assemble.places(config, self._worker)
        self.backends = Backends(places, hostname, say=self.log.notice)
        self.watch = watch = Watch(self.backends, self.log.notice)
        watch.learn(self.log.notice if self._first else None)
        self.metrics.backend_up = lambda: not watch.not_ready()
        self.metrics.backends = watch.numbers
        share = self._share
        board = share.board if share else None
        self.door = Door(
            engine=await self._engines.make(config, host),
            backends=self.backends,
            observer=observer,
            hostname=hostname,
            settings=self._door_settings(config, host, tls),
            common=board.common.column(share.worker) if share and board else None,
        )
        door = self.door
        self.metrics.certificate_expires = lambda: door.tls.expires if door.tls else 0
        for sock in self._sockets:
            await self._listen(lambda: Session(door), sock, "listen.addresses")
        for sock in self._tls_sockets:
            await self._listen(lambda: TlsSession(door), sock, "listen.tls_addresses")
        self._listening = True
        await self._start_status(config.status.address)
        self._start_interlock(watch)
        if self.leaks is not None:
            self.leaks.start()
        self._sweep()
        self._started.set()
        self._say_started()
        self._say_trouble(host)

    async def _listen(
        self, factory: Callable[[], Session], sock: socket.socket, key: str
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(factory, sock=sock, backlog=_AT_ONCE)
            sock.listen(_BACKLOG)
        except OSError as error:  # between bind and now another one was faster
            raise StartError(bind_trouble(key, shown(sock), error)) from error
        self._servers.append(server)
        self.addresses.append(shown(sock))

    @property
    def _first(self) -> bool:
        """Alone, or the one of several workers that does what one should do."""
        return self._share is None or not self._share.worker

    def _start_interlock(self, watch: Watch) -> None:
        if self._first:
            relay = self.config.relay
            watch.ask(relay.interlock_interval, Relaying(self.config).state)
            self.metrics.interlock = lambda: watch.interlock_state

    def _say_trouble(self, host: QmailHost) -> None:
        if trouble := obstacles.trouble(host):
            self.log.notice("error", trouble)
        commands = any(backend.command for backend in self.config.backend)
        if commands and capabilities.new_privileges_forbidden():
            self.log.notice("warning", _NO_SET_ID)
        if self._first:
            soon = expires_soon(self.door.tls if self.door else None, time.time())
            if soon:
                self.log.notice("warning", f"{soon} (renew it, then send HUP)")
            for warning in obstacles.relay_warnings(self.config, host):
                self.log.notice("warning", warning)

    def _own_sockets(self) -> Sequence[socket.socket]:
        share = self._share
        if share is None:
            listen, key = self.config.listen, "listen.tls_addresses"
            self._tls_sockets = bind_all(listen.tls_addresses, self.log.notice, key=key)
            return bind_all(listen.addresses, self.log.notice)
        self._tls_sockets = share.tls_sockets
        before = share.board.read(share.worker) if share.board else None
        if before is not None:  # of the worker that this one replaces
            self.metrics.add({**before, "sessions": 0, "pressure": 0})
        return share.sockets

    async def run(self) -> int:
        """Serve until TERM; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        if self._share is None or self._share.board is None:
            loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._hup.ask)
        # Held until now: one that came meanwhile counts.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        try:
            await self.start()
            self._tell("ready", f"serves {' '.join(self.addresses)}")
            await self._stopping.wait()
            self._tell("stopping", "")
        finally:
            await self.close()
        return 0

    def stop(self) -> None:
        """Begin to drain; the second time, end at once."""
        if self._stopping.is_set():
            self._kill.set()
        self._stopping.set()

    async def _take_new(self) -> None:
        """Take a new configuration for new sessions, or keep the old one."""
        await self._started.wait()  # its rules may take a while to be read
        self._tell("reloading", "")
        self._tell("reloaded", await self._reloaded())

    async def _reloaded(self) -> str:
        """Do it; what there is to say of it."""
        door, watch = self.door, self.watch
        if self._reload is None or door is None or watch is None:
            return ""
        try:
            config = self._reload()
            host = assemble.qmail_host(config)
            problem = obstacles.start_problem(config, host)
            if problem := problem or obstacles.backend_problem(config, self.config):
                raise StartError(problem)
            settings = self._door_settings(config, host, server_tls(config))
            behind = assemble.places(config, self._worker)
            engine = await self._engines.make(config, host)
        except (ConfigError, StartError, TlsError) as error:
            self.metrics.reloaded(ok=False)
            text = f"reload failed, the old stays: {error}"
            self.log.notice("error", text)
            self._configuration = text.splitlines()[0]
            return self._configuration
        door.configure(engine, assemble.hostname(config, host), settings)
        relay = config.relay
        watch.use(behind, relay.interlock_interval, Relaying(config).state)
        kept = obstacles.restart_only(self.config, config)
        self.config = config
        self.metrics.reloaded(ok=True)
        self.log.notice("info", "configuration reloaded")
        self._configuration = "reloaded"
        self._configured = time.time()
        self._say_trouble(host)
        if kept:
            self.log.notice("warning", f"only a restart changes {', '.join(kept)}")
        return f"serves {' '.join(self.addresses)}"

    async def close(self) -> None:
        """Drain within the grace time, then end everything."""
        self._listening = False
        await self._hup.close()
        if self.watch is not None:
            self.watch.close()
        for server in self._servers:
            server.close()
        if self._share is None or not self._share.inherited:
            for sock in (*self._sockets, *self._tls_sockets):
                # Other processes may have it open, too: nobody listens any more.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        if self.door is not None:
            await self._drain(self.door)
        if self._timer is not None:
            self._timer.cancel()
        if self.backends is not None:
            await self.backends.close()
        await self._engines.close()
        await self.showing.stop()
        if self.leaks is not None:
            self.leaks.close()
        self._limited.close()
        if self._started.is_set():
            self.log.notice("info", "stopped")
        self.log.flush()

    async def _drain(self, door: Door) -> None:
        door.closing = True
        for phase in list(door.awaiting):
            phase.shut_down()
        deadline = door.loop.time() + self.config.shutdown_grace
        for session in list(door.sessions):
            session.shut_down(now=False)
        while door.sessions and door.loop.time() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kill.wait(), 0.05)
                break
            for session in list(door.sessions):
                session.shut_down(now=False)
        if door.sessions:
            text = f"{len(door.sessions)} transactions did not finish: cut off"
            self.log.notice("warning", text)
        for session in list(door.sessions):
            session.shut_down(now=True)
        await asyncio.sleep(0)

    def _sweep(self) -> None:
        self._limited.turn()
        self.log.flush()  # an idle service empties its queue, too
        if self._share is not None and self._share.board is not None:
            self._share.board.show(self._share.worker, self.showing.snapshot())
        if self._pulse is not None:
            self._pulse.look()
        self.showing.tick()
        self._tell("alive", "")
        if self.door is not None:
            self.door.sweep()
            if self.watch is not None:
                self.watch.tick(serving=self._listening)
            loop = self.door.loop
            self._timer = loop.call_later(_SWEEP_SECONDS, self._sweep)

    async def _start_status(self, address: str | None) -> None:
        share = self._share
        if share is not None:
            sock = None if share.worker else share.status
        else:
            sock = bind_status(address) if address else None
        if sock is None:
            return
        where = address or shown(sock)
        try:
            self.status_port = await self.showing.start(
                sock,
                self.config,
                self._info,
                self._readiness,
                self._engine,
            )
        except OSError as error:
            raise StartError(bind_trouble("status.address", where, error)) from error

    def _engine(self) -> Engine:
        assert self.door is not None  # it was made before the page
        return self.door.engine

    def _info(self) -> StatusInfo:
        assert self.watch is not None  # it was made before the page
        state = self._configuration, self._configured
        return status_info(self.config.mode, self.addresses, state, self.watch)

    def _door_settings(
        self, config: Config, host: QmailHost, tls: ServerTls | None
    ) -> DoorSettings:
        admission = assemble.admit(config, partial(self.log.notice, "error"))
        settings = assemble.door_settings(config, host, admission)
        fit = connections_that_fit(settings.connections)
        if fit < settings.connections:
            text = (
                f"limits.connections = {settings.connections} needs more descriptors"
                f" than the process may open: {fit} are served (raise ulimit -n,"
                " or LimitNOFILE in the systemd unit)"
            )
            self.log.notice("warning", text)
        most = fit * config.listen.workers
        wanted = settings.connections or most
        return replace(
            settings,
            connections=min(wanted, most),
            connections_here=fit,
            tls=tls,
        )

    def _others(self) -> Sequence[Mapping[str, Any]]:
        share = self._share
        return share.board.others(share.worker) if share and share.board else ()

    def _readiness(self) -> str:
        """Why not, or ``""`` when ready."""
        if not self._listening:
            return "not listening"
        if self._pulse is not None and (late := self._pulse.late()):
            return f"worker {late[0]} does not answer"
        return self.watch.not_ready() if self.watch else ""

    def _rule_failed(self, rule: str, error: Exception) -> None:
        kind = f"rule {rule}: {type(error).__name__}"
        self._limited.notice(kind, "error", f"{kind}: {error}")

    def _say_started(self) -> None:
        if self.status_port:
            host = (self.config.status.address or "*:0").rpartition(":")[0]
            self.log.notice("info", f"status page on http://{host}:{self.status_port}/")
        where = " ".join(self.addresses)
        text = f"qmail-backstop {__version__} serves {where}, mode {self.config.mode}"
        backends = [backend.shown for backend in self.config.backend]
        self.log.notice("info", f"{text}, backend {' '.join(backends)}")


_NO_SET_ID = (
    "backend.command: set-id programs do not work here (no_new_privs), and qmail-queue"
    " is one: qmail-smtpd will answer 451 (set NoNewPrivileges=no in the systemd unit)"
)


def _all(observers: list[Observer]) -> Observer:
    def observer(event: Event) -> None:
        for one in observers:
            one(event)

    return observer
