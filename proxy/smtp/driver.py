"""What the dialogue asks of the world, and within which bounds it works.

Knows: names only.  Called by the dialogue; :class:`Driver` is implemented by
:mod:`proxy.front.session`, by the embedded backend of the demonstration, and
by tests.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from proxy.smtp import replies
from proxy.smtp.reply import Reply


class Pending(enum.Enum):
    """Answers of :meth:`Driver.decide` that are not a refusal."""

    ACCEPTED = "accepted"
    LATER = "later"


_EHLO_MAX = 16  # as many answers to EHLO are kept; backends change theirs rarely


class Banner:
    """What the server says of itself, made once for all sessions.

    ``size`` is what EHLO announces as the largest message, in bytes; 0 for no
    SIZE (RFC 1870).  ``starttls``: offer it to sessions that are in the clear.
    """

    __slots__ = ("_ehlo", "_extensions", "greeting", "helo", "quit", "starttls")

    def __init__(
        self, hostname: bytes, size: int = 0, *, starttls: bool = False
    ) -> None:
        extensions = [b"PIPELINING", b"8BITMIME"]
        if size:
            extensions.insert(1, b"SIZE %d" % size)
        self._extensions = (hostname, *extensions)
        self._ehlo: dict[tuple[bool, bytes], Reply] = {}
        self.starttls = starttls
        self.greeting = Reply(220, hostname + b" ESMTP")
        self.helo = Reply(250, hostname)
        self.quit = Reply(221, hostname)

    def ehlo_reply(self, tls: bool, auth: bytes) -> Reply:
        """The answer to EHLO, by whether the session is encrypted, and the line
        that offers AUTH (or none)."""
        reply = self._ehlo.get((tls, auth))
        if reply is None:
            more = [b"STARTTLS"] if self.starttls and not tls else []
            if auth:
                more.append(auth)
            reply = Reply(250, *self._extensions, *more)
            if len(self._ehlo) < _EHLO_MAX:
                self._ehlo[tls, auth] = reply
        return reply

    def starttls_refusal(self, tls: bool, argument: bytes) -> Reply | None:
        """Why STARTTLS is not done now (RFC 3207 §4), ``None`` if it is."""
        if tls:
            return replies.TLS_ALREADY
        if not self.starttls:
            return replies.UNIMPLEMENTED
        return replies.TLS_PARAMETER if argument.strip() else None


def declared_size(databytes: int) -> int:
    """What MAIL may declare before a qmail-smtpd with ``databytes``.

    qmail counts a line end as one byte, the client sends two: what is surely too
    long for qmail is twice its limit; the rest is qmail's to refuse.
    """
    return 2 * databytes


class Driver(Protocol):
    """What the dialogue asks of the world; never called re-entrantly.

    Each ``relay_`` call but ``relay_body`` is answered by one call of the
    method of :class:`Dialogue` that its text names, at once or later.
    """

    def send(self, data: bytes) -> None:
        """Send replies to the client."""

    def decide(self, recipient: bytes, argument: bytes) -> Reply | Pending:
        """May this recipient in?  A reply refuses it; after ``LATER``,
        :meth:`Dialogue.decided` follows."""

    def relay_recipient(self, argument: bytes) -> None:
        """Tell the backend; then :meth:`Dialogue.recipient_answered`."""

    def relay_data(self) -> None:
        """Ask the backend; then :meth:`Dialogue.data_answered`."""

    def relay_body(self, piece: bytes) -> None:
        """Bytes of the message."""

    def relay_end(self, piece: bytes) -> None:
        """The last bytes of the message (or none) and the final dot; then
        :meth:`Dialogue.message_answered`."""

    def relay_auth(self, line: bytes) -> None:
        """AUTH, or a line of the exchange, for the backend: a secret.  Then
        :meth:`Dialogue.auth_answered`."""

    def auth_ended(
        self, mechanism: bytes, outcome: str, reply: Reply, user: bytes
    ) -> None:
        """An exchange is over; ``outcome`` is ``accepted``, ``refused``,
        ``deferred`` or ``lost``, ``user`` the name where it is known."""

    def relay_abort(self) -> None:
        """The transaction is given up: the backend must see no final dot.
        Nothing that was asked is answered any more."""

    def start_tls(self, discarded: int) -> None:
        """The client's next bytes are a handshake; then
        :meth:`Dialogue.tls_started`, or the connection is closed.  So many bytes
        came behind STARTTLS and were thrown away."""

    def message_refused(self, reply: Reply) -> None:
        """The message was heard to its end and refused with ``reply``."""

    def turn_over(self) -> bool:
        """Asked between two commands of one piece: whether others are to be served
        first; then :meth:`Dialogue.go_on` follows."""

    def limit_reached(self, limit: str) -> None:
        """A budget is used up, and the client is told; for the log."""

    def close(self, why: str) -> None:
        """Close the client's connection when everything is sent; ``why`` is
        ``quit``, the name of a limit, or what :meth:`Dialogue.end` was told."""


@dataclass(slots=True)
class Limits:
    """Bounds of one session; 0 is none.

    ``command_length`` in bytes with the line end, ``unknown_recipients`` in
    refusals with a permanent reply, ``message_size`` in bytes as sent.  A MAIL
    that declares more than ``declared_size`` is refused at once.  ``errors``
    are commands that are none, or out of order; ``recipients`` are RCPTs of
    one transaction, whatever was answered.  ``auth_failures`` in exchanges that
    are refused for good; AUTH is offered in a session without TLS only if not
    ``auth_needs_tls``.
    """

    command_length: int = 4096
    unknown_recipients: int = 20
    message_size: int = 0
    declared_size: int = 0
    commands: int = 10_000
    errors: int = 20
    recipients: int = 1000
    auth_failures: int = 3
    auth_needs_tls: bool = True
