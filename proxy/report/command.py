"""``backstop report``: what happened, from our logs and qmail-send's.

Knows: in which order the logs are read, how it is shown and how far it is.  Knows
not: lines, counting.  Called by ``cli``.  Files are only read; the configuration is
not asked.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from proxy.report import our_log, qmail_log
from proxy.report.document import Document, document
from proxy.report.joined import Joined
from proxy.report.sources import Advance, Source, SourceError, in_order, sources
from proxy.report.stamp import Clock, read_moment
from proxy.report.tally import Tally, Wanted
from proxy.report.text import text

GOOD, NOTHING, USAGE = 0, 1, 2
_AHEAD_SECONDS = 120
"""How far ahead of qmail-send's log ours is read: its line may be the later one."""
_FIRST = 1 << 16


class UsageError(Exception):
    """What was asked for makes no sense; the text says why."""


@dataclass(frozen=True)
class Asked:
    """The command line."""

    logs: Sequence[str]
    qmail_logs: Sequence[str] = ()
    top: int = 10
    since: str = ""
    until: str = ""
    domain: str = ""


def run(asked: Asked, *, as_json: bool) -> int:
    """Read and print; the exit status: 0, 1 if a log cannot be read, nothing of
    ours is in it or none of our messages in qmail-send's, 2 for a usage error."""
    try:
        found = report(asked, progress=_progress)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except SourceError as error:
        sys.stderr.write(f"{error}\n")
        return NOTHING
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        _show(text(found))
    sys.stdout.flush()
    if why := _nothing(found):
        sys.stderr.write(f"{why}\n")
        return NOTHING
    return GOOD


def _nothing(found: Document) -> str:
    """Why it tells nothing, so that nobody takes it for good news."""
    if not any(found["recipients"].values()) and not found["sessions"]["total"]:
        return "no line of ours is in there, or in that time (log.level must be info)"
    messages = found["qmail"]["messages"] if "qmail" in found else None
    if messages and messages["accepted"] and not messages["found"]:
        return (
            f"none of our {messages['accepted']} messages is in qmail-send's log: it is"
            " another one, or of another time; that there are no errors says nothing"
        )
    return ""


Progress = Callable[[int], AbstractContextManager[Advance]]
"""Given all the bytes that there are to read."""


def _no_progress(total: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _: None)


def report(asked: Asked, *, progress: Progress = _no_progress) -> Document:
    """Read everything; raises :class:`UsageError` or :class:`SourceError`."""
    clock = Clock()
    wanted = Wanted(
        _moment("--since", asked.since, clock),
        _moment("--until", asked.until, clock),
        asked.domain.encode("latin-1", "replace").lower(),
    )
    ours, theirs = sources(asked.logs), sources(asked.qmail_logs)
    if {"-"} <= {each.path for each in ours} & {each.path for each in theirs}:
        raise UsageError("-: standard input can be one of the two logs only")
    tally = Tally(wanted, clock)
    joined = Joined(tally, last=asked.top) if theirs else None
    with progress(sum(each.size for each in (*ours, *theirs))) as advance:
        own = _blocks(in_order(ours, _first_of_ours(clock)), advance)
        if joined is None:
            for block in own:
                tally.add(b"\n" + block)
        else:
            qmails = in_order(theirs, _first_of_qmails(clock))
            _together(joined, tally, own, _blocks(qmails, advance))
    return document(tally, joined, asked.top)


def _moment(option: str, value: str, clock: Clock) -> int | None:
    if not value:
        return None
    try:
        return read_moment(value, clock)
    except ValueError:
        raise UsageError(
            f"{option}: {value!a} is no time: 2026-11-24, 2026-11-24T14:00 (UTC),"
            " 90m, 24h or 7d"
        ) from None


def _blocks(given: Iterable[Source], advance: Advance) -> Iterator[bytes]:
    for source in given:
        if source.path == "-" and sys.stdin.isatty():
            sys.stderr.write("reading a log from the terminal; Ctrl-D ends it\n")
        yield from source.blocks(advance)


def _together(
    joined: Joined, tally: Tally, ours: Iterator[bytes], theirs: Iterator[bytes]
) -> None:
    """Both logs in about the order of time, ours a little ahead, so that few
    messages are waiting for their other half at a time."""
    last = _last_of_qmails(tally.clock)
    for block in theirs:
        then = last(block)
        while then is None or (joined.last_time or 0) < then + _AHEAD_SECONDS:
            own = next(ours, None)
            if own is None:
                break
            joined.ours(tally.add(b"\n" + own))
        qmail_log.feed(block, joined.ledger)
    for own in ours:
        joined.ours(tally.add(b"\n" + own))


def _first_of_ours(clock: Clock) -> Callable[[bytes], int | None]:
    def first(block: bytes) -> int | None:
        for row in our_log.rows(b"\n" + block[:_FIRST]):
            return clock.seconds(row[our_log.TIME] or row[our_log.HEAD])
        return None

    return first


def _first_of_qmails(clock: Clock) -> Callable[[bytes], int | None]:
    return lambda block: qmail_log.first_time(block[:_FIRST], clock)


def _last_of_qmails(clock: Clock) -> Callable[[bytes], int | None]:
    """Of the lines near the end of a block."""

    def last(block: bytes) -> int | None:
        start = block.rfind(b"\n", 0, max(len(block) - 4096, 0)) + 1
        return qmail_log.last_time(block[start:], clock)

    return last


# For people.


def _show(lines: Iterable[str]) -> None:
    if not sys.stdout.isatty():
        for line in lines:
            sys.stdout.write(line.removeprefix("# ") + "\n")
        return
    from rich.console import Console

    # rich honours NO_COLOR.
    console = Console(highlight=False, markup=False, emoji=False)
    for line in lines:
        style = "bold" if line.startswith("# ") else None
        console.print(line.removeprefix("# "), style=style, soft_wrap=True)


def _progress(total: int) -> AbstractContextManager[Advance]:
    """A bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        return _no_progress(total)
    return _Bar(total or None)


class _Bar:
    """rich's progress bar, over bytes of the files."""

    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("report"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("report", total=total)
        self._shown = 0.0
        self._more = 0

    def __enter__(self) -> Advance:
        self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._progress.advance(self._task, self._more)
        self._progress.stop()

    def _advance(self, size: int) -> None:
        self._more += size
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            self._progress.advance(self._task, self._more)
            self._more = 0
