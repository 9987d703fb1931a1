"""The log: events become lines on standard error.

Knows: batching, a stream that fails or stands still, levels.  Knows not: how a
line looks (``lines``), who makes events.  Made by the service, called as an
``Observer`` by every stage.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from proxy.observe.bridge import LoggingHandler, unraisable
from proxy.observe.events import Event, Notice
from proxy.observe.lines import LEVELS, Form, Formatter, Level, level_of
from proxy.observe.stream import Output, Stream

Schedule = Callable[[Callable[[], None]], object]
"""Calls back soon, e.g. ``loop.call_soon``."""

QUEUE_MAX = 1 << 20
"""Bytes of lines that wait for the stream; further lines are lost."""
_EVENTS_MAX = 500  # that wait to become lines


class Logger:
    """An ``Observer`` that writes lines.

    ``schedule`` is called with :meth:`flush` when something happened and nothing
    waits yet, so that the lines of some time are made and written together,
    which is cheaper; without it, every line is written at once.  When the
    stream takes no more, up to :data:`QUEUE_MAX` bytes of lines are kept, and
    it is tried again with later lines, or whenever :meth:`flush` is called; when
    it has taken what was kept, one line tells how many were lost.  For one
    thread; where others log, ``schedule`` must be ``call_soon_threadsafe``.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        form: Form = "logfmt",
        level: Level = "info",
        schedule: Schedule | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._output = Output(stream)
        self._formatter = Formatter(form)
        self._threshold = LEVELS[level]
        self._schedule = schedule
        self._now = now
        self._events: list[tuple[float, Event]] = []  # not lines yet
        self._lines: list[str] = []
        self._rest = b""  # what the stream has not taken; may begin in a line
        self._queued = 0
        self._scheduled = False
        self._failed: float | None = None
        self._untold = 0
        self._handler: LoggingHandler | None = None
        self.lost = 0

    def __call__(self, event: Event) -> None:
        """Queue the event's line."""
        if level_of(event) >= self._threshold:
            self._add(event)

    def notice(self, level: str, text: str) -> None:
        """Queue a line about the service itself."""
        self(Notice(level, text))

    def flush(self) -> None:
        """Write what is queued, as far as the stream takes it."""
        self._scheduled = False
        self._make_lines()
        self._write()

    def _write(self) -> None:
        data = self._rest + "".join(self._lines).encode("ascii")
        self._lines.clear()
        taken = self._output.write(data)
        self._rest = data[taken:]
        self._queued = len(self._rest)
        if self._rest:
            self._failed = self._now()
            return
        self._failed = None
        if self._untold:
            text = f"{self._untold} log lines were lost"
            self._untold = 0
            # Past the level: it is about the other lines.
            self._add(Notice("warning", text))

    def capture_logging(self) -> None:
        """Take what libraries log or warn about, until :meth:`close`."""
        if self._handler is None:
            self._handler = LoggingHandler(self.notice)
            logging.getLogger().addHandler(self._handler)
            logging.captureWarnings(True)
            sys.unraisablehook = unraisable

    def close(self) -> None:
        """Write what is left; later lines are written one by one."""
        if self._handler is not None:
            logging.captureWarnings(False)
            sys.unraisablehook = sys.__unraisablehook__
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        self._schedule = None
        self.flush()

    def _add(self, event: Event) -> None:
        self._events.append((self._now(), event))
        if len(self._events) >= _EVENTS_MAX:
            self._make_lines()
        if not self._scheduled:
            self._plan()

    def _make_lines(self) -> None:
        events, self._events = self._events, []
        line_of = self._formatter.line
        for when, event in events:
            line = line_of(event, when)
            size = len(line)
            if self._queued + size > QUEUE_MAX and self._failed is None:
                self._write()
            if self._queued + size > QUEUE_MAX:
                self._untold += 1
                self.lost += 1
            else:
                self._lines.append(line)
                self._queued += size

    def _plan(self) -> None:
        failed = self._failed
        # abs(): a clock that was set back must not end all trying.
        if failed is not None and abs(self._now() - failed) < self._output.patience:
            return
        if self._schedule is not None:
            try:
                self._schedule(self.flush)
            except RuntimeError:  # the loop is closed
                pass
            else:
                self._scheduled = True
                return
        self.flush()
