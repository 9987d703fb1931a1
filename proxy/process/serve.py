"""``backstop serve`` as a process: sockets first, then rights, then service.

Knows: the order of a start, what is told to a supervisor, exit statuses.
Knows not: what a service is made of (``service``).  Called by ``cli``.

All that root is needed for happens before the first event loop and the first
thread: binding, becoming another user (``privileges``).  Afterwards workers are
forked, or the one service runs here.
"""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401  (looking a name up imports it, too late)
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy import assemble, certificates, obstacles
from proxy.certificates import TlsError
from proxy.config import Config, ConfigError
from proxy.front.activation import ActivationError, inherited
from proxy.front.sockets import BindError, bind_all, bind_status, shown
from proxy.front.tls import ServerTls
from proxy.observe.log import Logger, Schedule
from proxy.observe.stream import make_own
from proxy.process import privileges
from proxy.process.loops import event_loop, run_loop
from proxy.process.notify import Notifier, NotifyError, Tell
from proxy.process.privileges import PrivilegeError, Rights
from proxy.process.workers import Board, Parent, Say
from proxy.service import Reload, Service, Share, StartError

CANNOT_START = 2
_LOG_SECONDS = 0.02
_LAST_WORD_SECONDS = 1.0

_TROUBLE = (
    ConfigError,
    StartError,
    BindError,
    ActivationError,
    NotifyError,
    PrivilegeError,
    TlsError,
)


class _Sockets(NamedTuple):
    """A row of listening sockets for each worker."""

    rows: list[list[socket.socket]]
    tls_rows: list[list[socket.socket]]
    status: socket.socket | None
    inherited: bool


def run(config: Config, reload: Reload) -> int:
    """Serve until TERM; the exit status: 0, or :data:`CANNOT_START`."""
    # It would end a process that has no handler for it yet.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    _open_standard_streams()
    make_own(2)
    event_loop()  # imported while everything may be read
    log = _logger(config, None)
    try:
        sockets = _sockets(config, log.notice)
        notifier = Notifier(os.environ, config.process.readiness_fd)
        # While everything may be read.
        tls = certificates.server_tls(config)
        rights = privileges.settle(config.process, assemble.needs(config))

        def tell(what: str, text: str) -> None:
            if what == "ready":
                _say_rights(config, rights, log.notice)
            notifier.tell(what, text)

        if config.listen.workers > 1:
            serve = _Workers(config, reload, sockets, tls)
            watchdog = notifier.watchdog
            count = config.listen.workers
            return Parent(
                count,
                serve,
                log.notice,
                tell,
                serve.reread,
                watchdog,
                patience=config.listen.worker_timeout,
                grace=lambda: serve.grace,
            ).run()
        (row,), (tls_row,) = sockets.rows, sockets.tls_rows
        share = Share(row, sockets.status, sockets.inherited, tell)
        share = share._replace(tls_sockets=tls_row, tls=tls)
        return _run_service(config, reload, share)
    except _TROUBLE as error:
        return _cannot_start(error)


def _sockets(config: Config, say: Say) -> _Sockets:
    """Those that a supervisor has bound, else our own; raises of
    :data:`_TROUBLE`."""
    given = inherited(os.environ)
    listen = config.listen
    if given.mail or given.tls:
        rows = [given.mail] * listen.workers
        tls_rows = [given.tls] * listen.workers
    else:
        rows = _rows(listen.addresses, "listen.addresses", listen.workers, say)
        key = "listen.tls_addresses"
        tls_rows = _rows(listen.tls_addresses, key, listen.workers, say)
    status = given.status
    if status is None and config.status.address:
        status = bind_status(config.status.address)
    return _Sockets(rows, tls_rows, status, bool(given.mail or given.tls))


def _rows(
    addresses: Sequence[str], key: str, workers: int, say: Say
) -> list[list[socket.socket]]:
    """Each address for each worker."""
    rows: list[list[socket.socket]] = []
    for _ in range(workers):
        rows.append(bind_all(addresses, say, shared=workers > 1, key=key))
        addresses = [shown(sock) for sock in rows[0]]  # port 0: one for all
    return rows


class _Workers:
    """What each worker does; those that replace others begin with what was read
    at the last good HUP."""

    def __init__(
        self,
        config: Config,
        reload: Reload,
        sockets: _Sockets,
        tls: ServerTls | None,
    ) -> None:
        self._config = config
        self._tls = tls
        self._reload = reload
        self._sockets = sockets

    def __call__(self, worker: int, board: Board, tell: Tell) -> int:
        rows, tls_rows, status, inherited_ = self._sockets
        share = Share(rows[worker], status, inherited_, tell, worker, board)
        share = share._replace(tls_sockets=tls_rows[worker], tls=self._tls)
        return _run_service(self._config, self._reload, share)

    @property
    def grace(self) -> float:
        """Seconds that they may take to end."""
        return self._config.shutdown_grace

    def reread(self) -> None:
        """In the parent, at HUP; the workers judge it too, and tell of it."""
        with contextlib.suppress(ConfigError, TlsError):
            new = self._reload()
            tls = certificates.server_tls(new)
            assemble.places(new)  # may raise, too
            if not obstacles.start_problem(new, assemble.qmail_host(new)):
                self._config, self._tls = new, tls


def _run_service(config: Config, reload: Reload, share: Share) -> int:
    return run_loop(lambda: _serve(config, reload, share))


async def _serve(config: Config, reload: Reload, share: Share) -> int:
    loop = asyncio.get_running_loop()

    def soon(flush: Callable[[], None]) -> None:
        loop.call_later(_LOG_SECONDS, flush)

    log = _logger(config, soon)
    log.capture_logging()
    try:
        return await Service(config, log, reload, share).run()
    except _TROUBLE as error:
        return _cannot_start(error)
    finally:
        # The handlers end with the loop: one more TERM must not spoil the status.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        log.close()


def _logger(config: Config, schedule: Schedule | None) -> Logger:
    form, level = config.log.format, config.log.level
    return Logger(sys.stderr.buffer, form=form, level=level, schedule=schedule)


def _say_rights(config: Config, rights: Rights, say: Say) -> None:
    say("info", str(rights))
    for warning in (*rights.hints, *rights.warnings, *_unreadable(config)):
        say("warning", warning)


def _unreadable(config: Config) -> list[str]:
    """What will fail only at a HUP, now that we are who we are."""
    found = []
    source = [str(config.source)] if config.source else []
    for path in (*source, *certificates.files(config)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            found.append(
                f"HUP will fail: {path}: {error.strerror} (let our user read it)"
            )
    return found


def _cannot_start(error: Exception) -> int:
    """One line, by the descriptor: a log pipe that is closed changes nothing,
    not even the exit status."""
    with contextlib.suppress(OSError):
        select.select([], [2], [], _LAST_WORD_SECONDS)
        os.write(2, f"backstop: {error}\n".encode("utf-8", "backslashreplace"))
    return CANNOT_START


def _open_standard_streams() -> None:
    """Started with some of them closed, the next socket would be one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free: this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
