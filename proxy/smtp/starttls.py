"""STARTTLS (RFC 3207): the dialogue's part of it.

Knows: when it may be said, and what it makes void.  Knows not: how a handshake
is done.  Called by the dialogue, whose friend this module is: it moves its states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.smtp import replies
from proxy.smtp.state import State

if TYPE_CHECKING:
    from proxy.smtp.dialogue import Dialogue


def command(dialogue: Dialogue, argument: bytes) -> None:
    """The verb."""
    refusal = dialogue._banner.starttls_refusal(dialogue.tls, argument)
    if refusal is not None:
        dialogue._outbox.say(refusal)
        return
    dialogue._reset()
    dialogue._outbox.say(replies.TLS_READY)
    dialogue._driver.send(dialogue._outbox.take())
    # What came behind it was not encrypted, and anybody may have put it
    # there (RFC 3207 §6, CVE-2011-0411): it is never read.
    discarded = len(dialogue._take_buffer())
    dialogue.state = State.SWITCHING
    dialogue._driver.start_tls(discarded)


def started(dialogue: Dialogue) -> None:
    """The handshake is done.  What the client said before counts no more, who it
    said it is neither (RFC 3207 §4.2); only failures are counted on."""
    dialogue.tls = True
    dialogue.helo = b""
    dialogue.extended = False
    dialogue._paused = False
    dialogue.state = State.COMMAND
    if dialogue.auth is not None:
        dialogue.auth.done = False
