"""The backend as a place: its connections, made, kept for reuse, and ended.

Knows: where the backend is, which connections are open, which may be used
again, whether the backend answers.  Knows not: envelopes or messages.  Called
by ``conversation``; made by the service.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import aiosmtplib

from proxy.backend.breaker import Attempt, Breaker
from proxy.backend.channel import Channel
from proxy.backend.client import Client
from proxy.smtp.auth import offered_line
from proxy.smtp.reply import Reply


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """Where qmail-smtpd listens, and how long it may take; times in seconds.

    ``host`` and ``port``, or ``path`` of a Unix socket.  With ``context``, the
    connection is encrypted: after STARTTLS, or from the start.  The times are shorter
    than what RFC 5321 §4.5.3.2 grants us as a server.  ``kept`` idle
    connections are kept for ``kept_seconds``.  After ``breaker_failures``
    attempts to connect that failed in a row, none is made for
    ``breaker_seconds``; 0 of them: attempts are always made.  ``learn_auth``:
    remember which mechanisms of AUTH it offers.
    """

    host: str = "127.0.0.1"
    port: int = 2525
    path: str = ""
    context: ssl.SSLContext | None = None
    starttls: bool = False
    connect_timeout: float = 10.0
    command_timeout: float = 60.0
    data_timeout: float = 120.0
    final_timeout: float = 540.0
    kept: int = 8
    kept_seconds: float = 30.0
    breaker_failures: int = 5
    breaker_seconds: float = 2.0
    learn_auth: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


# A connection is not used for ever: leaks in old servers stay small.
_USES_MAX = 1000
_AGE_MAX = 600.0

OnChannel = Callable[[Channel], None]
OnFailure = Callable[[str, str], None]
"""Gets the step (``connect``, or ``breaker`` where none was tried) and why."""


class Backend:
    """Connections to one backend.

    ``hostname`` is what we call ourselves; ``up`` and ``trouble`` say what the
    last attempt to connect came to.  ``clock`` gives seconds, the loop's time
    by default.
    """

    def __init__(
        self,
        settings: BackendSettings,
        hostname: bytes,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.settings = settings
        self.hostname = hostname
        self.up: bool | None = None
        self.trouble = ""
        self.kept_at_most = float("inf")
        """Seconds; less than ``kept_seconds`` where connections run short."""
        self.auth_offered = b""
        """``AUTH PLAIN LOGIN`` as its last EHLO had it, if that is to be learnt."""
        self._idle: list[Channel] = []
        self._live: set[Channel] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.now = clock or self._loop.time
        """Deadlines are held against it, in seconds."""
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_seconds)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._live)

    def use(self, settings: BackendSettings) -> None:
        """Other settings from now on.  Where they name another place, no
        connection to the old one serves a further session."""
        if str(settings) != str(self.settings):
            self.up, self.trouble, self.auth_offered = None, "", b""
            for channel in self._live:
                channel.used = _USES_MAX
            for channel in self._idle:
                self._end(channel)
            self._idle.clear()
            self._breaker.forget()
        self._breaker.configure(settings.breaker_failures, settings.breaker_seconds)
        self.settings = settings
        if not settings.learn_auth:
            self.auth_offered = b""

    def heard(self, ehlo: Reply) -> None:
        """An answer to EHLO, from the place that is used now."""
        if self.settings.learn_auth:
            self.auth_offered = offered_line(ehlo.lines[1:])

    def reuse(self, client: Client | None) -> Channel | None:
        """An idle connection that is still good for ``client``, if there is one."""
        oldest = self.now() - self.settings.kept_seconds
        while self._idle:
            channel = self._idle.pop()
            if channel.usable and channel.deadline >= oldest:
                channel.deadline = float("inf")
                return channel
            self._end(channel)
        return None

    def open(
        self, client: Client | None, on_channel: OnChannel, on_failure: OnFailure
    ) -> asyncio.Task[None]:
        """Make a new connection on behalf of ``client``, ``None`` for our own
        questions; one of the two is called when it is done.

        The task may be cancelled; then neither is, unless it is too late.
        """
        task = self._loop.create_task(self._open(on_channel, on_failure))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    def release(self, channel: Channel) -> None:
        """Give back a connection whose transaction is complete."""
        channel.owner = None
        channel.used += 1
        young = channel.used < _USES_MAX and self.now() - channel.born < _AGE_MAX
        good = channel.usable and young
        if good and len(self._idle) < self.settings.kept:
            # While it is idle, the time of its release.
            channel.deadline = self.now()
            self._idle.append(channel)
        else:
            self._end(channel)

    def finish(self, channel: Channel) -> None:
        """End a connection that is not to be used again, politely if it can be."""
        self._end(channel)

    def discard(self, channel: Channel) -> None:
        """End a connection at once: what is on its way must not arrive."""
        channel.discard()
        self._live.discard(channel)

    def sweep(self) -> None:
        """End what is overdue; called about once a second."""
        now = self.now()
        oldest = now - min(self.settings.kept_seconds, self.kept_at_most)
        idle, self._idle = self._idle, []
        for channel in idle:
            if channel.usable and channel.deadline >= oldest:
                self._idle.append(channel)
            else:
                self._end(channel)
        kept = set(self._idle)
        for channel in list(self._live):
            if channel.lost_why:
                self._live.discard(channel)
            elif channel not in kept and channel.deadline < now:
                self._live.discard(channel)
                channel.drop(f"{channel.step}: no answer in time")

    async def close(self) -> None:
        """End every connection and every attempt at one."""
        while self._opening:
            # Once is not always enough: before Python 3.12, asyncio.wait_for
            # swallows it if the connection is made at that very moment.
            for task in self._opening:
                task.cancel()
            await asyncio.wait(self._opening, timeout=0.05)
        for channel in list(self._live):
            self._end(channel)
        self._idle.clear()

    def _end(self, channel: Channel) -> None:
        self._live.discard(channel)
        if channel.usable:
            channel.quit()
        else:
            channel.discard()

    async def _open(self, on_channel: OnChannel, on_failure: OnFailure) -> None:
        breaker, place = self._breaker, str(self.settings)
        attempt = breaker.admit(self.now())
        if attempt is Attempt.FORBIDDEN:
            on_failure("breaker", f"not tried again yet: {self.trouble}")
            return
        client = self._client()
        try:
            await client.connect()
            # uvloop's transports are not registered as asyncio's.
            transport = cast(asyncio.Transport | None, client.transport)
            if transport is None or transport.is_closing():
                raise ConnectionError("the backend closed the connection")
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            breaker.failed(attempt, self.now())
            self.up = False
            self.trouble = f"connect: {error}"
            on_failure("connect", self.trouble)
            return
        except asyncio.CancelledError:
            breaker.abandoned(attempt)
            raise
        breaker.succeeded()
        self.up = True
        self.trouble = ""
        channel = Channel(client, transport, self.now())
        if place != str(self.settings):  # another one, while it was opened
            channel.used = _USES_MAX
        self._live.add(channel)
        on_channel(channel)

    def _client(self) -> aiosmtplib.SMTP:
        settings = self.settings
        return aiosmtplib.SMTP(
            hostname=None if settings.path else settings.host,
            port=None if settings.path else settings.port,
            socket_path=settings.path or None,
            timeout=settings.connect_timeout,
            # Else the library asks the resolver for our name, in a thread.
            local_hostname=self.hostname.decode("ascii", "replace"),
            start_tls=settings.context is not None and settings.starttls,
            use_tls=settings.context is not None and not settings.starttls,
            tls_context=settings.context,
        )
