"""qmail-smtpd's own word, for rules that ask elsewhere about mailboxes.

Knows: that whatever a rule says, rcpthosts and badmailfrom hold, and which domains
are the host's own.  Knows not: any mailbox.  Called by :mod:`proxy.rules.gate`.
Source: qmail-smtpd.8, qmail-send.8.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from proxy.qmail import send, smtpd
from proxy.qmail.decide import (
    REMOTE,
    TROUBLE,
    Decision,
    Gate,
    Outcome,
    note_trouble,
)
from proxy.qmail.host import QmailHost
from proxy.qmail.moment import Moment
from proxy.qmail.percenthack import leaves_by_percenthack
from proxy.qmail.trail import SILENT, Trail


class Admitted(NamedTuple):
    """A recipient that qmail-smtpd takes.

    ``mailbox`` is ``user@domain`` as qmail-send sees it.  ``open_relay``: only the
    want of control/rcpthosts let it in.  ``hacked``: only the percent hack leads it
    to another host.
    """

    mailbox: bytes
    open_relay: bool
    hacked: bool
    trail: Trail


def admitted(
    host: QmailHost,
    recipient: bytes,
    sender: bytes,
    relayclient: bytes | None,
    since: float,
    *,
    traced: bool,
) -> Admitted | Decision:
    """What qmail-smtpd says to a recipient; the arguments are those of
    :func:`~proxy.qmail.decide.decide`.

    A decision ends it: a refusal, or a recipient of another host's domain that
    this client may send to.
    """
    moment = host.moment(since)
    trail = Trail() if traced else SILENT
    try:
        return _admitted(host, moment, recipient, sender, relayclient, trail)
    except TROUBLE as error:
        reason = note_trouble(host, error, trail)
        return Decision(Outcome.BROKEN, reason, trail=trail)


def _admitted(
    host: QmailHost,
    moment: Moment,
    recipient: bytes,
    sender: bytes,
    relayclient: bytes | None,
    trail: Trail,
) -> Admitted | Decision:
    gate = Gate(host, moment, trail)
    refusal = gate.refusal(recipient, sender, relayclient)
    if refusal is not None:
        return replace(refusal, trail=trail)
    routes = moment.send()
    mailbox = gate.recipient
    if b"@" not in mailbox:
        mailbox += b"@" + routes.envnoathost
    ours = smtpd.domain_allowed(gate.settings, mailbox, SILENT)
    if not ours and not send.route(routes, gate.recipient, trail).is_local:
        return replace(REMOTE, open_relay=gate.open_relay, trail=trail)
    hacked = relayclient is None and leaves_by_percenthack(host, moment, recipient)
    return Admitted(mailbox, gate.open_relay, hacked, trail)
