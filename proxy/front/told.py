"""What the backend, and who reads the mail, are told of a session's client.

Knows: what a session has learnt of its client.  Knows not: in which form a
backend hears it (:mod:`proxy.backend`), nor what a Received line looks like
(:mod:`proxy.smtp.received`).  Called when a backend is needed, by the session
and its parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from proxy.backend.client import Client, Variables
from proxy.rules.verdict import Facts
from proxy.smtp.received import protocol_name, received_line

if TYPE_CHECKING:
    from proxy.front.session import Session


def client_of(session: Session) -> Client:
    """Both ends of the connection, and what is said of the client."""
    client = session._ends or _socket_ends(session._socket)
    # Who may relay is never a rule's to say.
    changed = [each for each in session._rules_variables if each[0] != b"RELAYCLIENT"]
    variables = (*session._variables, *_set(changed))
    if session._relayclient is not None:
        variables = (*variables, (b"RELAYCLIENT", session._relayclient))
    return client._replace(
        variables=variables,
        without=tuple(name for name, value in changed if value is None),
        extended=session._dialogue.extended,
    )


def _set(changed: Iterable[tuple[bytes, bytes | None]]) -> Variables:
    return tuple((name, value) for name, value in changed if value is not None)


def facts_of(session: Session) -> Facts:
    """What rules may want to know, at RCPT and beyond."""
    ends = session._ends or _socket_ends(session._socket)
    dialogue = session._dialogue
    transaction = dialogue.transaction
    return Facts(
        helo=dialogue.helo,
        port=ends.port,
        local_address=ends.local_address,
        local_port=ends.local_port,
        accepted=transaction.accepted,
        asked=transaction.recipients,
        user=session._user if session._authenticated else b"",
        tls=session._tls,
        variables=session._variables,
        extended=dialogue.extended,
        flushed=dialogue.flushed,
        session=_kept(session),
        transaction=transaction,
    )


def _kept(session: Session) -> dict[object, Any]:
    """What rules keep for the session, made when the first of them asks."""
    if session._rules_keep is None:
        session._rules_keep = {}
    return session._rules_keep


def _socket_ends(transport: Any) -> Client:
    ends: list[Any] = []
    for name in ("peername", "sockname"):
        end = transport.get_extra_info(name)
        ends += end[:2] if isinstance(end, tuple) else ("", 0)
    return Client(*ends)


def received_of(session: Session) -> bytes:
    """The Received line of a message that begins now."""
    dialogue = session._dialogue
    return received_line(
        helo=dialogue.helo,
        client=session._client,
        hostname=session._door.hostname,
        protocol=protocol_name(
            extended=dialogue.extended,
            tls=bool(session._tls),
            authenticated=session._authenticated,
        ),
        tls=session._tls,
        user=session._user,
        session=session._id,
        when=datetime.now(UTC),
    )
