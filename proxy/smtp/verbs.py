"""What each verb means: the order of commands as qmail-smtpd keeps it.

Knows: what is answered at once, and what has to be asked.  Knows not: how lines
are read and replies are kept in order.  Called by the dialogue, whose friend
this module is: it moves its states.  AUTH and STARTTLS have modules of their
own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.smtp import auth, replies, starttls
from proxy.smtp.command import parameters
from proxy.smtp.driver import Pending
from proxy.smtp.path import ADDRESS_MAX, address_literal, read_path
from proxy.smtp.reply import Reply
from proxy.smtp.state import State
from proxy.smtp.transaction import Transaction

if TYPE_CHECKING:
    from proxy.smtp.dialogue import Dialogue


def _greet(dialogue: Dialogue, argument: bytes, *, extended: bool) -> None:
    dialogue._reset()
    dialogue.helo = argument
    dialogue.extended = extended


def _helo(dialogue: Dialogue, argument: bytes) -> None:
    _greet(dialogue, argument, extended=False)
    dialogue._outbox.say(dialogue._banner.helo)


def _ehlo(dialogue: Dialogue, argument: bytes) -> None:
    _greet(dialogue, argument, extended=True)
    offered = dialogue.auth_offered and auth.offered_now(dialogue)
    dialogue._outbox.say(dialogue._banner.ehlo_reply(dialogue.tls, offered))


def _mail(dialogue: Dialogue, argument: bytes) -> None:
    sender = read_path(argument)
    # One at our own address gets the name of control/localiphost (qmail-smtpd.c,
    # addrparse), and may be short enough then: qmail-smtpd says it.
    if len(sender) > ADDRESS_MAX and address_literal(sender) is None:
        dialogue._error(replies.SYNTAX)
        return
    limit = dialogue._limits.declared_size
    if limit:
        size = parameters(argument).get(b"SIZE", b"")
        if size.isdigit() and len(size) <= 20 and int(size) > limit:
            dialogue._driver.limit_reached("message_size")
            dialogue._outbox.say(replies.TOO_BIG)
            return
    dialogue._reset()  # a second MAIL starts anew (qmail-smtpd.c, smtp_mail)
    dialogue.transaction = Transaction(argument, sender)
    dialogue._outbox.say(replies.SENDER_OK)


def _rcpt(dialogue: Dialogue, argument: bytes) -> None:
    transaction = dialogue.transaction
    if transaction.mail is None:
        dialogue._error(replies.MAIL_FIRST)
        return
    if _too_many(dialogue, transaction):
        return
    verdict = dialogue._driver.decide(read_path(argument), argument)
    if verdict is Pending.LATER:
        dialogue._asked = argument
        dialogue.state = State.DECIDING
        return
    recipient_decided(dialogue, argument, verdict)


def _too_many(dialogue: Dialogue, transaction: Transaction) -> bool:
    """Unknown recipients of the session, or recipients of the transaction:
    what is beyond is 452, what was taken stays (RFC 5321 §4.5.3.1.10)."""
    limits = dialogue._limits
    if _too_many_unknown(dialogue) and not transaction.relayed:
        dialogue._used_up(replies.TOO_MANY_UNKNOWN, "unknown_per_session")
        return True
    transaction.recipients += 1
    if not 0 < limits.recipients < transaction.recipients:
        return False
    if transaction.recipients == limits.recipients + 1:
        dialogue._driver.limit_reached("recipients")
    dialogue._outbox.say(replies.TOO_MANY_RECIPIENTS)
    return True


def _too_many_unknown(dialogue: Dialogue) -> bool:
    return 0 < dialogue._limits.unknown_recipients <= dialogue._unknown


def recipient_decided(
    dialogue: Dialogue, argument: bytes, verdict: Reply | Pending
) -> None:
    """The verdict on a recipient, at once or later."""
    if isinstance(verdict, Reply):
        relayed = dialogue.transaction.relayed
        if verdict.permanent and relayed and _too_many_unknown(dialogue):
            verdict = replies.UNKNOWN_LATER  # the others are not to suffer for it
        dialogue._outbox.say(verdict)
        if verdict.permanent:
            dialogue._unknown += 1
        if verdict.code == 421 or verdict.last:
            guesser = verdict == replies.TOO_MANY_GUESSES
            dialogue._close("harvest_defence" if guesser else "rule")
        return
    transaction = dialogue.transaction
    if transaction.broken is not None:
        dialogue._outbox.say(transaction.broken)
        return
    transaction.relayed = True
    dialogue._outbox.keep_place()
    dialogue._driver.relay_recipient(argument)


def _data(dialogue: Dialogue, argument: bytes) -> None:
    transaction = dialogue.transaction
    if transaction.mail is None:
        dialogue._error(replies.MAIL_FIRST)
    elif not transaction.accepted:
        if transaction.recipients:  # all were refused: no error (RFC 2920 §3.1)
            dialogue._outbox.say(replies.RCPT_FIRST)
        else:
            dialogue._error(replies.RCPT_FIRST)
    elif transaction.broken is not None:
        dialogue._transaction_over(transaction.broken)
    else:
        dialogue.state = State.ASKING
        dialogue._driver.relay_data()


def _rset(dialogue: Dialogue, argument: bytes) -> None:
    dialogue._reset()
    dialogue.flushed += 1
    dialogue._outbox.say(replies.FLUSHED)


def _quit(dialogue: Dialogue, argument: bytes) -> None:
    dialogue._outbox.say(dialogue._banner.quit)
    dialogue._close("quit")


def _bdat(dialogue: Dialogue, argument: bytes) -> None:
    """RFC 3030, which EHLO does not offer.  Where a message could be meant,
    it follows at once, and its lines must not be taken for commands."""
    dialogue._outbox.say(replies.UNIMPLEMENTED)
    if dialogue.transaction.recipients:
        dialogue._reset()
        dialogue._close("BDAT")


Verb = Callable[["Dialogue", bytes], None]


def _says(reply: Reply) -> Verb:
    """A verb that is always answered so."""
    return lambda dialogue, argument: dialogue._outbox.say(reply)


def unimplemented(dialogue: Dialogue, argument: bytes) -> None:
    """Whatever else is said."""
    dialogue._error(replies.UNIMPLEMENTED)


VERBS: dict[bytes, Verb] = {
    b"helo": _helo,
    b"ehlo": _ehlo,
    b"mail": _mail,
    b"rcpt": _rcpt,
    b"data": _data,
    b"starttls": starttls.command,
    b"rset": _rset,
    b"noop": _says(replies.OK),
    b"help": _says(replies.HELP),
    b"vrfy": _says(replies.VRFY),
    b"quit": _quit,
    b"bdat": _bdat,
    b"auth": auth.command,
}
