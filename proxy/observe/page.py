"""The status page as HTML: whole without scripts, alive with one.

Knows: what is worth seeing, and in which order.  Knows not: HTTP, or how any of it
came about.  Called by :mod:`proxy.observe.status`.

Everything that others sent is escaped.  The page takes nothing from elsewhere; its
one script (``style``), named by its hash in the policy, only fetches the page again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from proxy.observe.history import SLOT_SECONDS, Numbers, Slot
from proxy.observe.lines import visible
from proxy.observe.metrics import Metrics
from proxy.observe.recent import Counts, Refusal, Seen
from proxy.observe.style import PAGE, SCRIPT, STYLE


class StatusInfo(NamedTuple):
    """What the service tells of itself.

    ``relaying`` is whether the backend relays for us, in words; ``warning``
    what is wrong although it serves; ``more_backends`` are those after the
    first, with their states; ``configured`` is when the configuration was read, in
    seconds since 1970, 0 if unknown.
    """

    version: str
    mode: str
    addresses: tuple[str, ...]
    backend: str
    backend_state: str
    configuration: str = "as at the start"
    relaying: str = "not asked"
    warning: str = ""
    more_backends: tuple[tuple[str, str], ...] = ()
    configured: float = 0.0


class Explained(NamedTuple):
    """What RCPT would be answered to ``address``, and the steps to it: where, what."""

    address: str
    verdict: str
    reply: str
    rule: str
    reason: str
    steps: Sequence[tuple[str, str]]


class Shown(NamedTuple):
    """All that is on the page, as it is ``now`` (seconds since 1970).  The numbers of
    days count ``since`` then; ``kept``: over restarts."""

    info: StatusInfo
    metrics: Metrics
    seen: Seen
    slots: Sequence[Slot]
    today: Numbers
    month: Numbers
    not_ready: str
    now: float
    since: float = 0.0
    kept: bool = False


def page(shown: Shown, explained: Explained | None = None) -> str:
    """The whole page."""
    return PAGE.format(
        style=STYLE,
        script=SCRIPT,
        live=_live(shown),
        asked=escape(explained.address) if explained else "",
        explained=_explained(explained),
    )


def _live(shown: Shown) -> str:
    """What changes by itself."""
    seen = shown.seen
    return "\n".join(
        [
            _header(shown),
            _tiles(shown),
            _card("Recipients in the last 24 hours", _chart(shown.slots)),
            '<div class="pair">',
            _card("Unknown recipients, most wanted", _counts(seen.recipients)),
            _card("Sources of refusals", _counts(seen.clients)),
            "</div>",
            _card("Last refusals", _refusals(seen.refusals)),
            '<div class="pair">',
            _card("Service", _facts(_service(shown))),
            _card("Limits hit", _counts(_limits(shown.metrics))),
            "</div>",
        ]
    )


def _header(shown: Shown) -> str:
    info = shown.info
    if shown.not_ready:
        state = f'<span class="state bad">not ready: {_text(shown.not_ready)}</span>'
    else:
        state = '<span class="state good">ready</span>'
    parts = [f"<h1>qmail-backstop</h1> {state}"]
    if info.mode == "observe":
        parts.append('<span class="state warn">observe mode: nothing is refused</span>')
    if info.warning:
        parts.append(f'<span class="state warn">warning: {_text(info.warning)}</span>')
    return f"<header>{' '.join(parts)}</header>"


def _tiles(shown: Shown) -> str:
    observing = shown.info.mode == "observe"
    prevented = "would have been prevented" if observing else "prevented"
    prevented = f"bounces {prevented}"
    metrics = shown.metrics
    tiles = [
        (shown.today.refused, f"{prevented} today"),
        (shown.month.refused, f"{prevented} in 31 days"),
        *_leaks(shown),
        (shown.today.accepted, "recipients let in today"),
        (shown.today.deferred, "recipients deferred today"),
        (metrics.sessions, "sessions open"),
    ]
    cards = "".join(
        f'<div class="card"><b>{number:,}</b> {text}</div>' for number, text in tiles
    )
    since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(shown.since))
    whence = "kept over restarts" if shown.kept else "the last start"
    return (
        f'<div class="tiles">{cards}</div>\n'
        f'<p class="soft">Counted since {since} UTC, {whence}; days are UTC.</p>'
    )


def _leaks(shown: Shown) -> list[tuple[int, str]]:
    """Where qmail-send's log is watched."""
    leaked = shown.month.leaked
    watched = leaked or shown.metrics.leakwatch()
    return [(leaked, "bounces this host still sent in 31 days")] if watched else []


def _card(title: str, content: str) -> str:
    return f'<section class="card"><h2>{title}</h2>\n{content}\n</section>'


# The picture: a bar for ten minutes, refused above let in.

_WIDTH, _HEIGHT, _TOP, _BOTTOM = 720, 160, 4, 20


def _chart(slots: Sequence[Slot]) -> str:
    if not any(slot.numbers.refused or slot.numbers.accepted for slot in slots):
        return _NONE
    most = max(1, *(sum(slot.numbers[:2]) for slot in slots))
    refused = sum(slot.numbers.refused for slot in slots)
    accepted = sum(slot.numbers.accepted for slot in slots)
    label = f"{refused} recipients refused, {accepted} let in; at most {most} in 10 min"
    base = _HEIGHT - _BOTTOM
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">',
            *_bars(slots, most),
            f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/>',
            *_hours(slots),
            "</svg>",
            '<p class="soft"><span class="key r"></span> refused'
            f' <span class="key a"></span> let in; at most {most:,} in'
            f" {SLOT_SECONDS // 60} minutes; times are UTC</p>",
        ]
    )


def _bars(slots: Sequence[Slot], most: int) -> Iterable[str]:
    room = _HEIGHT - _TOP - _BOTTOM
    step = _WIDTH / len(slots)
    for number, (began, numbers) in enumerate(slots):
        if not (numbers.refused or numbers.accepted):
            continue
        red, blue = (room * n / most for n in numbers[:2])
        base = _HEIGHT - _BOTTOM - blue
        x, width = f"{number * step:.1f}", f"{step - 1:.1f}"
        title = f"{_clock(began)}: {numbers.refused} refused, {numbers.accepted} let in"
        yield (
            f"<g><title>{title}</title>"
            f'<rect class="a" x="{x}" y="{base:.1f}" width="{width}"'
            f' height="{blue:.1f}"/>'
            f'<rect class="r" x="{x}" y="{base - red:.1f}" width="{width}"'
            f' height="{red:.1f}"/></g>'
        )


def _hours(slots: Sequence[Slot]) -> Iterable[str]:
    step = _WIDTH / len(slots)
    for number, slot in enumerate(slots):
        if slot.began % (4 * 3600) == 0 and 10 < number * step < _WIDTH - 20:
            x = f"{number * step:.0f}"
            place = f'x="{x}" y="{_HEIGHT - 5}" text-anchor="middle"'
            yield f"<text {place}>{_clock(slot.began)}</text>"


def _clock(when: float) -> str:
    return time.strftime("%H:%M", time.gmtime(when))


# Tables.


def _counts(counts: Counts) -> str:
    if not counts:
        return _NONE
    rows = (
        f'<tr><td>{_name(name, 60)}</td> <td class="n">{number:,}</td></tr>'
        for name, number in counts
    )
    return f"<table>{''.join(rows)}</table>"


def _limits(metrics: Metrics) -> Counts:
    found = [(key[0], number) for key, number in metrics.limits_hit.items() if number]
    found += [
        (f"turned away: {key[0]}", number)
        for key, number in metrics.turned_away.items()
        if number
    ]
    return sorted(found, key=lambda item: -item[1])


def _service(shown: Shown) -> list[tuple[str, str]]:
    info, metrics = shown.info, shown.metrics
    configuration = info.configuration
    if info.configured:
        configuration += f", {_duration(shown.now - info.configured)} old"
    return [
        ("version", info.version),
        ("mode", info.mode),
        ("up for", _duration(shown.now - metrics.started)),
        ("listening on", ", ".join(info.addresses) or "nothing"),
        ("backend", f"{info.backend} ({info.backend_state})"),
        *(("backend", f"{name} ({state})") for name, state in info.more_backends),
        ("configuration", configuration),
        ("backend relaying", info.relaying),
        ("leak watch", "reads" if metrics.leakwatch() else "nobody looks"),
        ("since its start", _since_start(metrics)),
    ]


def _since_start(metrics: Metrics) -> str:
    refused, accepted = metrics.answered("reject"), metrics.answered("accept")
    return (
        f"{metrics.connections:,} connections; recipients: {refused:,} refused,"
        f" {accepted:,} let in, {metrics.answered('defer'):,} deferred"
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = (
        f'<tr><th scope="row">{name}</th> <td>{_text(value)}</td></tr>'
        for name, value in facts
    )
    return f'<table class="facts">{"".join(rows)}</table>'


_COLUMNS = ("time (UTC)", "client", "recipient", "rule", "reason")


def _refusals(refusals: Sequence[Refusal]) -> str:
    if not refusals:
        return _NONE
    head = " ".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    rows = "\n".join(map(_refusal, refusals))
    return f'<table class="last"><tr>{head}</tr>\n{rows}</table>'


def _refusal(refusal: Refusal) -> str:
    when = time.strftime("%m-%d %H:%M:%S", time.gmtime(refusal.when))
    reason = refusal.reason + (" (let pass: observe mode)" if refusal.observed else "")
    cells = [
        *(_text(when), _text(refusal.client), _name(refusal.recipient, 120)),
        *(_text(refusal.rule), _text(reason)),
    ]
    # The blanks are for browsers that know no tables.
    return f"<tr>{' '.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


_COLOURS = {"accept": "good", "reject": "bad", "defer": "warn"}


def _explained(explained: Explained | None) -> str:
    if explained is None:
        return '<div id="explained"></div>'
    colour = _COLOURS.get(explained.verdict, "soft")
    steps = "".join(
        f"<tr><td>{_text(where)}</td> <td>{_text(note)}</td></tr>"
        for where, note in explained.steps
    )
    return (
        f'<div id="explained"><p><span class="state {colour}">'
        f"{_text(explained.verdict)}</span> {_text(explained.reply)}<br>"
        f'<span class="soft">{_text(explained.address)}: {_text(explained.reason)}'
        f" (rule {_text(explained.rule)})</span></p>"
        f'<table class="steps">{steps}</table></div>'
    )


_NONE = '<p class="soft">None yet.</p>'


def _name(value: str, most: int) -> str:
    """A foreign name; of a long one both ends, and all of it in a tip."""
    if len(value) <= most:
        return _text(value)
    cut = f"{value[: most // 2]} ... {value[-most // 3 :]}"
    return f'<span title="{_text(value)}">{_text(cut)}</span>'


def _text(value: str) -> str:
    """Foreign text: one line, nothing of it is markup."""
    return escape(visible(value))


def _duration(seconds: float) -> str:
    """The two largest units."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute} min"
    return f"{minute} min {second} s" if minutes else f"{second} s"
