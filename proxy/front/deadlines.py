"""Which budget of time a session has used up.

Knows: the limits of time and what they mean in which state.  Knows not: when
it is looked at; the session keeps the deadline itself.  Called by the session.

A session that is too old ends when nothing is open.  What is open has time: an
envelope as long as a command may take, a message as long as it keeps its pace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.front.pace import Pace
from proxy.smtp import replies
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.reply import Reply
from proxy.smtp.state import BY_LINE

if TYPE_CHECKING:
    from proxy.front.door import Door

_NEVER = float("inf")


def latest(dialogue: Dialogue, door: Door) -> float:
    """By when the client must act, from now on."""
    if dialogue.state in BY_LINE:
        return door.command_deadline
    limit = door.patience.data_timeout
    return door.now + limit if limit else _NEVER


def deadline(dialogue: Dialogue, door: Door, oldest: float, pace: Pace | None) -> float:
    """When a session is to be looked at, whose client has just acted.
    ``oldest`` is when the session is too old."""
    usual = latest(dialogue, door)
    if dialogue.state not in BY_LINE:
        if pace is None:
            return usual
        pace.silent, end = usual, pace.ends
    elif dialogue.transaction.mail is None:
        end = oldest
    else:
        end = oldest + door.patience.command_timeout
    return usual if usual < end else end


def overdue(dialogue: Dialogue, door: Door, oldest: float, pace: Pace | None) -> str:
    """The limit that has passed at a session's deadline; ``""``: none, it was
    only the end of a window of :class:`Pace`."""
    now = door.now
    if dialogue.state not in BY_LINE:
        if pace is None or now < pace.ends or now >= pace.silent:
            return "data_timeout"
        return (
            "data_rate" if pace.too_slow(now, dialogue.transaction.message_size) else ""
        )
    if dialogue.transaction.mail is not None:
        oldest += door.patience.command_timeout
    return "session_age" if now >= oldest else "command_timeout"


REPLIES: dict[str, Reply] = {
    "command_timeout": replies.IDLE,
    "data_timeout": replies.IDLE,
    "data_rate": replies.TOO_SLOW,
    "session_age": replies.TOO_OLD,
}
"""What a client is told whose time is over, by limit; all are 421."""
