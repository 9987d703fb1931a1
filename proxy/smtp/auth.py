"""AUTH, passed through (RFC 4954): the dialogue's part of it.

Knows: when AUTH may be said, where an exchange ends, who was authenticated.
Knows not: any mechanism, but where in three of them the user's name stands.
Called by the dialogue, whose friend this module is: it moves its states.

Every line goes to the backend as it came, and every answer back.  Nothing of
an exchange is kept but, until its end, the user's name; after a failure not
even that, since people type passwords where names belong.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from proxy.smtp import replies
from proxy.smtp.command import has_control
from proxy.smtp.reply import Reply
from proxy.smtp.state import State

if TYPE_CHECKING:
    from proxy.smtp.dialogue import Dialogue

LINE_MAX = 12288
"""Bytes of a line of the exchange, with its end (RFC 4954 §4)."""

_NAME = re.compile(rb"[A-Z0-9_-]{1,20}")  # RFC 4422 §3.1
_NAMES_MAX = 20
_USER_MAX = 255
_CANCEL = b"*"


def offered_line(ehlo: Iterable[bytes]) -> bytes:
    """``AUTH PLAIN LOGIN`` as the backend's EHLO lines offer it; empty if it
    does not.  ``AUTH=PLAIN LOGIN``, an older form, means the same."""
    names: list[bytes] = []
    for line in ehlo:
        words = line.upper().replace(b"=", b" ").split()
        if words[:1] == [b"AUTH"]:
            names += [w for w in words[1:] if _NAME.fullmatch(w) and w not in names]
    return b" ".join([b"AUTH", *names[:_NAMES_MAX]]) if names else b""


class Exchange:
    """What a session remembers of its AUTH exchanges."""

    __slots__ = ("_user", "done", "failures", "lost", "mechanism", "overlong")

    def __init__(self) -> None:
        self.done = False
        """Whether one of them succeeded."""
        self.failures = 0
        self.lost: Reply | None = None
        """What to say to the client's next line: the backend is gone."""
        self.mechanism = b""
        """Of the exchange that is under way; else empty."""
        self.overlong = False
        self._user: bytes | None = None

    def begin(self, mechanism: bytes, initial: bytes) -> None:
        """AUTH, perhaps with an initial response."""
        self.mechanism = mechanism
        self.lost = None
        self._user = None
        if initial:
            self.response(initial)

    def response(self, line: bytes) -> None:
        """A line of the client's: the first one has the name, or none has."""
        if self._user is None:
            self._user = _user_in(self.mechanism, line)

    @property
    def user(self) -> bytes:
        """Whom it is about, as far as the client has said that."""
        return self._user or b""

    def end(self) -> tuple[bytes, bytes]:
        """It is over: the mechanism, and the user's name if it is known."""
        mechanism, user = self.mechanism, self._user or b""
        self.mechanism, self._user, self.lost = b"", None, None
        return mechanism, user


def _user_in(mechanism: bytes, response: bytes) -> bytes:
    if mechanism not in (b"PLAIN", b"LOGIN", b"CRAM-MD5"):
        return b""
    try:
        text = base64.b64decode(response, validate=True)
    except (binascii.Error, ValueError):
        return b""
    if mechanism == b"PLAIN":  # RFC 4616: authorisation NUL name NUL password
        parts = text.split(b"\0")
        text = parts[1] if len(parts) == 3 else b""
    elif mechanism == b"CRAM-MD5":  # RFC 2195: name and digest
        text = text.rpartition(b" ")[0]
    return text[:_USER_MAX]


# What the dialogue calls.


def offered_now(dialogue: Dialogue) -> bytes:
    """The line of the EHLO answer; empty where AUTH is not offered, or not yet."""
    if dialogue._limits.auth_needs_tls and not dialogue.tls:
        return b""
    return dialogue.auth_offered


def may_be_long(dialogue: Dialogue, line: bytes) -> bool:
    """Whether a command line over the usual limit is one of AUTH."""
    if not dialogue.auth_offered or len(line) >= LINE_MAX:
        return False
    return line[:5].lower() == b"auth "


def command(dialogue: Dialogue, argument: bytes) -> None:
    """The verb."""
    exchange = dialogue.auth
    limit = dialogue._limits.auth_failures
    if exchange is not None and limit and exchange.failures >= limit:
        dialogue._used_up(replies.TOO_MANY_AUTH, "auth_failures")
        return
    mechanism, _, initial = argument.strip(b" ").partition(b" ")
    mechanism = mechanism.upper()
    refusal = _refusal(dialogue, mechanism)
    if refusal is not None:
        dialogue._error(refusal)
        return
    if exchange is None:
        exchange = dialogue.auth = Exchange()
    exchange.begin(mechanism, initial)
    dialogue.state = State.ASKING
    dialogue._driver.relay_auth(b"AUTH " + argument)


def _refusal(dialogue: Dialogue, mechanism: bytes) -> Reply | None:
    """As the usual patches of qmail-smtpd, which want no EHLO before it."""
    if not dialogue.auth_offered:
        return replies.UNIMPLEMENTED
    offered = offered_now(dialogue)
    if not offered:
        return replies.AUTH_NEEDS_TLS
    if dialogue.auth is not None and dialogue.auth.done:
        return replies.AUTH_TWICE
    if dialogue.transaction.mail is not None:
        return replies.AUTH_IN_TRANSACTION
    if not _NAME.fullmatch(mechanism):
        return replies.AUTH_SYNTAX
    if mechanism not in offered.split(b" ")[1:]:
        return replies.AUTH_MECHANISM
    return None


def take_line(dialogue: Dialogue) -> bool:
    """The client's next line; ``False`` if it is not whole yet.

    One that no server could take cancels the exchange, at the backend too
    (RFC 4954 §4); its refusal of that is the client's answer.
    """
    exchange = dialogue.auth
    assert exchange is not None
    line, newline, rest = dialogue._take_buffer().partition(b"\n")
    if not newline:
        if len(line) >= LINE_MAX:
            exchange.overlong = True
        else:
            dialogue._buffer = line
        return False
    dialogue._buffer = rest
    if exchange.lost is not None:
        failed(dialogue, exchange.lost)
        return True
    too_long = exchange.overlong or len(line) >= LINE_MAX
    exchange.overlong = False
    line = line.removesuffix(b"\r")
    if too_long or has_control(line):
        line = _CANCEL
    exchange.response(line)
    dialogue.state = State.ASKING
    dialogue._driver.relay_auth(line)
    return True


def answered(dialogue: Dialogue, reply: Reply) -> None:
    """The backend's answer to AUTH or a line of the exchange."""
    exchange = dialogue.auth
    assert exchange is not None
    if reply.code == 334:
        dialogue._outbox.say(reply)
        dialogue.state = State.AUTH
        return
    mechanism, user = exchange.end()
    dialogue._outbox.say(reply)
    dialogue.state = State.COMMAND
    exchange.done = reply.code == 235
    outcome = "accepted"
    if not exchange.done:
        user = b""
        outcome = "deferred" if reply.temporary else "refused"
        exchange.failures += reply.permanent
    dialogue._driver.auth_ended(mechanism, outcome, reply, user)
    if reply.code == 421 or reply.last:  # a rule's
        dialogue._close("rule")


def failed(dialogue: Dialogue, reply: Reply) -> None:
    """The backend is lost within the exchange."""
    exchange = dialogue.auth
    assert exchange is not None
    exchange.overlong = False
    mechanism, _ = exchange.end()
    dialogue._outbox.say(reply)
    dialogue.state = State.COMMAND
    dialogue._driver.auth_ended(mechanism, "lost", reply, b"")


def backend_lost(dialogue: Dialogue, reply: Reply) -> bool:
    """The backend is lost; whether this was ours to see to.

    It knew who the client is, and no other connection does: when what is owed
    is answered, the session ends.
    """
    exchange = dialogue.auth
    assert exchange is not None
    if exchange.mechanism:
        if dialogue.state is State.AUTH:
            exchange.lost = reply  # it is the client's turn
        else:
            failed(dialogue, reply)
        return True
    return False


def end_if_lost(dialogue: Dialogue) -> None:
    """After :func:`backend_lost` and all answers: an authenticated session ends
    here, unless a message is still to be heard to its end."""
    exchange = dialogue.auth
    if exchange is not None and exchange.done and dialogue.state is State.COMMAND:
        dialogue._outbox.say(replies.AUTH_LOST)
        dialogue._close("backend")
