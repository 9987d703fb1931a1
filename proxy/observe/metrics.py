"""Metrics: events are counted, and shown to Prometheus when it asks.

Knows: what is counted, and its names.  Knows not: HTTP.  Called as an
``Observer`` by every stage, and by the status server for what it shows.

In the path of an event only plain numbers are added; Prometheus' objects are
made during a scrape.  Every set of labels is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.observe.events import (
    AuthEnded,
    BackendFailed,
    BackendRefusedRecipient,
    Connected,
    Disconnected,
    Event,
    LimitHit,
    MessageEnded,
    PressureChanged,
    ProxyHeaderBad,
    RecipientDecided,
    TlsFailed,
    TlsStarted,
    Turned,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""


class Entry(NamedTuple):
    """One metric."""

    name: str
    type: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str


TABLE = (
    Entry(
        "backstop_connections_total",
        "counter",
        (),
        "Connections that were greeted; those turned away are not among them.",
    ),
    Entry("backstop_sessions_active", "gauge", (), "Sessions that are open now."),
    Entry(
        "backstop_turned_away_total",
        "counter",
        ("limit",),
        "Connections answered 421 or 554 at the door, by the reason.",
    ),
    Entry(
        "backstop_tls_sessions_total",
        "counter",
        ("version",),
        "Sessions that became encrypted, by version of TLS.",
    ),
    Entry(
        "backstop_tls_failures_total",
        "counter",
        (),
        "Handshakes that failed; the connection was closed.",
    ),
    Entry(
        "backstop_tls_certificate_expires_seconds",
        "gauge",
        (),
        "When the first of our certificates expires, in seconds since 1970; 0 "
        "without certificates.",
    ),
    Entry(
        "backstop_proxy_headers_bad_total",
        "counter",
        (),
        "Connections of `listen.proxy_from` that did not begin with a sound PROXY "
        "header.",
    ),
    Entry(
        "backstop_auth_total",
        "counter",
        ("outcome",),
        "AUTH exchanges, by outcome: accepted, refused, deferred, lost (the "
        "backend was).",
    ),
    Entry(
        "backstop_recipients_total",
        "counter",
        ("verdict", "rule"),
        "Recipients, by what was answered (accept, reject, defer) and the rule "
        "that decided.",
    ),
    Entry(
        "backstop_recipients_observed_total",
        "counter",
        ("verdict",),
        "Recipients that observe mode let pass, by what enforce mode would have "
        "answered.",
    ),
    Entry(
        "backstop_recipients_undecided_total",
        "counter",
        (),
        "Recipients accepted because only the delivery itself can tell.",
    ),
    Entry(
        "backstop_backend_refused_recipients_total",
        "counter",
        ("class",),
        "Recipients that the rules accepted and the backend did not, by the class "
        "of its reply (4xx, 5xx, other).",
    ),
    Entry(
        "backstop_messages_total",
        "counter",
        ("outcome",),
        "Messages, by outcome: accepted, refused, deferred, unknown (the backend "
        "was lost after the final dot and may have the mail), aborted (the client "
        "left before it).",
    ),
    Entry(
        "backstop_message_bytes_total",
        "counter",
        (),
        "Bytes of messages taken from clients, whatever their outcome.",
    ),
    Entry(
        "backstop_backend_failures_total",
        "counter",
        ("step",),
        "Failures to use the backend, by what it was asked (breaker: it was not, "
        "because connecting has failed too often just now).",
    ),
    Entry(
        "backstop_limits_hit_total",
        "counter",
        ("limit",),
        "Budgets of a session or client that were used up, by limit.",
    ),
    Entry(
        "backstop_pressure",
        "gauge",
        (),
        "How short connections are: 0 enough, 1 from 75 % of limits.connections on, "
        "2 from 90 % on; the highest of all processes.",
    ),
    Entry(
        "backstop_backend_up",
        "gauge",
        (),
        "1 if the backend is believed usable, else 0. With several: if for every "
        "domain one is.",
    ),
    Entry(
        "backstop_backend_usable",
        "gauge",
        ("backend",),
        "1 if this backend is believed usable, else 0.",
    ),
    Entry(
        "backstop_backend_connections",
        "gauge",
        ("backend",),
        "Connections to this backend that are open now, idle ones included.",
    ),
    Entry(
        "backstop_backend_failed_total",
        "counter",
        ("backend",),
        "Failures to use this backend, those included after which another one "
        "took the message.",
    ),
    Entry(
        "backstop_backend_interlock_state",
        "gauge",
        ("backend", "state"),
        "As backstop_interlock_state, for this backend.",
    ),
    Entry(
        "backstop_interlock_state",
        "gauge",
        ("state",),
        "1 for what is known of the backend relaying for us (relays, refuses, "
        "unknown, off), 0 for the others. With several: relays if one does.",
    ),
    Entry(
        "backstop_reloads_total",
        "counter",
        ("outcome",),
        "Configurations read anew on HUP, by outcome: taken, or failed (the old "
        "one stays).",
    ),
    Entry(
        "backstop_configuration_current",
        "gauge",
        (),
        "1 if the configuration in force is the one that was read last; 0 after a "
        "HUP with a bad one.",
    ),
    Entry("backstop_build_info", "gauge", ("version",), "Always 1."),
    Entry(
        "backstop_start_time_seconds",
        "gauge",
        (),
        "When the service started, in seconds since 1970.",
    ),
)


def markdown_table() -> str:
    """:data:`TABLE` as it stands in docs/metrics.md."""
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, meaning in TABLE:
        shown = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {kind} | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


LABEL_VALUES_MAX = 100
"""Sets of label values that one metric may have; further ones are ``other``."""

# Attributes of Metrics that are a number, and that are numbers by labels.
_PLAIN = (
    "connections",
    "sessions",
    "undecided",
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
    "backend_refused",
    "messages",
    "backend_failures",
    "backend_failed",
    "limits_hit",
    "reloads",
)

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
        elif isinstance(event, BackendFailed):
            _count(self.backend_failures, event.step)
            _count(self.backend_failed, event.backend)
        elif isinstance(event, PressureChanged):
            self.pressure = event.step
        elif isinstance(event, TlsStarted):
            _count(self.tls_sessions, event.version)
        elif isinstance(event, TlsFailed):
            self.tls_failures += 1

    def _recipient(self, event: RecipientDecided) -> None:
        _count(self.recipients, event.verdict, event.rule)
        if event.observed:
            _count(self.observed, event.observed)
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
            "backstop_backend_refused_recipients_total": self.backend_refused,
            "backstop_messages_total": self.messages,
            "backstop_message_bytes_total": {(): self.message_bytes},
            "backstop_backend_failures_total": self.backend_failures,
            "backstop_limits_hit_total": self.limits_hit,
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
