"""Where a session stands, and what it has promised.

Knows: names only.  Used by the dialogue and by whoever watches one.

States::

    COMMAND   nothing beyond the replies already given
    ASKING    a recipient's verdict, or the backend's word, is awaited;
              later input is held
    MESSAGE   354 was said, with the backend's 354 behind it
    REFUSED   the message is read to its end, then refused; the backend has
              seen no final dot and will not
    ENDED     the dot was passed on: the backend may or may not have the mail
    CLOSED    nothing more is said
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """See the module's docstring."""

    COMMAND = "command"
    ASKING = "asking"
    MESSAGE = "message"
    REFUSED = "refused"
    ENDED = "ended"
    CLOSED = "closed"


UNDER_WAY = (State.ASKING, State.MESSAGE, State.REFUSED, State.ENDED)
"""States in which a client that is left has to send again."""
