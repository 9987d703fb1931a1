"""The decision: what an unmodified qmail would do with a recipient.

Knows: the way of a recipient through qmail-smtpd, qmail-send, qmail-lspawn and
qmail-local, and through forwards to their end.  Knows not: SMTP replies
(:mod:`proxy.rules.qmail`).  Pure: the same files give the same answer.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.qmail import send, smtpd
from proxy.qmail.cache import keep
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.local import (
    NO_DELIVERY,
    NO_MAILBOX,
    Delivery,
    Ending,
    Envelope,
    deliver,
)
from proxy.qmail.moment import Moment
from proxy.qmail.passwd import Controller, getpw
from proxy.qmail.questions import NO_ANSWERS, Answers, Need, Question
from proxy.qmail.trail import SILENT, Step, Trail
from proxy.qmail.users import AssignError, assigned
from proxy.smtp.path import ADDRESS_MAX

# Forwards that fork at every step would grow without end; qmail itself stops
# only at a Delivered-To line that it has seen before.
_DELIVERIES_MAX = 500
_DEPTH_MAX = 60


class Outcome(enum.Enum):
    """What becomes of a recipient; the words of the recorded hosts."""

    DELIVER = "deliver"
    FORWARD = "forward"
    REMOTE = "remote"
    BOUNCE = "bounce"
    DEFER = "defer"
    DISCARD = "discard"
    SYNTAX = "syntax"
    BAD_SENDER = "bad sender"
    NOT_RELAYED = "not relayed"
    BROKEN = "broken"
    OVER_QUOTA = "over quota"
    OVER_QUOTA_NOW = "over quota, for now"
    NEEDS = "needs an answer"


# Compared by identity: the common ones are made once.
@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """The outcome with its reasons.

    ``reason`` is one line for the log; ``undecided`` says that a program
    decides, so that the recipient was given the benefit of the doubt;
    ``open_relay`` that only the want of control/rcpthosts let it in; ``need`` is
    what a database has to be asked before there is a decision.
    """

    outcome: Outcome
    reason: str
    undecided: bool = False
    open_relay: bool = False
    trail: Sequence[Step] = ()
    need: Question | None = None


UNKNOWN = Decision(Outcome.BOUNCE, NO_MAILBOX)
DELIVERED = Decision(Outcome.DELIVER, "delivered")
REMOTE = Decision(Outcome.REMOTE, "routed to a remote host")
NOT_RELAYED = Decision(Outcome.NOT_RELAYED, "the domain is not in rcpthosts")


def decide(
    host: QmailHost,
    recipient: bytes,
    sender: bytes = b"",
    relayclient: bytes | None = None,
    since: float = math.inf,
    *,
    traced: bool = True,
    answers: Answers = NO_ANSWERS,
) -> Decision:
    """What qmail would do with ``recipient``, a path as bytes
    (:func:`proxy.smtp.path.read_path`).

    ``relayclient`` is the variable of that name (qmail-smtpd.8): if set,
    rcpthosts is not consulted and its value is appended to the address.
    ``since`` is how fresh the answer must be (:meth:`QmailHost.moment`);
    ``traced`` asks for the reasons.  Never raises for anything that the files
    may contain.

    Where files do not tell it at once, the outcome is ``NEEDS`` and ``need`` the
    question; whoever has the answer asks again, with all ``answers`` so far.
    """
    moment = host.moment(since)
    if not traced:
        if relayclient is None and not answers:
            local = _plain_local(moment, recipient, sender)
            if local is not None:
                return _arrived(host, moment, local, recipient, sender)
        return _decide(host, moment, recipient, sender, relayclient, SILENT, answers)
    trail = Trail()
    decision = _decide(host, moment, recipient, sender, relayclient, trail, answers)
    return replace(decision, trail=trail)


def _decide(
    host: QmailHost,
    moment: Moment,
    recipient: bytes,
    sender: bytes,
    relayclient: bytes | None,
    trail: Trail,
    answers: Answers,
) -> Decision:
    try:
        gate = Gate(host, moment, trail)
        refusal = gate.refusal(recipient, sender, relayclient)
    except TROUBLE as error:
        return Decision(Outcome.BROKEN, note_trouble(host, error, trail))
    if refusal is not None:
        return refusal
    try:
        journey = _Journey(host, moment, trail, answers)
        decision = journey.decide(gate.recipient, gate.sender)
    except Need as need:
        decision = _needs(need)
    except TROUBLE as error:
        return Decision(Outcome.DEFER, note_trouble(host, error, trail))
    return replace(decision, open_relay=True) if gate.open_relay else decision


def _plain_local(moment: Moment, recipient: bytes, sender: bytes) -> bytes | None:
    """The local name that an ordinary recipient gets, if its domain is known.

    What the gate and the routing make of a domain's ordinary addresses is
    remembered (:func:`_prefix`): a dictionary attack asks for one domain over
    and over.  ``None`` sends the recipient the long way.
    """
    box, _, domain = recipient.rpartition(b"@")
    if not box or len(recipient) > ADDRESS_MAX or len(sender) > ADDRESS_MAX:
        return None
    # An address literal or a NUL, in either path (smtpd.envelope_address).
    both = recipient + sender
    if b"[" in both or b"\0" in both:
        return None
    try:
        prefix = moment.prefixes[domain]
    except KeyError:
        prefix = keep(moment.prefixes, domain, _prefix(moment, domain))
    return None if prefix is None else prefix + box


def _prefix(moment: Moment, domain: bytes) -> bytes | None:
    """What virtualdomains puts before the local part of every ordinary address
    at ``domain``; ``None`` unless the domain alone decides that such an address
    is accepted and local."""
    try:
        gate, routes = moment.smtpd(), moment.send()
        if gate.badmailfrom or gate.rcpthosts is None:
            return None
        if routes.percenthack or routes.by_address:
            return None
        address = b"x@" + domain
        if not smtpd.domain_allowed(gate, address, SILENT):
            return None
        route = send.route(routes, address, SILENT)
    except TROUBLE:
        return None
    return route.address[: -len(address)] if route.is_local else None


def _arrived(
    host: QmailHost, moment: Moment, local: bytes, recipient: bytes, sender: bytes
) -> Decision:
    """The decision on an address whose way as far as qmail-lspawn is known."""
    envelope = Envelope(local, recipient[recipient.rfind(b"@") + 1 :], sender)
    try:
        return _Journey(host, moment, SILENT).arrived(envelope)
    except Need as need:
        return _needs(need)
    except TROUBLE as error:
        return Decision(Outcome.DEFER, str(error))


def _needs(need: Need) -> Decision:
    return Decision(Outcome.NEEDS, "something must be asked", need=need.question)


TROUBLE = (ControlError, CannotTell, KernelError)
"""What reading the host's files may raise."""


def note_trouble(host: QmailHost, error: Exception, trail: Trail) -> str:
    """What the administrator has to mend; the text for the log."""
    if isinstance(error, ControlError):
        trail.add(b"control/" + error.name, "qmail cannot read it: {}", error.why)
    elif isinstance(error, CannotTell):
        trail.add(error.path, "the front door cannot tell: {}", error.why)
    else:
        trail.add(host.settings.home, "{}", str(error))
    return str(error)


class Gate:
    """qmail-smtpd: its own refusals, and the envelope that it queues."""

    def __init__(self, host: QmailHost, moment: Moment, trail: Trail) -> None:
        self.local_ips = host.settings.local_ips
        self.trail = trail
        self.settings = moment.smtpd()
        self.recipient = self.sender = b""
        self.open_relay = False

    def refusal(
        self, recipient: bytes, sender: bytes, relayclient: bytes | None
    ) -> Decision | None:
        """``None`` when qmail-smtpd says 250; then ``recipient`` and ``sender``
        are the envelope."""
        settings, trail = self.settings, self.trail
        self.sender = self._address(sender) or sender.partition(b"\0")[0]
        address = self._address(recipient)
        if address is None:
            return Decision(Outcome.SYNTAX, "the address is too long")
        if smtpd.sender_listed(settings, self.sender, trail):
            return Decision(Outcome.BAD_SENDER, "the sender is in badmailfrom")
        if relayclient is not None:
            trail.add(b"qmail-smtpd", "RELAYCLIENT is set: any domain is allowed")
            address += relayclient
        elif settings.rcpthosts is None:
            trail.add(b"control/rcpthosts", "does not exist: every domain is allowed")
            self.open_relay = True
        elif not smtpd.domain_allowed(settings, address, trail):
            return NOT_RELAYED
        self.recipient = address
        return None

    def _address(self, path: bytes) -> bytes | None:
        return smtpd.envelope_address(self.settings, path, self.local_ips, self.trail)


class _Found(enum.IntFlag):
    """What was met on the way of all copies of a message."""

    KEPT = 1  # a file, a program, a remote host: the copy arrives
    FAILED = 2
    WAITS = 4
    UNDECIDED = 8


class _Journey:
    """The copies of one message, followed to where each of them ends."""

    def __init__(
        self,
        host: QmailHost,
        moment: Moment,
        trail: Trail,
        answers: Answers = NO_ANSWERS,
    ) -> None:
        self.host = host
        self.moment = moment
        self.trail = trail
        self.answers = answers
        self.deliveries = 0
        self.doubt = ""  # why the first undecided copy is that

    def decide(self, recipient: bytes, sender: bytes) -> Decision:
        route = send.route(self.moment.send(), recipient, self.trail)
        if not route.is_local:
            return REMOTE
        envelope = Envelope(
            *route.local_and_host(), send.sender_for(sender, route.address)
        )
        if not envelope.local:
            self.trail.add(b"qmail-lspawn", "the local part is empty: thrown away")
            return Decision(Outcome.DISCARD, "the local part is empty")
        return self.arrived(envelope)

    def arrived(self, envelope: Envelope) -> Decision:
        """What becomes of a mail that qmail-lspawn is given."""
        delivery = self._deliver(envelope)
        if delivery is NO_DELIVERY:
            return UNKNOWN
        if delivery.ending is Ending.FAILURE:
            outcome = Outcome.OVER_QUOTA if delivery.full else Outcome.BOUNCE
            return Decision(outcome, delivery.reason)
        if delivery.ending is Ending.DEFERRAL:
            outcome = Outcome.OVER_QUOTA_NOW if delivery.full else Outcome.DEFER
            return Decision(outcome, delivery.reason)
        if not delivery.forwards:
            if delivery.undecided:
                return Decision(Outcome.DELIVER, delivery.reason, undecided=True)
            return DELIVERED
        return self._forwarded(self._copies(delivery, envelope, ()))

    def _forwarded(self, found: _Found) -> Decision:
        """One copy that arrives is enough; if none does, one that waits."""
        undecided = bool(found & _Found.UNDECIDED)
        if not found & _Found.FAILED or found & _Found.KEPT:
            reason = f"forwarded; {self.doubt}" if undecided else "forwarded"
            return Decision(Outcome.FORWARD, reason, undecided)
        if found & _Found.WAITS:
            return Decision(Outcome.DEFER, "forwarded, and no copy arrives for now")
        return Decision(Outcome.BOUNCE, "forwarded, and every copy bounces")

    def _copies(
        self, delivery: Delivery, envelope: Envelope, chain: tuple[bytes, ...]
    ) -> _Found:
        """What becomes of the copies of a successful delivery."""
        found = _Found(0)
        if delivery.kept:
            found |= _Found.KEPT
        if delivery.undecided:
            found |= self._undecided(delivery.reason)
        chain = (*chain, _delivered_to(envelope))
        for address, sender in delivery.forwards:
            found |= self._copy(address, sender, chain)
            if self.deliveries > _DELIVERIES_MAX:
                break
        return found

    def _copy(self, address: bytes, sender: bytes, chain: tuple[bytes, ...]) -> _Found:
        self.deliveries += 1
        if self.deliveries > _DELIVERIES_MAX or len(chain) > _DEPTH_MAX:
            self.trail.add(b"qmail-local", "too many forwards to follow: undecided")
            return _Found.KEPT | self._undecided("undecided: too many forwards")
        route = send.route(self.moment.send(), address, self.trail)
        if not route.is_local:
            return _Found.KEPT
        envelope = Envelope(
            *route.local_and_host(), send.sender_for(sender, route.address)
        )
        if not envelope.local:
            self.trail.add(b"qmail-lspawn", "the local part is empty: thrown away")
            return _Found.KEPT
        if _delivered_to(envelope) in chain:
            self.trail.add(b"qmail-local", "{} again: it loops", route.address)
            return _Found.FAILED
        delivery = self._deliver(envelope)
        if delivery.ending is Ending.FAILURE:
            return _Found.FAILED
        if delivery.ending is Ending.DEFERRAL:
            return _Found.WAITS
        if not delivery.forwards:
            if delivery.undecided:
                return _Found.KEPT | self._undecided(delivery.reason)
            return _Found.KEPT
        return self._copies(delivery, envelope, chain)

    def _undecided(self, reason: str) -> _Found:
        self.doubt = self.doubt or reason
        return _Found.UNDECIDED

    def _deliver(self, envelope: Envelope) -> Delivery:
        """qmail-lspawn, then qmail-local."""
        try:
            controller = self._controller(envelope.local)
        except AssignError as error:
            self.trail.add(b"users/cdb", "damaged: {}", str(error))
            return Delivery(Ending.DEFERRAL, "trouble reading users/cdb")
        except KernelError as error:
            self.trail.add(b"qmail-lspawn", "temporary failure: {}", str(error))
            return Delivery(Ending.DEFERRAL, str(error))
        if controller is None:
            self.trail.add(b"/etc/passwd", "there is no alias user")
            return Delivery(Ending.DEFERRAL, "unable to find the alias user")
        # qmail-lspawn: setgid(-1) and setuid(-1) fail; uid 0 is never run.
        if controller.uid == 0:
            self.trail.add(b"qmail-lspawn", "no deliveries as root")
            return Delivery(Ending.DEFERRAL, "not allowed to deliver as root")
        if 0xFFFFFFFF in (controller.uid, controller.gid):
            self.trail.add(b"qmail-lspawn", "the user or group number is -1")
            return Delivery(Ending.DEFERRAL, "no such user or group number")
        return deliver(
            self.host, controller, envelope, self.trail, self.moment, self.answers
        )

    def _controller(self, local: bytes) -> Controller | None:
        moment = self.moment
        cdb = moment.users_cdb()
        if cdb is not None:
            found = assigned(cdb, local)
            if found is not None:
                key, controller = found
                self.trail.add(
                    b"users/cdb",
                    "{} belongs to {}, home {}, by the entry {}",
                    local,
                    controller.user,
                    controller.home,
                    key.rstrip(b"\0")[1:] or b"for everything else",
                )
                return controller
        settings = self.host.settings
        found_account = getpw(
            moment.account,
            moment.getpw_walker(),
            local,
            settings.break_char,
            settings.alias_user,
            settings.home,
        )
        if found_account is not None:
            self.trail.add(
                b"/etc/passwd",
                "{} belongs to {}, home {}",
                local,
                found_account.user,
                found_account.home,
            )
        return found_account


def _delivered_to(envelope: Envelope) -> bytes:
    """The Delivered-To line that qmail-local adds and looks for."""
    return envelope.local + b"@" + envelope.host
