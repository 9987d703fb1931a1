"""Metrics: every event is counted where the table says, and the doc is true."""

from __future__ import annotations

import pathlib

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe import events
from proxy.observe.catalogue import TABLE, markdown_table
from proxy.observe.metrics import (
    LABEL_VALUES_MAX,
    BackendNumbers,
    Metrics,
)

DOC = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Samples:
    text = metrics.render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def changes(*happened: events.Event) -> Samples:
    """What differs from a fresh start."""
    metrics = Metrics("1.2.3", now=lambda: 1000.0)
    before = scrape(metrics)
    for event in happened:
        metrics(event)
    return {
        key: value
        for key, value in scrape(metrics).items()
        if before.get(key) != value and not key[0].startswith("process_")
    }


def named(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "backstop_" + name, tuple(sorted(labels.items()))


def recipient(
    verdict: str, *, observed: str = "", undecided: bool = False, rule: str = "qmail"
) -> events.RecipientDecided:
    return events.RecipientDecided(
        "s", "c", b"", b"", b"x@y", verdict, observed, undecided, rule, "", "550 no"
    )


def message(outcome: str, size: int) -> events.MessageEnded:
    return events.MessageEnded("s", "c", b"", 1, size, outcome, "", "", True, 0.1)


def refused(reply: str) -> events.BackendRefusedRecipient:
    return events.BackendRefusedRecipient("s", "c", b"x@y", reply)


GONE = events.Disconnected("s", "c", "quit", 0.1, 1, 1, 0)


def test_connections() -> None:
    connected = events.Connected("s", "c")
    assert changes(connected, connected, GONE) == {
        named("connections_total"): 2,
        named("sessions_active"): 1,
    }


def test_recipients() -> None:
    assert changes(
        recipient("reject"),
        recipient("reject"),
        recipient("accept", undecided=True),
        recipient("accept", observed="reject"),
        recipient("defer", rule="none"),
    ) == {
        named("recipients_total", verdict="reject", rule="qmail"): 2,
        named("recipients_total", verdict="accept", rule="qmail"): 2,
        named("recipients_total", verdict="defer", rule="none"): 1,
        named("recipients_observed_total", verdict="reject"): 1,
        named("recipients_undecided_total"): 1,
    }


def test_answered() -> None:
    metrics = Metrics()
    for verdict, rule in [("reject", "a"), ("reject", "b"), ("accept", "a")]:
        metrics(recipient(verdict, rule=rule))
    assert [metrics.answered(v) for v in ("reject", "accept", "defer")] == [2, 1, 0]


@pytest.mark.parametrize(
    ("event", "name", "labels"),
    [
        (events.Turned("c", "connections"), "turned_away", {"limit": "connections"}),
        (events.LimitHit("s", "c", "size"), "limits_hit", {"limit": "size"}),
        (events.ProxyHeaderBad("p", "why", 1), "proxy_headers_bad", {}),
        (
            events.AuthEnded("s", "c", b"PLAIN", "refused", 535, b""),
            "auth",
            {"outcome": "refused"},
        ),
        (refused("550 no"), "backend_refused_recipients", {"class": "5xx"}),
        (refused("451 no"), "backend_refused_recipients", {"class": "4xx"}),
        (refused(""), "backend_refused_recipients", {"class": "other"}),
    ],
)
def test_single_counters(
    event: events.Event, name: str, labels: dict[str, str]
) -> None:
    assert changes(event, event) == {named(name + "_total", **labels): 2}


def test_failures_of_a_backend() -> None:
    event = events.BackendFailed("s", "b:25", "connect", "why")
    assert changes(event, event) == {
        named("backend_failures_total", step="connect"): 2,
        named("backend_failed_total", backend="b:25"): 2,
    }


def test_backends_of_several_processes() -> None:
    """Usable is what all find usable; who asks the interlock is the first."""
    one, other = Metrics(), Metrics()
    one.backends = lambda: [BackendNumbers("b:25", True, 2, "refuses")]
    other.backends = lambda: [
        BackendNumbers("b:25", False, 3, "off"),
        BackendNumbers("c:25", True, 1, "off"),
    ]
    total = one.with_others([other.snapshot()])
    assert total.backends() == [
        BackendNumbers("b:25", False, 5, "refuses"),
        BackendNumbers("c:25", True, 1, "off"),
    ]
    values = total.values()
    assert values["backstop_backend_usable"] == {("b:25",): 0, ("c:25",): 1}
    assert values["backstop_backend_connections"] == {("b:25",): 5, ("c:25",): 1}
    state = values["backstop_backend_interlock_state"]
    assert state["b:25", "refuses"] == 1
    assert state["b:25", "off"] == 0


def test_messages() -> None:
    assert changes(message("accepted", 1000), message("unknown", 24)) == {
        named("messages_total", outcome="accepted"): 1,
        named("messages_total", outcome="unknown"): 1,
        named("message_bytes_total"): 1024,
    }


def test_notices_are_not_counted() -> None:
    assert changes(events.Notice("error", "x")) == {}


def test_service() -> None:
    up = False
    metrics = Metrics("1.2.3", backend_up=lambda: up, now=lambda: 1000.0)
    metrics.reloaded(ok=True)
    metrics.reloaded(ok=False)
    samples = scrape(metrics)
    assert samples[named("backend_up")] == 0
    assert samples[named("build_info", version="1.2.3")] == 1
    assert samples[named("start_time_seconds")] == 1000
    assert samples[named("reloads_total", outcome="taken")] == 1
    assert samples[named("reloads_total", outcome="failed")] == 1
    up = True
    assert scrape(metrics)[named("backend_up")] == 1


def test_known_values_are_there_from_the_start() -> None:
    samples = scrape(Metrics())
    for outcome in ("accepted", "refused", "deferred", "unknown", "aborted"):
        assert samples[named("messages_total", outcome=outcome)] == 0


def test_labels_are_bounded_and_escaped() -> None:
    metrics = Metrics()
    hostile = 'x"} 1\nbackstop_connections_total 99 \\'
    metrics(recipient("reject", rule=hostile))
    for number in range(2000):
        metrics(recipient("reject", rule=f"r{number}"))
        metrics(events.LimitHit("s", "c", f"l{number}"))
    samples = scrape(metrics)
    assert samples[named("recipients_total", verdict="reject", rule=hostile)] == 1
    assert samples[named("connections_total")] == 0
    assert len(metrics.recipients) == LABEL_VALUES_MAX + 1
    other = samples[named("recipients_total", verdict="other", rule="other")]
    assert other == 2001 - LABEL_VALUES_MAX
    assert samples[named("limits_hit_total", limit="other")] == 2000 - LABEL_VALUES_MAX


def test_two_do_not_share_anything() -> None:
    one, other = Metrics(), Metrics()
    one(recipient("reject"))
    assert other.recipients == {}
    other.render()


def test_what_sources_say_and_how_long_it_takes() -> None:
    event = events.RuleAnswered("staff", "found", 0.25)
    assert changes(event, event._replace(answer="timeout", seconds=5.0)) == {
        named("rule_answers_total", rule="staff", answer="found"): 1,
        named("rule_answers_total", rule="staff", answer="timeout"): 1,
        named("rule_seconds_total", rule="staff"): 5.25,
    }


def test_table_is_what_is_exported() -> None:
    """O-metrics-parse: by Prometheus' own parser, and as promtool wants names."""
    metrics = Metrics()
    metrics.backends = lambda: [BackendNumbers("b:25", True, 2, "refuses")]
    for event in (
        events.Turned("c", "x"),
        events.LimitHit("s", "c", "x"),
        events.RuleAnswered("staff", "error", 0.5),
        events.BackendFailed("s", "b", "x", "y"),
        recipient("reject"),
    ):
        metrics(event)
    assert set(metrics.values()) == {entry.name for entry in TABLE}
    labels = {name: {n for n, _ in pairs} for name, pairs in scrape(metrics)}
    for entry in TABLE:
        assert labels.pop(entry.name) == set(entry.labels)
        assert entry.name.endswith("_total") == (entry.type == "counter")
    assert all(name.startswith("process_") for name in labels)


def test_document_is_the_table() -> None:
    assert markdown_table() in DOC.read_text("utf-8"), (
        "put proxy.observe.catalogue.markdown_table() into docs/metrics.md"
    )
