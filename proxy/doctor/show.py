"""Results for people and for programs, and how far we are.

Knows: terminals, by rich.  Knows not: what was examined.  Called by ``command``.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from proxy.doctor.result import GREEN, GREY, RED, YELLOW, Result, worst

Advance = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and of how much."""

_WORDS = {GREEN: "ok", GREY: "unknown", YELLOW: "look", RED: "mend"}
_STYLES = {GREEN: "green", GREY: "dim", YELLOW: "yellow", RED: "bold red"}


def show(results: Sequence[Result], *, as_json: bool) -> None:
    """Write them to standard output."""
    if as_json:
        found = [result.as_dict() for result in results]
        print(json.dumps({"level": worst(results), "results": found}, indent=2))
    elif sys.stdout.isatty():
        _table(results)
    else:
        for result in results:
            remedy = f" ({result.remedy})" if result.remedy else ""
            print(f"{result.level}: {result.subject}: {result.what}{remedy}")
        print(summary(results))


def summary(results: Sequence[Result]) -> str:
    """How it stands, in a line."""
    levels = [result.level for result in results]
    counts = ", ".join(
        f"{levels.count(level)} {level}"
        for level in (RED, YELLOW, GREY, GREEN)
        if level in levels
    )
    words = {RED: "something is to be mended", YELLOW: "something is to be looked at"}
    return f"{words.get(worst(results), 'all is well')}: {counts}"


def _table(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result in results:
        style = _STYLES[result.level]
        text = Text(result.what)
        if result.remedy:
            text.append("\n-> " + result.remedy, style="bold")
        table.add_row(Text(_WORDS[result.level], style=style), result.subject, text)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print(Text(summary(results), style=_STYLES[worst(results)]))


@contextlib.contextmanager
def progress() -> Iterator[Advance]:
    """A line on standard error, where that is a terminal: it is drawn by whoever
    advances, also by the child that asks as another user."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return

    def advance(what: str, done: int, total: int) -> None:
        count = f" {done} of {total}" if total > 1 else ""
        sys.stderr.write(f"\r\x1b[Kdoctor: {what}{count}")
        sys.stderr.flush()

    try:
        yield advance
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
