"""The budgets: the table ``[limits]``.

Knows: names, defaults, texts.  Knows not: what a limit does; docs/limits.md
does.  Used by ``model``.
"""

from __future__ import annotations

from pydantic import Field

from proxy.config.section import Section
from proxy.config.values import Recipients, Seconds, Whole


class Limits(Section):
    """Budgets. Every cap: 0 is none. docs/limits.md has the replies, and what
    becomes shorter when connections do."""

    connections: Whole = Field(
        default=4000,
        description="Connections at a time, in all. More are told 421. Needs twice"
        " as many file descriptors (ulimit -n). From 75 % on, patience becomes"
        " shorter.",
    )
    connections_per_client: Whole = Field(
        default=50,
        description="Connections at a time from one IPv4 address or IPv6 /64"
        " network. Raise it if all mail comes through one relay or balancer.",
    )
    unknown_per_session: Whole = Field(
        default=20,
        description="Recipients refused for good in one session before 421 ends it."
        " Raise it if senders with old mailing lists are cut off.",
    )
    errors_per_session: Whole = Field(
        default=20,
        description="Commands of one session that are none, cannot be read or are out"
        " of order, before 421 ends it.",
    )
    commands_per_session: Whole = Field(
        default=10_000,
        description="Commands of one session before 421 ends it. Raise it if one"
        " relay sends thousands of messages over one connection; it comes back at"
        " once.",
    )
    auth_failures: Whole = Field(
        default=3,
        description="AUTH exchanges refused for good in one session before 421.",
    )
    harvest_defence: bool = Field(
        default=True,
        description="Growing delays and refusals for clients that keep guessing"
        " recipients, across sessions. Clients in relay.trusted are left alone, and"
        " accepted mail counts in a client's favour (harvest_remember).",
    )
    harvest_delay_after: Whole = Field(
        default=10,
        description="Unknown recipients of one client (address or /64 network) after"
        " which each refusal is held back, by a second more each time. One is"
        " forgiven a minute.",
    )
    harvest_refuse_after: Whole = Field(
        default=50,
        description="Unknown recipients of one client after which it is told 421, at"
        " RCPT and when it connects. One is forgiven a minute.",
    )
    harvest_refuse_seconds: Seconds = Field(
        default=900.0, description="Seconds for which it is told so."
    )
    harvest_remember: Seconds = Field(
        default=86400.0,
        description="Seconds for which accepted mail counts in a client's favour:"
        " each message gives it credit for 20 unknown recipients, 1,000 at most.",
    )
    command_length: Whole = Field(
        default=4096,
        description="Bytes of one command line. Longer lines are refused (500).",
    )
    recipients: Recipients = Field(
        default=1000,
        description="Recipients of one message that are looked at. More are told 452,"
        " and the client sends them another message. At least 100 (RFC 5321).",
    )
    message_size: Whole = Field(
        default=0,
        description="Bytes of one message. 0: qmail's control/databytes, and none if"
        " there is no such file.",
    )
    command_timeout: Seconds = Field(
        default=300.0,
        description="Seconds in which a client must send its next command"
        " (RFC 5321 asks for 300).",
    )
    data_timeout: Seconds = Field(
        default=180.0,
        description="Seconds in which a client must send more of its message"
        " (RFC 5321 asks for 180).",
    )
    data_rate: Whole = Field(
        default=100,
        description="Bytes a second that a client must send of its message, on the"
        " average of a minute; the first minute is free. Time in which the backend"
        " takes nothing is not counted.",
    )
    session_age: Seconds = Field(
        default=7200.0,
        description="Seconds for a whole session, for clients that hold connections"
        " by sending a little now and then. 421 comes when no transaction is open;"
        " an envelope has command_timeout more, a message as long as it keeps"
        " data_rate.",
    )
