"""What happened, as typed values.

Stages make them and hand them to an ``Observer``; only this package knows what
becomes of them.  Addresses and names are bytes as they came; whoever shows
them escapes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Connected(NamedTuple):
    """A client connected."""

    session: str
    client: str


class Disconnected(NamedTuple):
    """A client is gone; ``why`` is ``quit``, ``client``, ``timeout`` ..."""

    session: str
    client: str
    why: str
    seconds: float
    recipients: int
    refused: int
    messages: int


class Turned(NamedTuple):
    """A connection was turned away at the door, with 421 or 554."""

    client: str
    limit: str


class TlsStarted(NamedTuple):
    """A session is encrypted from now on; ``discarded`` bytes came in the clear
    behind STARTTLS and were not read: a fault of the client, or an attack."""

    session: str
    client: str
    version: str
    cipher: str
    discarded: int


class TlsFailed(NamedTuple):
    """A handshake failed; ``level`` is lower where there were many of them."""

    session: str
    client: str
    why: str
    level: str


class ProxyHeaderBad(NamedTuple):
    """A peer that must begin with a PROXY header did not; ``times`` since the
    last such event with the same ``why``."""

    peer: str
    why: str
    times: int


class AuthEnded(NamedTuple):
    """An AUTH exchange came to its end.

    ``outcome`` is ``accepted``, ``refused`` (5xx), ``deferred`` (4xx) or
    ``lost`` (the backend was); ``code`` is the reply's.  ``user`` is known only
    after success, and only for some mechanisms.
    """

    session: str
    client: str
    mechanism: bytes
    outcome: str
    code: int
    user: bytes


class RecipientDecided(NamedTuple):
    """RCPT was answered.

    ``verdict`` is ``accept``, ``reject`` or ``defer``; ``observed`` is what it
    would have been in enforce mode, where it is another.  ``reply`` is our
    rules' first line, or the backend's if it was asked.
    """

    session: str
    client: str
    helo: bytes
    sender: bytes
    recipient: bytes
    verdict: str
    observed: str
    undecided: bool
    rule: str
    reason: str
    reply: str


class BackendRefusedRecipient(NamedTuple):
    """The rules accepted, the backend did not."""

    session: str
    client: str
    recipient: bytes
    reply: str
    backend: str = ""


class MessageEnded(NamedTuple):
    """A message came to its end.

    ``outcome`` is ``accepted`` (the backend's 250), ``refused`` (its 5xx, or
    ours), ``deferred`` (4xx), ``unknown`` (the backend was lost after the dot:
    it may have the mail) or ``aborted`` (the client left before the dot).
    ``heard`` is false if the client was gone when the answer came.
    """

    session: str
    client: str
    sender: bytes
    recipients: int
    size: int
    outcome: str
    reply: str
    reason: str
    heard: bool
    seconds: float
    backend: str = ""


class Leaked(NamedTuple):
    """qmail failed to deliver what came through us, and bounced it.

    ``recipient``, ``rule`` and ``why`` are what was decided at RCPT; ``delivered``
    is the address as qmail-send has it, ``reason`` what it says of the failure.
    """

    session: str
    client: str
    sender: bytes
    recipient: bytes
    rule: str
    why: str
    undecided: bool
    delivered: bytes
    qp: int
    reason: bytes


class BackendFailed(NamedTuple):
    """The backend could not be used; ``step`` is what it was asked."""

    session: str
    backend: str
    step: str
    why: str


class LimitHit(NamedTuple):
    """A budget of one session or client is used up."""

    session: str
    client: str
    limit: str


class RuleAnswered(NamedTuple):
    """A source was asked: ``answer`` is what it said, or ``error``, ``timeout``,
    ``remembered``, ``last known good``."""

    rule: str
    answer: str
    seconds: float


class PressureChanged(NamedTuple):
    """There is more or less room for connections: ``step`` 0 (enough) to 2;
    ``connections`` of at most ``cap``."""

    step: int
    connections: int
    cap: int


class Notice(NamedTuple):
    """Something about the service itself; ``level`` is a logging level name."""

    level: str
    text: str


Event = (
    Connected
    | Disconnected
    | Turned
    | TlsStarted
    | TlsFailed
    | ProxyHeaderBad
    | AuthEnded
    | RecipientDecided
    | BackendRefusedRecipient
    | MessageEnded
    | Leaked
    | BackendFailed
    | LimitHit
    | RuleAnswered
    | PressureChanged
    | Notice
)

Observer = Callable[[Event], None]
"""Takes an event; never raises, never blocks."""
