"""The backend as a place: its connections, made, kept for reuse, and ended.

Knows: which connections are open, which may be used again, whether the backend
answers.  Knows not: how one is made (``connect``), envelopes or messages.  Called
by ``link`` and ``question``; made by the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.backend.breaker import Attempt, Breaker
from proxy.backend.channel import Channel
from proxy.backend.client import Client
from proxy.backend.connect import Connector, NotConnected
from proxy.backend.ear import Say
from proxy.backend.program import NoPlace
from proxy.backend.reach import Reach
from proxy.backend.settings import BackendSettings, same_place
from proxy.backend.slots import Slots
from proxy.backend.startup_files import StartupFiles
from proxy.smtp.auth import offered_line
from proxy.smtp.reply import Reply

# A connection is not used for ever: leaks in old servers stay small.
_USES_MAX = 1000
_AGE_MAX = 600.0

# Idle connections kept, each for its own client, where ``kept`` is 0.
_KEPT_FOR_THEIR_OWN = 8

OnChannel = Callable[[Channel], None]
OnFailure = Callable[[str, str, Reply | None], None]
"""Gets the step (``connect``; ``breaker`` or ``connections`` where none was tried),
why, and the backend's refusal if it was the client who was refused for good."""


def say_nothing(level: str, text: str) -> None:
    """A :data:`~proxy.backend.program.Say` without a log."""


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
        say: Say = say_nothing,
    ) -> None:
        """``say`` hears what programs write to standard error."""
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
        self._reach = Reach(hostname, self.now, say)
        self._connector = Connector(self._reach, hostname, self.now)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_seconds)
        self._slots = Slots(settings.connections)
        self._retired = False
        self._files = StartupFiles(settings.startup_files)
        self._reloads = 0

    def __str__(self) -> str:
        return str(self.settings)

    @property
    def resting(self) -> bool:
        """Whether it is left in peace, after too many failures to connect."""
        return self._breaker.open

    @property
    def full(self) -> bool:
        """Whether somebody who wants a connection would have to wait."""
        settings = self.settings
        programs = self._programs - len(self._idle)  # those make room
        if settings.command and programs >= settings.command_concurrency:
            return True
        return not (self._idle or self._room)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._live)

    @property
    def busy(self) -> bool:
        """Whether anything is open, or being opened, or a program is there still."""
        return bool(self._live or self._opening or self._programs)

    def use(self, settings: BackendSettings) -> None:
        """Other settings from now on, or the same read anew: no connection of before
        serves a further transaction."""
        self._reloads += 1
        self._end_idle()
        if not same_place(settings, self.settings):
            self.up, self.trouble, self.auth_offered = None, "", b""
            self._breaker.forget()
        if settings.startup_files != self.settings.startup_files:
            self._files = StartupFiles(settings.startup_files)
        self._breaker.configure(settings.breaker_failures, settings.breaker_seconds)
        self._slots.limit = settings.connections
        self.settings = settings
        if not settings.learn_auth:
            self.auth_offered = b""
        self._serve_waiting()

    def heard(self, ehlo: Reply) -> None:
        """An answer to EHLO, from the place that is used now."""
        if self.settings.learn_auth:
            self.auth_offered = offered_line(ehlo.lines[1:])

    def retire(self) -> None:
        """It is not configured any more: what is under way is finished, and no
        connection serves a further session."""
        self._retired = True
        self._end_idle()

    def reuse(self, client: Client | None) -> Channel | None:
        """An idle connection that is still good for ``client``, if there is one."""
        if not self._idle:
            return None
        self._end_unfit(self.settings.kept_seconds)
        for channel in reversed(self._idle):
            if not self._unshared or channel.client is client:
                self._idle.remove(channel)
                channel.deadline = float("inf")
                return channel
        return None

    def forsake(self, client: Client) -> None:
        """``client`` wants no connection again that nobody else may have."""
        if self._unshared:
            for channel in self._idle.copy():
                if channel.client is client:
                    self._idle.remove(channel)
                    self._end(channel)
            self._serve_waiting()

    def open(
        self, client: Client | None, on_channel: OnChannel, on_failure: OnFailure
    ) -> asyncio.Task[None]:
        """Make a new connection on behalf of ``client``, ``None`` for our own
        questions; one of the two is called when it is done.

        The task may be cancelled; then neither is, unless it is too late.
        """
        settings = self.settings
        if settings.command and self._programs >= settings.command_concurrency:
            self._end_oldest()
        if self._slots.limit:
            work = self._open_in_turn(client, on_channel, on_failure)
        else:
            work = self._open(client, on_channel, on_failure)
        task = self._loop.create_task(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    def release(self, channel: Channel, client: Client | None = None) -> None:
        """Give back a connection with which nothing is under way.  One that nobody
        else may have is kept if ``client``, who had it, may come again."""
        channel.owner = None
        channel.used += 1
        young = channel.used < _USES_MAX and self.now() - channel.born < _AGE_MAX
        good = channel.usable and young and not (channel.private or self._retired)
        if self._unshared:
            good = good and client is not None and channel.client is client
        if good and len(self._idle) < (self.settings.kept or _KEPT_FOR_THEIR_OWN):
            # While it is idle, the time of its release.
            channel.deadline = self.now()
            self._idle.append(channel)
        else:
            self._end(channel)
        self._serve_waiting()

    def try_again(self) -> None:
        """Find out whether it is back, for nobody's message, if it is down and
        may be tried; called about once a second where there are several."""
        resting = self._breaker.open and not self._breaker.due(self.now())
        if self.up is False and not resting and not self._opening:
            self.open(None, self.finish, lambda *_: None)

    def finish(self, channel: Channel) -> None:
        """End a connection that is not to be used again, politely if it can be."""
        self._end(channel)
        self._serve_waiting()

    def discard(self, channel: Channel) -> None:
        """End a connection at once: what is on its way must not arrive."""
        channel.discard()
        self._live.discard(channel)
        self._serve_waiting()

    def sweep(self) -> None:
        """End what is overdue; called about once a second."""
        now = self.now()
        self._end_unfit(min(self.settings.kept_seconds, self.kept_at_most))
        kept = set(self._idle)
        for channel in list(self._live):
            if channel.lost_why:
                self._live.discard(channel)
            elif channel not in kept and channel.deadline < now:
                self._live.discard(channel)
                channel.drop(f"{channel.step}: no answer in time")
        self._reach.programs.sweep()
        self._serve_waiting()
        self._slots.give_up(now)

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
        await self._reach.programs.close()

    @property
    def _read(self) -> object:
        """What a connection that begins now reads; see ``Channel.read``."""
        return self._reloads, self._files.identity()

    @property
    def _unshared(self) -> bool:
        """Whether an idle connection is only for the client that had it before."""
        return self.settings.per_client or not self.settings.kept

    def _end_unfit(self, seconds: float) -> None:
        """End the idle ones that are not to be used again: none is that has been idle
        for ``seconds``, or began before a file changed that the backend reads then."""
        if not self._idle:
            return
        oldest, read = self.now() - seconds, self._read
        idle, self._idle = self._idle, []
        for channel in idle:
            good = channel.usable and channel.read == read
            if good and channel.deadline >= oldest:
                self._idle.append(channel)
            else:
                self._end(channel)

    def _end_oldest(self) -> None:
        if self._idle:
            self._end(self._idle.pop(0))

    def _end_idle(self) -> None:
        for channel in self._idle:
            self._end(channel)
        self._idle.clear()

    def _end(self, channel: Channel) -> None:
        self._live.discard(channel)
        if channel.usable:
            channel.quit()
        else:
            channel.discard()

    @property
    def _programs(self) -> int:
        return self._reach.programs.count

    # Inside: the cap.

    @property
    def _room(self) -> bool:
        slots = self._slots
        if not slots.limit:
            return True
        return slots.room(sum(not channel.lost_why for channel in self._live))

    async def _open_in_turn(
        self, client: Client | None, on_channel: OnChannel, on_failure: OnFailure
    ) -> None:
        """Where there is a cap: make one, or wait, and have one or make one."""
        slots = self._slots
        if self._make_room():
            slots.opening += 1
        else:
            limit, patience = slots.limit, self.settings.connection_wait
            waiting = slots.wait(client, self.now() + patience)
            try:
                if patience:
                    await asyncio.wait({waiting.granted})
            except asyncio.CancelledError:
                self._not_wanted(waiting.granted)
                raise
            if waiting.granted.cancelled() or not patience:
                waiting.granted.cancel()
                on_failure("connections", f"all {limit} connections are in use", None)
                return
            channel = waiting.granted.result()
            if channel is not None:
                on_channel(channel)
                return
        try:
            await self._open(client, on_channel, on_failure)
        finally:
            slots.opening -= 1
            self._serve_waiting()

    def _make_room(self) -> bool:
        """Whether one more may be made, if need be in an idle one's place."""
        if not self._room:
            self._end_oldest()
        return self._room

    def _not_wanted(self, granted: asyncio.Future[Channel | None]) -> None:
        """Who waited has left; perhaps in the moment of being served."""
        if granted.done() and not granted.cancelled():
            channel = granted.result()
            if channel is None:
                self._slots.opening -= 1
                self._serve_waiting()
            else:
                self.release(channel)
        granted.cancel()

    def _serve_waiting(self) -> None:
        """What has become free is for those who wait, in their order."""
        slots = self._slots
        while (waiting := slots.first()) is not None:
            channel = self.reuse(waiting.client)
            if channel is None:
                if not self._make_room():
                    return
                slots.opening += 1
            waiting.granted.set_result(channel)

    async def _open(
        self, client: Client | None, on_channel: OnChannel, on_failure: OnFailure
    ) -> None:
        breaker, settings = self._breaker, self.settings
        attempt = breaker.admit(self.now())
        if attempt is Attempt.FORBIDDEN:
            on_failure("breaker", f"not tried again yet: {self.trouble}", None)
            return
        read = self._read
        try:
            channel = await self._connector.connect(settings, client)
        except NoPlace as error:
            breaker.abandoned(attempt)  # the backend is there: too many of us
            on_failure("connections", str(error), None)
        except NotConnected as error:
            if error.there:
                breaker.succeeded()
            else:
                breaker.failed(attempt, self.now())
                self.up = False
                self.trouble = str(error)
            on_failure("connect", str(error), error.refusal)
        except asyncio.CancelledError:
            breaker.abandoned(attempt)
            raise
        else:
            breaker.succeeded()
            self.up = True
            self.trouble = ""
            channel.read = read
            channel.client = client
            self._live.add(channel)
            on_channel(channel)
