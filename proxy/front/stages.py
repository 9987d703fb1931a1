"""What a session does where rules are asked beyond RCPT.

Knows: that DATA goes to the backend only when they agree, that who is refused after
AUTH is nobody to the backend either.  Knows not: what they ask for.  Called by the
session, whose friend this module is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.front.outcome import outcome_of
from proxy.observe.events import Notice
from proxy.rules.stages import Stage
from proxy.rules.verdict import Question
from proxy.smtp.reply import Reply

if TYPE_CHECKING:
    from proxy.front.session import Session


async def before_data(session: Session) -> None:
    """Ask, then pass DATA on or refuse it.  Cancelled where the backend is lost
    meanwhile, or the client."""
    said = await session._engine.stages.at_data(_question(session))
    session._task = None
    _tell(session, "DATA", said)
    if said.refusal is None:
        session.pass_data(said.header)
        return
    session._report_message(outcome_of(said.refusal), said.refusal.text, said.why)
    session._dialogue.data_refused(said.refusal)
    session._after()


async def after_auth(session: Session, accepted: Reply) -> None:
    """Ask, then tell the client ``accepted``, or that it is nobody all the same."""
    exchange = session._dialogue.auth
    assert exchange is not None
    said = await session._engine.stages.at_auth(
        _question(session), exchange.mechanism, exchange.user
    )
    session._task = None
    _tell(session, "AUTH", said)
    if said.refusal is not None and session._conversation is not None:
        # To the backend's connection the client is somebody: nothing more on it.
        session._conversation.leave()
        session._conversation = None
    session._dialogue.auth_answered(said.refusal or accepted)
    session._after()


def _tell(session: Session, command: str, said: Stage) -> None:
    """What observe mode has let pass."""
    if said.observed is not None:
        text = f"session {session._id}: {command} would have been answered"
        text = f'{text} "{said.observed.text}": {said.why}'
        session._door.observer(Notice("info", text))


def _question(session: Session) -> Question:
    return Question(
        b"",
        session._dialogue.transaction.sender,
        session._client,
        session._relayclient,
        session._since,
        False,
        session._facts,
    )
