"""What was found, as one object: what ``--json`` prints, and the text shows.

Knows: names and shape of the document (docs/report.md).  Knows not: how it came
about.  Called by the report's command.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from proxy.observe.heavy import Heavy
from proxy.report.joined import Case, Cases, Joined
from proxy.report.tally import DIMENSIONS, GROUPS, Tally, merged

Document = dict[str, Any]


def document(tally: Tally, joined: Joined | None, top: int) -> Document:
    """Everything; tables have at most ``top`` rows, hours all that there are."""
    found: Document = {
        "from": _time(tally.first),
        "to": _time(tally.last),
        "recipients": {**tally.recipients, "undecided": tally.undecided},
        "messages": dict(sorted(tally.messages.items())),
        "message_bytes": tally.message_bytes,
        "sessions": _table(tally.sessions, top, "why"),
        "turned_away": _table(tally.turned_away, top, "limit"),
        "backend_failures": _table(tally.backend_failures, top, "step"),
        "backend_refused": _table(tally.backend_refusals, top, "reply"),
        "why": _worded(tally.why, top, ("outcome", "rule", "reason", "reply")),
        "messages_not_accepted": _worded(
            tally.failed_messages, top, ("outcome", "reply", "reason")
        ),
        "hours": _hours(tally),
    }
    for name in GROUPS:
        group = tally.groups[name]
        found[name] = {
            dimension: _table(group.by[dimension], top, dimension[:-1])
            for dimension in DIMENSIONS
        }
    if joined is not None:
        found["qmail"] = _qmail(joined, top)
    return found


def _qmail(joined: Joined, top: int) -> Document:
    ledger = joined.ledger
    return {
        "messages": {
            "accepted": joined.accepted,
            "found": ledger.found,
            "found_by_envelope": ledger.found_by_envelope,
            "not_found": max(joined.accepted - ledger.found, 0),
            "forgotten": ledger.forgotten,
            "others": ledger.foreign,
        },
        "deliveries": {
            outcome: joined.outcomes[outcome]
            for outcome in ("success", "failure", "deferral")
        },
        "bounces": {
            "of_ours": ledger.bounces_of_ours,
            "of_others": ledger.bounces_of_others,
        },
        "leaks": _cases(joined.leaks, top),
        "bounced_elsewhere": _cases(joined.leaks_remote, top),
        "false_refusals": _cases(joined.false_refusals, top),
        "false_deferrals": _cases(joined.false_deferrals, top),
        "suspects": _cases(joined.suspects, top),
        "not_through_us": {
            **_cases(joined.others, top),
            "by_origin": [
                {"origin": kind, "count": number}
                for kind, number in joined.by_kind.most_common(top)
            ],
        },
    }


def _cases(cases: Cases, top: int) -> Document:
    return {
        "total": cases.total,
        "ambiguous": cases.ambiguous,
        "rules": _worded(cases.rules, top, ("rule", "reason")),
        "recipients": _table(cases.recipients, top, "recipient"),
        "texts": _table(cases.texts, top, "text"),
        "last": [_case(case) for case in cases.last],
    }


def _case(case: Case) -> Document:
    return {
        "time": _time(case.when),
        "session": case.session,
        "client": case.client,
        "sender": case.sender.decode("latin-1"),
        "recipient": case.recipient.decode("latin-1"),
        "rule": case.rule,
        "reason": case.reason,
        "channel": case.channel,
        "delivered": case.delivered.decode("latin-1"),
        "text": case.text.decode("latin-1"),
        "ambiguous": case.ambiguous,
        "forwarded": case.forwarded,
    }


def _table(heavy: Heavy, top: int, name: str) -> Document:
    rows = [{name: v.decode("latin-1"), "count": n} for v, n in heavy.top(top)]
    return {**_sums(heavy), "rows": rows}


def _worded(heavy: Heavy, top: int, names: tuple[str, ...]) -> Document:
    rows: list[Document] = [
        {**dict(zip(names, words, strict=True)), "count": number}
        for words, number in merged(heavy.top(top))
    ]
    return {**_sums(heavy), "rows": rows}


def _sums(heavy: Heavy) -> Document:
    """``distinct`` is ``null`` and ``error`` above 0 where there were too many."""
    return {"total": heavy.total, "distinct": heavy.distinct, "error": heavy.error}


def _hours(tally: Tally) -> list[Document]:
    found: dict[int, Document] = {}
    for name in GROUPS:
        for value, number in tally.hours[name].items():
            row = found.setdefault(int(value), dict.fromkeys(GROUPS, 0))
            row[name] = number
    return [{"hour": _time(when), **row} for when, row in sorted(found.items())]


def _time(when: int | None) -> str | None:
    """RFC 3339, UTC."""
    if when is None:
        return None
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a TAI64N label of another age
        return None
