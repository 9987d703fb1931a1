"""The backends as the service sees them: who is there, who relays, in words.

Knows: every backend and its interlock; what readiness, status page, metrics
and log say of them.  Knows not: how one is chosen (:mod:`proxy.backend.choice`)
or asked (:mod:`proxy.interlock`).  Made by the service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.backend.choice import Backends, Place
from proxy.backend.offers import Offers
from proxy.backend.offers import Say as OffersSay
from proxy.backend.pool import Backend
from proxy.backend.probe import Relaying
from proxy.interlock import OFF, Interlock, Say
from proxy.observe.metrics import BackendNumbers
from proxy.relaying import State


class Watch:
    """``say`` takes what is new for the log.  With one backend nothing is said
    of its coming and going beyond what failed messages say."""

    def __init__(self, backends: Backends, say: Say) -> None:
        self._backends = backends
        self._say = say
        self._down: set[Backend] = set()
        self._asking: tuple[float, Callable[[], State]] | None = None
        self._interlocks: dict[Backend, Interlock] = {}
        self._offers: list[Offers] = []
        self._hears: OffersSay | None = None

    # What happens.

    def ask(self, interval: float, relays: Callable[[], State]) -> None:
        """Have interlocks from now on, or other ones: see :class:`Interlock`."""
        before, self._interlocks = self._interlocks, {}
        self._asking = (interval, relays)
        for backend in self._backends:
            interlock = before.pop(backend, None)
            if interlock is None:
                interlock = Interlock(backend, self._say, interval, relays)
            else:
                interlock.configure(interval, relays)
            self._interlocks[backend] = interlock
        for interlock in before.values():
            interlock.close()

    def learn(self, say: OffersSay | None) -> None:
        """Know from now on what the backends that clients authenticate to offer;
        ``say`` hears of it, ``None`` where another process tells."""
        for offers in self._offers:
            offers.close()
        self._hears = say
        self._offers = [Offers(b, say) for b in self._backends.default.backends]

    def use(
        self, places: Sequence[Place], interval: float, relays: Callable[[], State]
    ) -> None:
        """Another configuration from now on."""
        self._backends.use(places)
        self._down &= set(self._backends)
        self.learn(self._hears)
        if self._asking is not None:
            self.ask(interval, relays)

    def tick(self, *, serving: bool) -> None:
        """Ask who is to be asked, and say what is new; about once a second."""
        if serving:
            for interlock in self._interlocks.values():
                interlock.tick()
            for offers in self._offers:
                offers.tick()
        if len(self._backends) > 1:
            for backend in self._backends:
                self._say_news(backend)

    def close(self) -> None:
        """Ask no more."""
        for interlock in self._interlocks.values():
            interlock.close()
        for offers in self._offers:
            offers.close()

    def _say_news(self, backend: Backend) -> None:
        if backend.up is False and backend not in self._down:
            self._down.add(backend)
            self._say("warning", f"backend {backend} is down: {backend.trouble}")
        elif backend.up and backend in self._down:
            self._down.discard(backend)
            self._say("info", f"backend {backend} is up again")

    # What is shown.

    def not_ready(self) -> str:
        """Which domains nobody serves, by what is known; ``""`` if there are
        none such."""
        for group in self._backends.groups:
            if not group.usable:
                return "; ".join(f"backend {b}: {b.trouble}" for b in group.backends)
        return ""

    def states(self) -> tuple[tuple[str, str], ...]:
        """A name and a line for each."""
        several = len(self._backends) > 1
        return tuple((str(b), _state(b, several=several)) for b in self._backends)

    def numbers(self) -> list[BackendNumbers]:
        """For metrics; backends of one address are added up."""
        found: dict[str, BackendNumbers] = {}
        for backend in self._backends:
            interlock = self._interlocks.get(backend)
            one = BackendNumbers(
                str(backend),
                backend.up is not False,
                backend.connections,
                interlock.state if interlock else OFF,
            )
            before = found.get(one.name)
            found[one.name] = before.with_another(one) if before else one
        return list(found.values())

    @property
    def interlock_state(self) -> str:
        """Of all: relays if one of them does."""
        states = {interlock.state for interlock in self._interlocks.values()}
        known = (Relaying.RELAYS, Relaying.UNKNOWN, Relaying.REFUSES)
        return next((each.value for each in known if each.value in states), OFF)

    @property
    def relaying(self) -> str:
        """Whether they relay for us, in words."""
        if len(self._interlocks) == 1:
            return next(iter(self._interlocks.values())).shown
        each = [f"{b}: {i.shown}" for b, i in self._interlocks.items()]
        return "; ".join(each) or "not asked"

    @property
    def warning(self) -> str:
        """What is wrong although mail is taken; ``""`` if nothing is."""
        warnings = [i.warning for i in self._interlocks.values() if i.warning]
        if len(self._backends) > 1:
            down = [b for b in self._backends if b.up is False]
            warnings += [f"backend {b} is down: {b.trouble}" for b in down]
        return "; ".join(warnings)


def _state(backend: Backend, *, several: bool) -> str:
    if backend.up is None:
        state = "not asked yet"
    else:
        state = "up" if backend.up else f"down: {backend.trouble}"
    if not several:
        return state
    return f"{state}; open connections: {backend.connections}"
