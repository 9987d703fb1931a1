"""Metrics: events are counted, and shown to Prometheus when it asks.

Knows: what is counted.  Knows not: HTTP, what the numbers mean
(``catalogue``).  Called as an ``Observer`` by every stage, and by the status
server for what it shows.

In the path of an event only plain numbers are added; Prometheus' objects are
made during a scrape.  Every set of labels is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.observe.catalogue import TABLE
from proxy.observe.events import (
    AuthEnded,
    BackendFailed,
    BackendRefusedRecipient,
    Connected,
    Disconnected,
    Event,
    Leaked,
    LimitHit,
    MessageEnded,
    PressureChanged,
    ProxyHeaderBad,
    RecipientDecided,
    RuleAnswered,
    TlsFailed,
    TlsStarted,
    Turned,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""

LABEL_VALUES_MAX = 100
"""Sets of label values that one metric may have; further ones are ``other``."""

# Attributes of Metrics that are a number, and that are numbers by labels.
_PLAIN = (
    "connections",
    "sessions",
    "undecided",
    "prevented",
    "message_bytes",
    "tls_failures",
    "proxy_headers_bad",
)
_COUNTED = (
    "turned_away",
    "tls_sessions",
    "auth",
    "recipients",
    "observed",
    "leaked",
    "backend_refused",
    "messages",
    "backend_failures",
    "backend_failed",
    "limits_hit",
    "rule_answers",
    "rule_microseconds",
    "reloads",
)

# The rules' refusal for want of a mailbox; others are qmail-smtpd's, too.
_PREVENTED = "550 5.1.1"

INTERLOCK_STATES = ("relays", "refuses", "unknown", "off")
"""What :mod:`proxy.interlock` may say."""


class BackendNumbers(NamedTuple):
    """One backend as it is now; ``interlock`` is of :data:`INTERLOCK_STATES`."""

    name: str
    up: bool
    connections: int
    interlock: str

    def with_another(self, other: BackendNumbers) -> BackendNumbers:
        """The same backend, seen twice; the interlock is what this one says."""
        up, connections = self.up and other.up, self.connections + other.connections
        return BackendNumbers(self.name, up, connections, self.interlock)


_Counts = dict[tuple[str, ...], int]


def _zeros(*values: str) -> _Counts:
    """Known values are there from the start, so that their first event is a
    rise and not a new series."""
    return {(value,): 0 for value in values}


def _count(counts: _Counts, *labels: str) -> None:
    if labels not in counts and len(counts) >= LABEL_VALUES_MAX:
        labels = ("other",) * len(labels)
    counts[labels] = counts.get(labels, 0) + 1


class Metrics:
    """An ``Observer`` that counts."""

    def __init__(
        self,
        version: str = __version__,
        *,
        backend_up: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.backend_up = backend_up
        self.interlock: Callable[[], str] = lambda: "off"
        self.certificate_expires: Callable[[], float] = lambda: 0.0
        self.backends: Callable[[], Sequence[BackendNumbers]] = lambda: ()
        self._version = version
        self.started = now()
        self.connections = 0
        self.sessions = 0
        self.undecided = 0
        self.prevented = 0
        self.leakwatch: Callable[[], bool] = lambda: False
        self.leaked = _zeros("qmail")
        self.message_bytes = 0
        self.pressure = 0
        self.turned_away: _Counts = {}
        self.tls_failures = 0
        self.tls_sessions = _zeros("TLSv1.2", "TLSv1.3")
        self.proxy_headers_bad = 0
        self.auth = _zeros("accepted", "refused", "deferred", "lost")
        self.recipients: _Counts = {}
        self.observed = _zeros("reject", "defer")
        self.backend_refused = _zeros("4xx", "5xx", "other")
        self.messages = _zeros("accepted", "refused", "deferred", "unknown", "aborted")
        self.backend_failures: _Counts = {}
        self.backend_failed: _Counts = {}
        self.limits_hit: _Counts = {}
        self.rule_answers: _Counts = {}
        self.rule_microseconds: _Counts = {}
        self.reloads = _zeros("taken", "failed")
        self.current = True  # the configuration
        self._registry = CollectorRegistry()
        self._registry.register(_Exporter(self))
        ProcessCollector(registry=self._registry)

    def __call__(self, event: Event) -> None:
        """Count it."""
        # Commonest first; a chain costs less here than a table of functions.
        if isinstance(event, RecipientDecided):
            self._recipient(event)
        elif isinstance(event, Connected):
            self.connections += 1
            self.sessions += 1
        elif isinstance(event, Disconnected):
            self.sessions -= 1
        elif isinstance(event, MessageEnded):
            _count(self.messages, event.outcome)
            self.message_bytes += event.size
        elif isinstance(event, Turned):
            _count(self.turned_away, event.limit)
        elif isinstance(event, AuthEnded):
            _count(self.auth, event.outcome)
        elif isinstance(event, ProxyHeaderBad):
            self.proxy_headers_bad += event.times
        elif isinstance(event, BackendRefusedRecipient):
            _count(self.backend_refused, _reply_class(event.reply))
        elif isinstance(event, LimitHit):
            _count(self.limits_hit, event.limit)
        elif isinstance(event, RuleAnswered):
            _count(self.rule_answers, event.rule, event.answer)
            took = (event.rule,)
            total = self.rule_microseconds.get(took, 0) + int(event.seconds * 1e6)
            self.rule_microseconds[took] = total
        elif isinstance(event, BackendFailed):
            _count(self.backend_failures, event.step)
            _count(self.backend_failed, event.backend)
        elif isinstance(event, PressureChanged):
            self.pressure = event.step
        elif isinstance(event, TlsStarted):
            _count(self.tls_sessions, event.version)
        elif isinstance(event, TlsFailed):
            self.tls_failures += 1
        elif isinstance(event, Leaked):
            _count(self.leaked, event.rule)

    def _recipient(self, event: RecipientDecided) -> None:
        _count(self.recipients, event.verdict, event.rule)
        if event.observed:
            _count(self.observed, event.observed)
        elif event.verdict == "reject" and event.reply.startswith(_PREVENTED):
            self.prevented += 1
        if event.undecided:
            self.undecided += 1

    def reloaded(self, *, ok: bool) -> None:
        """The configuration was read anew."""
        _count(self.reloads, "taken" if ok else "failed")
        self.current = ok

    def answered(self, verdict: str) -> int:
        """Recipients that were answered ``verdict``, by whatever rule."""
        return sum(n for key, n in self.recipients.items() if key[0] == verdict)

    def render(self) -> bytes:
        """What a scrape gets, as :data:`CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def snapshot(self) -> dict[str, Any]:
        """The numbers as plain values, to be added up with those of others."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        for name in _COUNTED:
            shown[name] = [[*labels, n] for labels, n in getattr(self, name).items()]
        shown["pressure"] = self.pressure
        up, current = self.backend_up(), self.current
        shown["backends"] = [list(each) for each in self.backends()]
        return shown | {"started": self.started, "up": up, "current": current}

    def with_others(self, others: Sequence[Mapping[str, Any]]) -> Metrics:
        """These numbers and those of other processes, as one."""
        total = Metrics(self._version)
        everybody = [self.snapshot(), *others]
        total.started = min(each["started"] for each in everybody)
        up = all(each["up"] for each in everybody)
        total.backend_up = lambda: up
        total.current = all(each["current"] for each in everybody)
        total.leakwatch = self.leakwatch
        total.interlock = self.interlock  # the process that shows them asks
        total.certificate_expires = self.certificate_expires
        total.backends = lambda: _added(everybody)
        for each in everybody:
            total.add(each)
        return total

    def add(self, snapshot: Mapping[str, Any]) -> None:
        """Add the numbers of another process, or of one that is gone."""
        for name in _PLAIN:
            setattr(self, name, getattr(self, name) + snapshot[name])
        self.pressure = max(self.pressure, snapshot["pressure"])
        for name in _COUNTED:
            counts: _Counts = getattr(self, name)
            for *labels, number in snapshot[name]:
                key = tuple(labels)
                counts[key] = counts.get(key, 0) + number

    def values(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        """The samples of every metric of :data:`TABLE`, by label values."""
        return {
            "backstop_connections_total": {(): self.connections},
            "backstop_sessions_active": {(): self.sessions},
            "backstop_turned_away_total": self.turned_away,
            "backstop_tls_sessions_total": self.tls_sessions,
            "backstop_tls_failures_total": {(): self.tls_failures},
            "backstop_tls_certificate_expires_seconds": {
                (): self.certificate_expires()
            },
            "backstop_proxy_headers_bad_total": {(): self.proxy_headers_bad},
            "backstop_auth_total": self.auth,
            "backstop_recipients_total": self.recipients,
            "backstop_recipients_observed_total": self.observed,
            "backstop_recipients_undecided_total": {(): self.undecided},
            "backstop_bounces_prevented_total": {(): self.prevented},
            "backstop_bounces_leaked_total": self.leaked,
            "backstop_leakwatch_reading": {(): int(self.leakwatch())},
            "backstop_backend_refused_recipients_total": self.backend_refused,
            "backstop_messages_total": self.messages,
            "backstop_message_bytes_total": {(): self.message_bytes},
            "backstop_backend_failures_total": self.backend_failures,
            "backstop_limits_hit_total": self.limits_hit,
            "backstop_rule_answers_total": self.rule_answers,
            "backstop_rule_seconds_total": {
                rule: number / 1e6 for rule, number in self.rule_microseconds.items()
            },
            "backstop_pressure": {(): self.pressure},
            "backstop_backend_up": {(): 1 if self.backend_up() else 0},
            **self._by_backend(),
            "backstop_interlock_state": _one_of(INTERLOCK_STATES, self.interlock()),
            "backstop_reloads_total": self.reloads,
            "backstop_configuration_current": {(): 1 if self.current else 0},
            "backstop_build_info": {(self._version,): 1},
            "backstop_start_time_seconds": {(): self.started},
        }

    def _by_backend(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        backends = self.backends()
        failed = _zeros(*(each.name for each in backends)) | self.backend_failed
        return {
            "backstop_backend_usable": {(b.name,): int(b.up) for b in backends},
            "backstop_backend_connections": {
                (b.name,): b.connections for b in backends
            },
            "backstop_backend_failed_total": failed,
            "backstop_backend_interlock_state": {
                (b.name, *state): value
                for b in backends
                for state, value in _one_of(INTERLOCK_STATES, b.interlock).items()
            },
        }


def _added(snapshots: Sequence[Mapping[str, Any]]) -> list[BackendNumbers]:
    """What every process says of its backends, as one; the first one asks."""
    found: dict[str, BackendNumbers] = {}
    for snapshot in snapshots:
        for each in snapshot["backends"]:
            one = BackendNumbers(*each)
            before = found.get(one.name)
            found[one.name] = before.with_another(one) if before else one
    return list(found.values())


def _one_of(states: Sequence[str], state: str) -> dict[tuple[str, ...], float]:
    return {(each,): float(each == state) for each in states}


def _reply_class(reply: str) -> str:
    return {"4": "4xx", "5": "5xx"}.get(reply[:1], "other")


class _Exporter(Collector):
    """Makes Prometheus' objects of the numbers, for one scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        values = self._metrics.values()
        for name, kind, labels, meaning in TABLE:
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = make(name, meaning, labels=labels)
            for key, value in values[name].items():
                family.add_metric(key, value)
            yield family
