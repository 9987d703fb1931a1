"""One mail transaction, from MAIL to its end (RFC 5321 §3.3).

Knows: what was said and answered in it so far.  Knows not: what follows from
that.  Made anew by the dialogue, which ends it; the verbs write it, and who
drives the dialogue reads it.
"""

from __future__ import annotations

from proxy.smtp.data import MessageStream
from proxy.smtp.path import path_end, write_reverse_path
from proxy.smtp.reply import Reply


class Transaction:
    """Without ``mail`` there is none, and the client's next MAIL makes one."""

    __slots__ = (
        "accepted",
        "broken",
        "mail",
        "recipients",
        "refusal",
        "relayed",
        "sender",
        "stream",
    )

    def __init__(self, mail: bytes | None = None, sender: bytes = b"") -> None:
        self.mail = mail
        """The argument of MAIL, the client's own but for the address
        (:meth:`send_as`)."""
        self.sender = sender
        """The address in it."""
        self.recipients = 0
        """RCPTs, whatever was answered."""
        self.accepted = 0
        """Recipients that the backend accepted."""
        self.relayed = False
        """Whether the backend has been told of it."""
        self.broken: Reply | None = None
        """What to say to what comes: the backend is lost, and with it what it
        accepted."""
        self.stream: MessageStream | None = None
        """The message, from 354 on."""
        self.refusal: Reply | None = None
        """What to say at the message's end, if it is refused before."""

    def send_as(self, sender: bytes) -> bool:
        """Have it come from another address; ``False`` where it is too late for that,
        or no command has that address in it.  Parameters stay."""
        if sender == self.sender:
            return True
        path = write_reverse_path(sender)
        if path is None or self.mail is None or self.relayed:
            return False
        self.mail = path + self.mail[path_end(self.mail) :]
        self.sender = sender
        return True

    @property
    def message_size(self) -> int:
        """Bytes of the message so far."""
        return max(self.stream.size, 0) if self.stream is not None else 0
