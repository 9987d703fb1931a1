"""Which budget of time a session has used up.

Knows: the limits of time and what they mean in which state.  Knows not: when
it is looked at; the session keeps the deadline itself.  Called by the session.

A session that is too old ends when nothing is open.  What is open has time: an
envelope as long as a command may take, a message as long as it keeps its pace.
"""

from __future__ import annotations

from proxy.front.pace import Pace
from proxy.front.pressure import Patience
from proxy.smtp import replies
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.reply import Reply
from proxy.smtp.state import State


def granted(dialogue: Dialogue, patience: Patience) -> float:
    """Seconds in which the client must act; 0 is any time."""
    if dialogue.state is State.COMMAND:
        return patience.command_timeout
    return patience.data_timeout


def overdue(
    dialogue: Dialogue, patience: Patience, now: float, oldest: float, pace: Pace | None
) -> str:
    """The limit that has passed at a session's deadline; ``""``: none, it was
    only the end of a window of :class:`Pace`.  ``oldest`` is when the session
    is too old."""
    if dialogue.state is not State.COMMAND:
        if pace is None or now < pace.ends:
            return "data_timeout"
        return "data_rate" if pace.too_slow(now, dialogue.message_size) else ""
    if dialogue.mail_argument is not None:
        oldest += patience.command_timeout
    return "session_age" if now >= oldest else "command_timeout"


REPLIES: dict[str, Reply] = {
    "command_timeout": replies.IDLE,
    "data_timeout": replies.IDLE,
    "data_rate": replies.TOO_SLOW,
    "session_age": replies.TOO_OLD,
}
"""What a client is told whose time is over, by limit; all are 421."""
