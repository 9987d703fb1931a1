"""What tcp.smtp says of a client, as far as a session needs to know.

Knows: the two reasons not to let a client in, and where RELAYCLIENT stands.
Knows not: files (``proxy.qmail.tcprules``).  Asked by the session, once, if
``listen.tcprules`` is set; the function behind it is made by ``assemble``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from proxy.backend.client import Variables
from proxy.smtp import replies
from proxy.smtp.reply import Reply


class Admission(NamedTuple):
    """Why a client is not let in (``denied``, ``unreadable``, or ``""``), else
    the variables of its rule; and the ``databytes`` that qmail-smtpd will have by
    one of them, ``None`` where it is control/databytes."""

    refused: str = ""
    variables: Variables = ()
    databytes: int | None = None

    @property
    def reply(self) -> Reply:
        """What is said in place of a greeting, where it is refused."""
        if self.refused == DENIED:
            return replies.DENIED
        return replies.SHUTTING_DOWN


def relayclient(trusted: bool, variables: Variables) -> bytes | None:
    """RELAYCLIENT (qmail-smtpd(8)): as tcprules set it, else empty for a client in
    ``relay.trusted``, else not set."""
    return dict(variables).get(b"RELAYCLIENT", b"" if trusted else None)


DENIED, UNREADABLE = "tcprules_deny", "tcprules_unreadable"

Admit = Callable[[str], Admission]
"""Gets the client's address.  Must not raise, must not block."""
