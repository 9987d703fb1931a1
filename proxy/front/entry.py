"""How a connection becomes a session: what comes before the greeting.

Knows: in which order the door's caps, tcp.smtp and a handshake that comes first
are asked, and what a client is told that is not let in.  Knows not: SMTP, and
what becomes of the session.  Called when the client is known: by the session,
whose friend this module is, or behind a PROXY header
(:mod:`proxy.front.proxied`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.backend.client import Client, without_relayclient
from proxy.front.admission import Admission
from proxy.observe.events import Connected
from proxy.smtp.driver import Banner, declared_size
from proxy.smtp.reply import Reply
from proxy.smtp.state import State

if TYPE_CHECKING:
    from proxy.front.session import Session


def enter(
    session: Session,
    client: str,
    ends: Client | None = None,
    *,
    by_proxy: bool = False,
    received: bytes = b"",
) -> None:
    """Begin with ``client``.  ``by_proxy``: a proxy has connected, and says
    that ``ends`` are the client's; without ``ends``, it speaks for itself or
    for it knows not whom, who then may not relay.  ``received`` came first."""
    door = session._door
    session._client, session._ends = client, ends
    known = ends is not None or not by_proxy
    refusal = door.enter(session, client, capped=known)
    if refusal is not None:
        turn_away(session, refusal)
        return
    admit = door.settings.admit
    if admit is not None and not _admitted(session, admit(client)):
        return
    session._relayclient = door.relayclient(client, session._variables)
    if not known:  # whatever the proxy itself may
        session._relayclient = None
        session._variables = without_relayclient(session._variables)
    session._dialogue.auth_offered = door.backends.auth_offered
    session._id = door.next_id()
    session._began = door.loop.time()
    session._oldest = door.oldest()
    door.observer(Connected(session._id, client))
    if session.implicit:
        session._dialogue.state = State.SWITCHING
        session.start_tls(0, received)
        received = b""
    else:
        session._dialogue.start()
    session._set_deadline()
    if received:
        session.data_received(received)


def turn_away(session: Session, refusal: Reply) -> None:
    """Say ``refusal`` in place of a greeting."""
    session._gone = True
    if not session.implicit:
        session._socket.write(refusal.wire)
    session._socket.close()


def _admitted(session: Session, admission: Admission) -> bool:
    """Take what tcp.smtp says of the client; false if it is turned away."""
    if admission.refused:
        session._gone = True
        session._door.turn_away(session._client, admission.refused)
        if not session.implicit:
            session._socket.write(admission.reply.wire)
        session.shut()
        return False
    session._variables = admission.variables
    if admission.databytes is not None:
        _bound(session, admission.databytes)
    return True


def _bound(session: Session, databytes: int) -> None:
    """Another size is announced and held than to all others."""
    door = session._door
    settings, limits = door.settings, door.session_limits
    if limits.message_size:
        return  # it holds for everybody
    starttls = settings.tls is not None
    session._dialogue.bound(
        Banner(door.hostname, databytes, starttls=starttls),
        replace(limits, declared_size=declared_size(databytes)),
    )
