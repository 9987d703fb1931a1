"""What became of a message, in the words of the log.

Knows: replies.  Knows not: events, sessions.  Called by the session.
"""

from __future__ import annotations

from proxy.smtp import replies
from proxy.smtp.reply import Reply

REFUSED_FOR = {
    replies.BARE_LF: "bare LF",
    replies.TOO_BIG: "by our limits",
    replies.BACKEND_LOST: "the backend was lost",
    replies.BACKEND_CONFUSED: "the backend was lost",
}
"""Why a message was refused that was read to its end all the same."""


def outcome_of(reply: Reply) -> str:
    """The word for it, by the class of the reply."""
    if reply.positive:
        return "accepted"
    return "deferred" if reply.temporary else "refused"
