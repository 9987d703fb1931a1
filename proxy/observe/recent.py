"""The last refusals, and who is behind most of them.

Knows: which events are refusals.  Knows not: how they are shown.  An ``Observer``
of each worker; what all have seen is put together for the status page.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from proxy.observe.events import BackendRefusedRecipient, Event, RecipientDecided
from proxy.observe.heavy import Heavy
from proxy.observe.lines import visible

LAST, MOST = 20, 10
"""How many refusals, and how many names, are shown."""

AT_ONCE = 500
"""Refusals of one second that are counted by name."""


# Names that are counted, and bytes of a name.
_NAMES, _NAME = 1000, 128

Counts = list[tuple[str, int]]
"""Names, shown as in the log, with how often they came up at least."""


class Refusal(NamedTuple):
    """A recipient that was refused, or would have been (``observed``).  What
    strangers sent is escaped as in the log."""

    when: float
    client: str
    recipient: str
    rule: str
    reason: str
    observed: bool


class Seen(NamedTuple):
    """What there is to show: the newest refusal first."""

    refusals: Sequence[Refusal]
    recipients: Counts
    clients: Counts


class Recent:
    """An ``Observer`` that keeps the last refusals, and counts whom and from whom."""

    def __init__(
        self, limit: int = LAST, *, now: Callable[[], float] = time.time
    ) -> None:
        # Shown far more seldom than kept: a Refusal is made when it is shown.
        self._kept: deque[tuple[float, RecipientDecided | BackendRefusedRecipient]]
        self._kept = deque(maxlen=limit)
        self._now = now
        self._uncounted: list[RecipientDecided | BackendRefusedRecipient] = []
        self._recipients = Heavy(_NAMES)
        self._clients = Heavy(_NAMES)

    def __call__(self, event: Event) -> None:
        """Keep it, if it is one."""
        if isinstance(event, RecipientDecided):
            if event.verdict == "reject" or event.observed == "reject":
                self._keep(event)
        elif isinstance(event, BackendRefusedRecipient) and event.reply[:1] == "5":
            self._keep(event)

    def _keep(self, event: RecipientDecided | BackendRefusedRecipient) -> None:
        self._kept.append((self._now(), event))
        if len(self._uncounted) < AT_ONCE:
            self._uncounted.append(event)

    def count(self) -> None:
        """Count those that came since the last time; called once a second.

        No more than :data:`AT_ONCE` of them: in a flood a part tells as much.
        """
        events, self._uncounted = self._uncounted, []
        clients = Counter(event.client for event in events)
        encoded = {name.encode("latin-1", "replace"): n for name, n in clients.items()}
        self._clients.add(encoded)
        # A name is cut, so that the number of names bounds the memory.
        self._recipients.add(Counter(event.recipient[:_NAME] for event in events))

    def seen(self) -> Seen:
        """What this process has seen."""
        self.count()
        return Seen(
            [_refusal(when, event) for when, event in reversed(self._kept)],
            _named(self._recipients.top(MOST)),
            _named(self._clients.top(MOST)),
        )

    def snapshot(self) -> dict[str, Any]:
        """The same as plain values, for other processes."""
        return self.seen()._asdict()


def together(here: Seen, others: Iterable[Mapping[str, Any]]) -> Seen:
    """What all processes have seen, given their :meth:`Recent.snapshot`."""
    all_seen = [here]
    for other in others:
        refusals = [Refusal(*each) for each in other["refusals"]]
        recipients = [(name, n) for name, n in other["recipients"]]
        all_seen.append(
            Seen(refusals, recipients, [(name, n) for name, n in other["clients"]])
        )
    refusals = [refusal for seen in all_seen for refusal in seen.refusals]
    refusals.sort(key=lambda refusal: refusal.when, reverse=True)
    return Seen(
        refusals[:LAST],
        _added(seen.recipients for seen in all_seen),
        _added(seen.clients for seen in all_seen),
    )


def _named(counts: list[tuple[bytes, int]]) -> Counts:
    return [(visible(name), number) for name, number in counts]


def _added(lists: Iterable[Counts]) -> Counts:
    """The most frequent names of several lists."""
    total: Counter[str] = Counter()
    for counts in lists:
        total.update(dict(counts))
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:MOST]


def _refusal(when: float, event: RecipientDecided | BackendRefusedRecipient) -> Refusal:
    client, recipient = event.client, visible(event.recipient)
    if isinstance(event, RecipientDecided):
        observed = bool(event.observed)
        reason = visible(event.reason)
        return Refusal(when, client, recipient, event.rule, reason, observed)
    return Refusal(when, client, recipient, "backend", visible(event.reply), False)
