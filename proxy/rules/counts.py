"""Counts of what vpopmail's domains and mailboxes have, kept and made again in time.

Knows: how old a count may be, and that counting must cost the sessions nothing.  Knows
not: what is counted (:mod:`proxy.qmail.usage`).  Used by ``needs``.

A domain may have millions of messages, and the disk may be slow.  So it is counted in
a thread, one after the other, which rests as long as it has worked; nobody waits for
it longer than for a database; and each is counted for a tenth of the time at most.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.qmail.errors import CannotTell
from proxy.qmail.questions import AskCount, Kind, NoAnswer, Stored
from proxy.qmail.usage import Count, Counted
from proxy.qmail.view import FileView
from proxy.qmail.walk import Identity
from proxy.rules.slices import SLICE

AGE = 60.0
"""Seconds for which a count is good enough to let mail in."""

SURE_AGE = 2.0
"""Seconds for which it is good enough to refuse mail."""

SHARE = 10.0
"""And so many times as long as counting took."""

_RUNNING_MAX = 1000
_RECORDS_MAX = 10_000
_MAILBOXES_MAX = 100_000  # of all records, some 250 bytes each


class _Subject(NamedTuple):
    directory: bytes
    kind: Kind
    identity: Identity


@dataclass(slots=True)
class _Record:
    """The last count of something; ``failed`` says why there was none."""

    stored: Stored | None = None
    failed: str = ""
    at: float = 0.0
    took: float = 0.0
    mailboxes: dict[bytes, Counted] = field(default_factory=dict)

    def serves(self, now: float, *, sure: bool) -> bool:
        """Whether it need not be made again now."""
        if self.stored is None and not self.failed:
            return False
        age = SURE_AGE if sure else AGE
        return now - self.at <= max(age, SHARE * self.took)

    def answer(self) -> Stored | NoAnswer:
        return NoAnswer(self.failed) if self.stored is None else self.stored


class _Closed(Exception):
    """Nobody wants to know any more."""


class Counts:
    """What there is, by the last count that is fresh enough."""

    def __init__(
        self,
        view: FileView,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``timeout``: seconds for which a question waits for a count."""
        self._view = view
        self._timeout = timeout
        self._clock = clock
        self._records: dict[_Subject, _Record] = {}
        self._mailboxes = 0
        self._running: dict[_Subject, asyncio.Future[_Record]] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    async def ask(self, question: AskCount) -> Stored | NoAnswer:
        """The count, or that there is none; raises nothing."""
        subject = _Subject(question.directory, question.kind, question.identity)
        record = self._records.get(subject)
        if record is not None and record.serves(self._clock(), sure=question.sure):
            return record.answer()
        running = self._running.get(subject) or self._begun(subject)
        if running is None:
            return NoAnswer("too much is being counted")
        await asyncio.wait({running}, timeout=self._timeout)
        if not running.done():
            where = os.fsdecode(subject.directory)
            return NoAnswer(f"{where}: not counted within {self._timeout:g} s")
        return running.result().answer()

    def _begun(self, subject: _Subject) -> asyncio.Future[_Record] | None:
        if self._closed.is_set() or len(self._running) >= _RUNNING_MAX:
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "count")
        before = self._records.get(subject, _Record())
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._count, subject, before)
        self._running[subject] = running
        running.add_done_callback(lambda done: self._ended(subject, done))
        return running

    def _ended(self, subject: _Subject, running: asyncio.Future[_Record]) -> None:
        del self._running[subject]
        if running.cancelled():
            return
        self._forget(subject)
        record = self._records[subject] = running.result()
        self._mailboxes += len(record.mailboxes)
        while len(self._records) > _RECORDS_MAX or self._mailboxes > _MAILBOXES_MAX:
            self._forget(next(iter(self._records)))

    def _forget(self, subject: _Subject) -> None:
        record = self._records.pop(subject, None)
        if record is not None:
            self._mailboxes -= len(record.mailboxes)

    async def close(self) -> None:
        """Give up what is being counted."""
        self._closed.set()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    # From here on in the thread.

    def _count(self, subject: _Subject, before: _Record) -> _Record:
        began = self._clock()
        count = Count(
            self._view, subject.identity, before.mailboxes, _Rest(self._closed).pause
        )
        stored, failed = None, ""
        try:
            stored = count.all_of(subject.directory, subject.kind)
        except CannotTell as error:
            failed = str(error)
        except _Closed:
            failed = "no longer wanted"
        except Exception as error:  # whatever it is, it is no answer
            failed = f"{type(error).__name__}: {error}"
        now = self._clock()
        return _Record(stored, failed, now, now - began, count.kept)


class _Rest:
    """Half of the time is left to others."""

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed
        self._until = time.perf_counter() + SLICE

    def pause(self) -> None:
        """Called often; raises :class:`_Closed`."""
        if time.perf_counter() >= self._until:
            self._closed.wait(SLICE)
            self._until = time.perf_counter() + SLICE
        if self._closed.is_set():
            raise _Closed
