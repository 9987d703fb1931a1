"""Which metrics there are: names, kinds, labels, meanings.

Knows: what docs/metrics.md says.  Knows not: how anything is counted.  Used by
``metrics``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


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
        "Recipients of which only the delivery itself can tell: accepted, unless "
        "qmail.undecided says otherwise.",
    ),
    Entry(
        "backstop_bounces_prevented_total",
        "counter",
        (),
        "Recipients refused (550 5.1.1) that qmail-smtpd would have taken and qmail "
        "would have bounced or thrown away.",
    ),
    Entry(
        "backstop_bounces_leaked_total",
        "counter",
        ("rule",),
        "Recipients that were let in and that qmail bounced after all, by the rule "
        "that let them in; counted where `leakwatch.log` is set.",
    ),
    Entry(
        "backstop_leakwatch_reading",
        "gauge",
        (),
        "1 if the log of `leakwatch.log` can be read, else 0, also where none is set.",
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
        "backstop_rule_answers_total",
        "counter",
        ("rule", "answer"),
        "What sources of recipients said, those of type qmail aside (`vpopmail` are "
        "the databases behind vpopmail, `vpopmail-quota` counts of its domains and its "
        "usage daemon): found, missing, accept, reject, defer, pass, "
        "error, timeout, remembered, last known good. "
        "old data: once more for each answer from a file's data of before.",
    ),
    Entry(
        "backstop_rule_seconds_total",
        "counter",
        ("rule",),
        "Seconds that was waited for sources.",
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
