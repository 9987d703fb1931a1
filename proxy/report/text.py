"""The document as text, for people.

Knows: tables, widths, words.  Knows not: how anything was counted.  Called by the
report's command.  Everything that a stranger sent is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.observe.lines import visible
from proxy.report.document import Document

_WIDEST = 60
_BAR = 30

_GROUPS = {
    "refused": "Refused",
    "deferred": "Deferred",
    "relayed": "Passed on",
}
_CASES = {
    "false_refusals": (
        "False refusals",
        "let pass in observe mode, would have been refused, and qmail delivered",
    ),
    "false_deferrals": (
        "False deferrals",
        "let pass in observe mode, would have been deferred, and qmail delivered",
    ),
    "leaks": ("Leaks", "passed on, and qmail failed to deliver: it sent a bounce"),
    "suspects": (
        "Refused, yet known to qmail",
        "refused, and within a day qmail delivered other mail to that address",
    ),
    "bounced_elsewhere": (
        "Bounced by other hosts",
        "relayed for clients that may, and another host refused it",
    ),
    "not_through_us": (
        "Not through the front door",
        "failures of mail that was queued in another way; none of ours",
    ),
}


def text(found: Document) -> Iterator[str]:
    """The lines; headings begin with ``#``."""
    yield from _summary(found)
    if "qmail" in found:
        yield from _qmail(found["qmail"])
    yield from _why(found)
    for name, title in _GROUPS.items():
        yield from _group(title, found[name], short=name == "relayed")
    yield from _hours(found)
    yield from _others(found)


def _summary(found: Document) -> Iterator[str]:
    yield f"# {found['from'] or '?'} to {found['to'] or '?'}"
    counts = found["recipients"]
    rows = [
        ("recipients passed on", counts["accepted"]),
        ("refused", counts["refused"]),
        ("would have been refused", counts["would_refuse"]),
        ("deferred", counts["deferred"]),
        ("would have been deferred", counts["would_defer"]),
        ("of those passed on, only the delivery could tell", counts["undecided"]),
    ]
    if "qmail" in found:
        rows.append(("leaks: bounces after all", found["qmail"]["leaks"]["total"]))
        rows.append(("false refusals", found["qmail"]["false_refusals"]["total"]))
    rows += [(f"messages {name}", n) for name, n in found["messages"].items()]
    yield from _aligned([(name, str(number)) for name, number in rows if number])


def _qmail(found: Document) -> Iterator[str]:
    messages, bounces = found["messages"], found["bounces"]
    yield ""
    yield "# With qmail-send's log"
    yield from _aligned(
        [
            ("messages that qmail took from us", str(messages["accepted"])),
            ("found in its log", str(messages["found"])),
            ("of these by sender and time only", str(messages["found_by_envelope"])),
            ("not found there", str(messages["not_found"])),
            ("deliveries that succeeded", str(found["deliveries"]["success"])),
            ("that failed", str(found["deliveries"]["failure"])),
            ("bounces sent for our messages", str(bounces["of_ours"])),
            ("for messages of others", str(bounces["of_others"])),
        ]
    )
    for name, (title, meaning) in _CASES.items():
        cases = found[name]
        if cases["total"] or name in ("false_refusals", "leaks"):
            yield ""
            yield f"# {title}: {cases['total']}"
            yield f"  {meaning}"
            yield from _cases(cases)


def _cases(cases: Document) -> Iterator[str]:
    if cases["ambiguous"]:
        yield f"  {cases['ambiguous']} could be for another recipient of the message"
    for row in cases["rules"]["rows"] if "by_origin" not in cases else ():
        rule, reason = _shown(row["rule"]), _shown(row["reason"])
        yield f"  {row['count']:>9}  rule {rule}: {reason}"
    for row in cases.get("by_origin", ()):
        yield f"  {row['count']:>9}  {_shown(row['origin'])}"
    for case in cases["last"]:
        who = f"<{_shown(case['sender'])}> to {_shown(case['recipient'])}"
        yield f"  {case['time'] or '?'} {who}"
        source = f"{case['session']} from {case['client']}: " if case["session"] else ""
        via = "forwarded to " if case["forwarded"] else ""
        unsure = " (or another recipient of it)" if case["ambiguous"] else ""
        where = f"{via}{case['channel']} {_shown(case['delivered'])}{unsure}"
        yield f"    {source}{where}"
        yield f"    {_shown(case['text'])}"


def _why(found: Document) -> Iterator[str]:
    words = {
        "accepted": "passed on",
        "would_refuse": "would refuse",
        "would_defer": "would defer",
    }
    rows = [
        (
            str(row["count"]),
            words.get(row["outcome"], row["outcome"]),
            row["rule"],
            row["reason"],
        )
        for row in found["why"]["rows"]
    ]
    yield from _section("Why", found["why"], ("", "", "rule", "reason"), rows)


def _group(title: str, group: Document, *, short: bool) -> Iterator[str]:
    for name, table in group.items():
        if table["total"] and not (short and name in ("recipients", "networks")):
            yield from _table(f"{title}, by {name[:-1]}", table)


def _table(title: str, table: Document) -> Iterator[str]:
    rows = []
    for row in table["rows"]:
        (value,) = (v for k, v in row.items() if k != "count")
        rows.append((str(row["count"]), str(value) or "(none)"))
    yield from _section(title, table, ("", ""), rows)


def _section(
    title: str, table: Document, head: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> Iterator[str]:
    if not rows and not table["error"]:
        return
    distinct = table["distinct"]
    of = f"{distinct} in all" if distinct is not None else "too many to count"
    if distinct is None or distinct > len(rows):
        title = f"{title} (the first {len(rows)}, {of})"
    yield ""
    yield f"# {title}"
    if table["error"]:
        yield f"  counts may be too low by up to {table['error']}"
    yield from _columns(rows)


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    shown = [[_shown(cell) for cell in row] for row in rows]
    widths = (
        [max(len(row[i]) for row in shown) for i in range(len(rows[0]))] if rows else []
    )
    for first, *middle in shown:
        cells = [
            cell.ljust(width) for cell, width in zip(middle, widths[1:], strict=True)
        ]
        yield f"  {first:>9}  {'  '.join(cells)}".rstrip()


def _aligned(rows: list[tuple[str, str]]) -> Iterator[str]:
    yield from (f"  {value:>9}  {name}" for name, value in rows)


def _hours(found: Document) -> Iterator[str]:
    hours = found["hours"]
    if not hours:
        return
    yield ""
    yield "# By hour (UTC): passed on, refused, deferred"
    most = max(row["refused"] for row in hours) or 1
    for row in hours:
        when = row["hour"] or "?"
        bar = "#" * round(_BAR * row["refused"] / most)
        counts = f"{row['relayed']:>9} {row['refused']:>9} {row['deferred']:>9}"
        yield f"  {when[:13].replace('T', ' ')}h {counts}  {bar}".rstrip()


def _others(found: Document) -> Iterator[str]:
    for name, title in (
        ("messages_not_accepted", "Messages that were not accepted"),
        ("backend_refused", "Recipients that the backend refused, by its reply"),
        ("turned_away", "Connections turned away, by limit"),
        ("backend_failures", "Backend failures, by step (the log has a quota)"),
        ("sessions", "Sessions, by their end"),
    ):
        table = found[name]
        if name == "messages_not_accepted":
            rows = [
                (str(r["count"]), r["outcome"], r["reply"], r["reason"])
                for r in table["rows"]
            ]
            yield from _section(title, table, (), rows)
        else:
            yield from _table(title, table)


def _shown(value: str) -> str:
    shown = visible(value)
    return shown if len(shown) <= 2 * _WIDEST else shown[: 2 * _WIDEST] + "..."
