"""Where a session stands.

Knows: names only.  Set by the dialogue, read by whoever drives it.

What each state has promised::

    COMMAND    nothing beyond the replies already given
    DECIDING   a recipient's verdict is awaited; later input is held
    ASKING     the backend's word, or a rule's on DATA or AUTH, is awaited; later
               input is held
    AUTH       the client's next line of an AUTH exchange is awaited
    MESSAGE    354 was said, with the backend's 354 behind it
    REFUSED    the message is read to its end, then refused; the backend has
               seen no final dot and will not
    ENDED      the dot was passed on: the backend may or may not have the mail
    SWITCHING  a TLS handshake is under way; input is held
    CLOSED     nothing more is said
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """See the module's docstring."""

    COMMAND = "command"
    DECIDING = "deciding"
    ASKING = "asking"
    AUTH = "auth"
    MESSAGE = "message"
    REFUSED = "refused"
    ENDED = "ended"
    SWITCHING = "switching"
    CLOSED = "closed"


UNDER_WAY = (
    State.DECIDING,
    State.ASKING,
    State.MESSAGE,
    State.REFUSED,
    State.ENDED,
)
"""A client that is left now would have to send again."""

BY_LINE = (State.COMMAND, State.AUTH, State.SWITCHING)
"""A line of the client's, or its part of a handshake, is awaited, and half a one
buys no time."""

OTHERS_TURN = frozenset({State.DECIDING, State.ASKING, State.ENDED})
"""It is not the client's turn, but the rules' or backend's."""
