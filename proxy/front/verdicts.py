"""What a session does with a verdict on a recipient.

Knows: that recipients of other backends must wait for another transaction, that
guessers wait or go, that every verdict is told.  Knows not: how verdicts come
about (the engine), SMTP.  Called by the session, whose friend this module is.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from proxy.backend.conversation import Conversation
from proxy.front.told import client_of
from proxy.observe.events import Notice, RecipientDecided
from proxy.rules.verdict import Change, Kind, Verdict
from proxy.smtp import replies
from proxy.smtp.driver import Pending
from proxy.smtp.path import write_path
from proxy.smtp.reply import Reply

if TYPE_CHECKING:
    from proxy.front.session import Session

# One transaction, one backend: as after too many recipients, the client sends
# the message again to those that remain (RFC 5321 §4.5.3.1.10).
_ELSEWHERE = Verdict(
    Kind.DEFER,
    replies.OTHER_TRANSACTION,
    "backend",
    "other backends serve its domain than that of the recipients before",
)


async def decide_later(
    session: Session, recipient: bytes, verdict: Awaitable[Verdict]
) -> None:
    """Wait for a verdict that is not there at once."""
    decided = decide_now(session, recipient, await verdict)
    session._task = None
    if not session._gone and decided is not Pending.LATER:
        session._dialogue.decided(decided)
        session._after()


def decide_now(session: Session, recipient: bytes, verdict: Verdict) -> Reply | Pending:
    """What the dialogue hears of ``verdict``."""
    dialogue = session._dialogue
    sender = dialogue.transaction.sender
    session._instead = None
    if verdict.kind is Kind.ACCEPT:
        change = verdict.change
        other = b"" if change is None else _changed(session, change)
        if not served(session, other or recipient):
            verdict = _ELSEWHERE
    session._recipients += 1
    session._door.observer(
        RecipientDecided(
            session._id,
            session._client,
            dialogue.helo,
            sender,
            recipient,
            verdict.kind.value,
            verdict.observed.value if verdict.observed else "",
            verdict.undecided,
            verdict.rule,
            verdict.reason,
            verdict.reply.text,
        )
    )
    if verdict.kind is Kind.ACCEPT:
        return Pending.ACCEPTED
    session._refused += 1
    if verdict.kind is Kind.REJECT and not verdict.gate:
        return _guessed(session, verdict.reply)
    return verdict.reply


def _changed(session: Session, change: Change) -> bytes:
    """See to what a rule has changed; the other recipient, empty for the same."""
    transaction = session._dialogue.transaction
    if change.variables != session._rules_variables:
        session._rules_variables = change.variables
        if session._conversation is not None:
            session._conversation.know(client_of(session))
    sender = change.sender
    made = sender is None or transaction.send_as(sender)
    if not made and session._sender_kept is not transaction:
        session._sender_kept = transaction
        session._door.observer(Notice("warning", _too_late(session, sender or b"")))
    session._instead = write_path(change.recipient) if change.recipient else None
    return change.recipient


def _too_late(session: Session, sender: bytes) -> str:
    name = sender[:200].decode("latin-1")
    why = "the backend has been told of the mail before, or cannot be told so"
    return f"session {session._id}: the sender should become {name}: not done, {why}"


def _guessed(session: Session, refusal: Reply) -> Reply | Pending:
    """The refusal of somebody who may be guessing: now, later, or 421."""
    if session._relayclient is not None:
        return refusal  # it may write to whom it will
    door = session._door
    reply, delay = door.guessed(session._id, session._client, refusal)
    if session._dialogue.transaction.relayed:
        return refusal  # its good recipients are not to suffer; the next session may
    if not delay or session._conversation is not None:
        return reply  # nobody waits with a connection to the backend
    session._held = reply
    session.deadline = door.now + delay
    return Pending.LATER


def served(session: Session, recipient: bytes) -> bool:
    """Have the transaction served by the recipient's backends; ``False``
    if it has recipients at others."""
    group = session._door.backends.group(recipient)
    conversation = session._conversation
    if conversation is None:
        session._conversation = Conversation(group, session, client_of(session))
        return True
    if group is conversation.group or session._authenticated:
        return True  # nobody else would know who the client is
    if not conversation.turn_to(group):
        return False
    transaction = session._dialogue.transaction
    if not transaction.accepted:
        transaction.broken = None  # those that failed are not asked again
    return True
