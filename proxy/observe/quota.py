"""No line is repeated without end: so many of a kind a minute, then a count.

Knows: kinds of lines, and which events a stranger, or a backend that is down,
can bring about as often as he likes.  Knows not: how a line looks.  The
service puts :class:`Limiter` before the log; ``bridge`` has a :class:`Quota` of
its own for libraries.  Metrics are counted without it: they have every one.

The lines of a session, a recipient and a message (``connect``, ``recipient``,
``message``, ``disconnect`` ...) are the record of what was done, and have no
limit here; what bounds them are the limits on sessions and recipients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from proxy.observe.events import (
    BackendFailed,
    Event,
    LimitHit,
    Notice,
    Observer,
    Turned,
)

WINDOW_SECONDS = 60.0
LINES_MAX = 60
"""Lines of one kind in one window."""

KINDS_MAX = 256
"""Kinds that are told apart in one window; further ones share one quota."""

Tell = Callable[[str], None]
"""Takes the text about what was left out."""


class Quota:
    """Counts lines of a kind; at most ``lines`` of each in a window.

    ``tell`` is called once for every kind that was over it, with the first
    line after the window or at :meth:`settle`.  ``now`` gives seconds.
    """

    def __init__(
        self,
        tell: Tell,
        *,
        lines: int = LINES_MAX,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._lines = lines
        self._now = now
        self._counts: dict[Hashable, int] = {}
        self._until = now() + WINDOW_SECONDS

    def admits(self, kind: Hashable) -> bool:
        """Whether one more line of ``kind`` may be written; counts it.

        ``str(kind)`` is what it is called when some were left out.
        """
        self.turn()
        counts = self._counts
        if kind not in counts and len(counts) >= KINDS_MAX:
            kind = "lines of other kinds"
        count = counts[kind] = counts.get(kind, 0) + 1
        return count <= self._lines

    def turn(self) -> None:
        """Begin a new window if the old one is over; called at any time."""
        now = self._now()
        if now >= self._until:
            self._until = now + WINDOW_SECONDS
            if self._counts:
                self.settle()

    def settle(self) -> None:
        """Tell what was left out so far."""
        counts, self._counts = self._counts, {}
        for kind, count in counts.items():
            if count > self._lines:
                self._tell(f"{count - self._lines} more lines left out: {kind}")


def _kind_of_backend_failed(event: BackendFailed) -> str:
    return f"backend-failed step={event.step}"


def _kind_of_limit(event: LimitHit) -> str:
    return f"limit limit={event.limit}"


def _kind_of_turned(event: Turned) -> str:
    return f"turned-away limit={event.limit}"


_KINDS: dict[type[Event], Callable[..., str]] = {
    BackendFailed: _kind_of_backend_failed,
    LimitHit: _kind_of_limit,
    Turned: _kind_of_turned,
}


class Limiter:
    """An ``Observer`` before another one, which it spares the repetitions."""

    def __init__(
        self, observer: Observer, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self._quota = Quota(self._left_out, now=now)

    def __call__(self, event: Event) -> None:
        """Pass it on, unless there were too many of its kind."""
        kind = _KINDS.get(type(event))
        if kind is None or self._quota.admits(kind(event)):
            self._observer(event)

    def notice(self, kind: str, level: str, text: str) -> None:
        """A :class:`Notice` that may come up for every recipient."""
        if self._quota.admits(kind):
            self._observer(Notice(level, text))

    def turn(self) -> None:
        """Tell what was left out in the window that is over, if it is."""
        self._quota.turn()

    def close(self) -> None:
        """Tell what was left out up to now."""
        self._quota.settle()

    def _left_out(self, text: str) -> None:
        self._observer(Notice("warning", text))
