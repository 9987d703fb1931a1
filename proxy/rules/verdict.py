"""A verdict: accept, reject or defer, with its reply and its reasons.

Knows: the three kinds of answer.  Knows not: any rule.  Every rule returns
one, or ``None`` when it has no opinion.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from proxy.smtp.reply import Reply


class Kind(enum.Enum):
    """The words of the contract."""

    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"


class TraceStep(Protocol):
    """One reason, rendered when somebody looks."""

    def where(self) -> str:
        """The file, and the line where there is one."""
        ...

    def note(self) -> str:
        """What it decided."""
        ...


Changed = tuple[tuple[bytes, bytes | None], ...]
"""Variables of an environment with their new values; ``None``: it is taken away."""


class Change(NamedTuple):
    """What a rule has made of what the client said.

    ``recipient``: who is to have the mail in place of the recipient, empty for the
    same.  ``sender``: from whom it is, ``None`` for the same.  ``variables``: for the
    environment of a program in the backend's place, all that were changed so far.
    """

    recipient: bytes = b""
    sender: bytes | None = None
    variables: Changed = ()

    def then(self, other: Change | None) -> Change:
        """Both, ``other`` being the later one."""
        if other is None:
            return self
        return Change(
            other.recipient or self.recipient,
            self.sender if other.sender is None else other.sender,
            tuple((dict(self.variables) | dict(other.variables)).items()),
        )


NOTHING = Change()
"""All stays as the client said it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of a recipient.

    ``gate`` marks what decides about relaying, not about mailboxes: it holds
    in observe mode too.  ``observed`` is the verdict that observe mode let
    pass.  ``reason`` is one line for the log.  ``change``: what is to be otherwise
    than the client said, if the recipient is accepted.
    """

    kind: Kind
    reply: Reply
    rule: str
    reason: str
    undecided: bool = False
    gate: bool = False
    observed: Kind | None = None
    trace: Sequence[TraceStep] = ()
    change: Change | None = None


class Facts(NamedTuple):
    """What a session knows besides, for programs and services that want it.

    ``accepted`` and ``asked`` count the recipients of this transaction, the one in
    question among the latter.  ``user`` is whom AUTH accepted, ``tls`` version and
    cipher of the client's connection, ``variables`` what listen.tcprules set.

    ``extended``: the client said EHLO.  ``flushed`` counts its RSETs and the messages
    that it has begun.  ``session`` takes what a rule wants to keep
    for the session, by the rule itself; ``None`` where there is no session.
    ``transaction`` is another object for each MAIL.
    """

    helo: bytes = b""
    port: int = 0
    local_address: str = ""
    local_port: int = 0
    accepted: int = 0
    asked: int = 1
    user: bytes = b""
    tls: bytes = b""
    variables: Sequence[tuple[bytes, bytes]] = ()
    extended: bool = True
    flushed: int = 0
    session: dict[object, Any] | None = None
    transaction: object = None


ANYBODY = b"anybody@sender.invalid"
"""A reverse-path for questions about ordinary mail: what no real sender has (RFC
2606), and no bounce."""


class Question(NamedTuple):
    """What a rule is asked: may ``sender`` write to ``recipient``?

    Both are paths as bytes (:func:`proxy.smtp.path.read_path`); ``sender`` is
    empty for the null reverse-path.  ``client`` is the address of the peer.
    What was found before ``since`` (time.monotonic()) is not fresh enough.
    ``traced`` asks for the verdict's ``trace``.  ``facts`` gives what else is known.

    ``mailbox`` is the recipient as ``user@domain``, as qmail-send sees it, for rules
    behind the gate; ``notes`` takes the reasons of rules that have no opinion.
    """

    recipient: bytes
    sender: bytes = b""
    client: str = ""
    relayclient: bytes | None = None
    since: float = math.inf
    traced: bool = True
    facts: Callable[[], Facts] = Facts
    mailbox: bytes = b""
    notes: list[TraceStep] | None = None


class Instead(NamedTuple):
    """No opinion, but something is otherwise for the rules that follow."""

    change: Change


Answer = Verdict | Instead | None
"""A rule's opinion, ``None`` when it has none."""


class Rule(Protocol):
    """One source of recipients."""

    @property
    def name(self) -> str:
        """What the log, metrics and ``explain`` call it."""
        ...

    def ask(self, question: Question) -> Answer | Awaitable[Answer]:
        """The opinion at once, or an awaitable for it.

        Must not block.  What it raises becomes a deferral.
        """
        ...


class Note(NamedTuple):
    """A reason that is no file's: ``at`` names the rule, ``text`` what it found."""

    at: str
    text: str

    def where(self) -> str:
        return self.at

    def note(self) -> str:
        return self.text


OnRuleError = Callable[[str, Exception], None]
"""Told the rule's name and what it raised."""
