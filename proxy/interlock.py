"""The relay interlock: would qmail-smtpd relay for everybody who reaches it?

Knows: when to ask, what the answer means beside ``relay.trusted``, what is
said about it and how often.  Knows not: how it is asked
(:mod:`proxy.backend.probe`).  Made by the service, in one of its processes,
and called about once a second.

qmail decides about relaying by its client's address (RELAYCLIENT in tcp.smtp),
and behind a front door that address is ours.  A backend that trusts it relays
whatever we let through: then our own guard is the only one.  An answer changes
nothing about what is served; it is told.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.backend.pool import Backend
from proxy.backend.probe import Answer, Relaying, RelayProbe
from proxy.relaying import OPEN_REMEDY, State

FIRST_SECONDS = 2.0
"""After the start: qmail-smtpd may be started by the same hand, just now."""

RETRY_SECONDS = 30.0
"""After an answer that tells nothing, or less if the interval is less."""

OFF = "off"
"""The state when it is never asked."""

Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""


class Interlock:
    """Asks at the start, every ``interval`` seconds (0: never), and after
    :meth:`configure`.

    ``relays`` tells, each time that there is an answer, who may relay through us.
    A line is logged when the state is another one than before.
    """

    def __init__(
        self, backend: Backend, say: Say, interval: float, relays: Callable[[], State]
    ) -> None:
        self._backend = backend
        self._say = say
        self._interval = interval
        self._relays = relays
        self._clients = State()
        self._answer = Answer(Relaying.UNKNOWN, "not asked yet")
        self._said: tuple[Relaying, State, str] | None = None
        self._probe: RelayProbe | None = None
        self._due = backend.now() + FIRST_SECONDS

    @property
    def state(self) -> str:
        """One of :data:`STATES`."""
        return self._answer.relaying.value if self._interval else OFF

    @property
    def shown(self) -> str:
        """The state in words, for the status page."""
        if not self._interval:
            return "not asked (relay.interlock_interval is 0)"
        relaying, why = self._answer
        if relaying is Relaying.UNKNOWN:
            return f"unknown ({why})"
        words = "would relay for us" if relaying is Relaying.RELAYS else "would not"
        return f"{words} ({why})"

    @property
    def warning(self) -> str:
        """What is dangerous or useless as it is; ``""`` if nothing is."""
        level, text = self._words()
        known = self._answer.relaying is not Relaying.UNKNOWN
        bad = level == "warning" and (known or bool(self._clients.open))
        return text if bad and self._interval else ""

    def tick(self) -> None:
        """Ask if it is time."""
        if self._interval and self._probe is None and self._backend.now() >= self._due:
            self._probe = RelayProbe(self._backend, self._answered)

    def configure(self, interval: float, relays: Callable[[], State]) -> None:
        """Another configuration: ask again, and soon."""
        self.close()
        self._interval = interval
        self._relays = relays
        self._due = self._backend.now()

    def close(self) -> None:
        """Ask no more."""
        self._due = float("inf")
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()

    def _answered(self, answer: Answer) -> None:
        self._probe = None
        self._answer = answer
        self._clients = self._relays()
        wait = self._interval
        if answer.relaying is Relaying.UNKNOWN:
            wait = min(wait, RETRY_SECONDS)
        self._due = self._backend.now() + wait
        news = (answer.relaying, self._clients, str(self._backend.settings))
        if news != self._said:
            self._said = news
            self._say(*self._words())

    def _words(self) -> tuple[str, str]:
        """Level and text for the log."""
        relaying, why = self._answer
        if self._clients.open:
            return "warning", f"interlock: {self._clients.open} ({OPEN_REMEDY})"
        # One that sees the client's address need not let ours.
        needed = self._clients.needed and not self._backend.settings.per_client
        backend = f"interlock: the backend {self._backend.settings}"
        if relaying is Relaying.UNKNOWN:
            return "warning", f"{backend} could not be asked whether it relays: {why}"
        if relaying is Relaying.RELAYS and needed:
            return "info", (
                f"{backend} relays for us, as clients that may relay need it ({why})"
            )
        if relaying is Relaying.RELAYS:
            return "warning", (
                f"{backend} would relay to any domain for us ({why}): only the front"
                " door keeps this host from being an open relay (take RELAYCLIENT for"
                " the front door's address out of tcp.smtp)"
            )
        if needed:
            return "warning", (
                f"{backend} does not relay for us ({why}): clients that may relay"
                " (relay.trusted, listen.tcprules) cannot send to other domains"
                " (set RELAYCLIENT for the front door's address in tcp.smtp)"
            )
        return "info", f"{backend} does not relay for us ({why})"
