"""The decision: what an unmodified qmail would do with a recipient.

Knows: the way of a recipient through qmail-smtpd, qmail-send, qmail-lspawn and
qmail-local, and through forwards to their end.  Knows not: SMTP replies
(:mod:`proxy.rules.qmail`).  Pure: the same files give the same answer.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from proxy.qmail import send, smtpd
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.local import Delivery, Ending, Envelope, deliver
from proxy.qmail.moment import Moment
from proxy.qmail.passwd import Controller, getpw
from proxy.qmail.trail import Trail
from proxy.qmail.users import AssignError, assigned

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


@dataclass(slots=True)
class Decision:
    """The outcome with its reasons.

    ``reason`` is one line for the log; ``undecided`` says that a program
    decides, so that the recipient was given the benefit of the doubt;
    ``open_relay`` that only the want of control/rcpthosts let it in.
    """

    outcome: Outcome
    reason: str
    undecided: bool = False
    open_relay: bool = False
    trail: Trail = field(default_factory=Trail)


def decide(
    host: QmailHost,
    recipient: bytes,
    sender: bytes = b"",
    relayclient: bytes | None = None,
    since: float = math.inf,
) -> Decision:
    """What qmail would do with ``recipient``, a path as bytes
    (:func:`proxy.smtp.path.read_path`).

    ``relayclient`` is the variable of that name (qmail-smtpd.8): if set,
    rcpthosts is not consulted and its value is appended to the address.
    ``since`` is how fresh the answer must be (:meth:`QmailHost.moment`).
    Never raises for anything that the files may contain.
    """
    trail = Trail()
    moment = host.moment(since)
    decision = _gate_and_journey(host, moment, recipient, sender, relayclient, trail)
    decision.trail = trail
    return decision


def _gate_and_journey(
    host: QmailHost,
    moment: Moment,
    recipient: bytes,
    sender: bytes,
    relayclient: bytes | None,
    trail: Trail,
) -> Decision:
    try:
        gate = _Gate(host, moment, trail)
        refusal = gate.refusal(recipient, sender, relayclient)
    except _Trouble as error:
        return Decision(Outcome.BROKEN, _note_trouble(host, error, trail))
    if refusal is not None:
        return refusal
    try:
        decision = _Journey(host, moment, trail).decide(gate.recipient, gate.sender)
        decision.open_relay = gate.open_relay
        return decision
    except _Trouble as error:
        return Decision(Outcome.DEFER, _note_trouble(host, error, trail))


_Trouble = (ControlError, CannotTell, KernelError)


def _note_trouble(host: QmailHost, error: Exception, trail: Trail) -> str:
    """What the administrator has to mend; the text for the log."""
    if isinstance(error, ControlError):
        trail.add(b"control/" + error.name, "qmail cannot read it: {}", error.why)
    elif isinstance(error, CannotTell):
        trail.add(error.path, "the front door cannot read it: {}", error.why)
    else:
        trail.add(host.settings.home, "{}", str(error))
    return str(error)


class _Gate:
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
            return Decision(Outcome.NOT_RELAYED, "the domain is not in rcpthosts")
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

    def __init__(self, host: QmailHost, moment: Moment, trail: Trail) -> None:
        self.host = host
        self.moment = moment
        self.trail = trail
        self.deliveries = 0
        self.settings = moment.send()

    def decide(self, recipient: bytes, sender: bytes) -> Decision:
        route = send.route(self.settings, recipient, self.trail)
        if not route.is_local:
            return Decision(Outcome.REMOTE, "routed to a remote host")
        envelope = Envelope(
            *route.local_and_host(), send.sender_for(sender, route.address)
        )
        if not envelope.local:
            self.trail.add(b"qmail-lspawn", "the local part is empty: thrown away")
            return Decision(Outcome.DISCARD, "the local part is empty")
        delivery = self._deliver(envelope)
        if delivery.ending is Ending.FAILURE:
            return Decision(Outcome.BOUNCE, delivery.reason)
        if delivery.ending is Ending.DEFERRAL:
            return Decision(Outcome.DEFER, delivery.reason)
        if not delivery.forwards:
            return Decision(Outcome.DELIVER, delivery.reason, delivery.undecided)
        return self._forwarded(self._copies(delivery, envelope, ()))

    def _forwarded(self, found: _Found) -> Decision:
        """One copy that arrives is enough; if none does, one that waits."""
        undecided = bool(found & _Found.UNDECIDED)
        if not found & _Found.FAILED or found & _Found.KEPT:
            return Decision(Outcome.FORWARD, "forwarded", undecided)
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
            found |= _Found.UNDECIDED
        chain = (*chain, _delivered_to(envelope))
        for address in delivery.forwards:
            found |= self._copy(address, delivery.forward_sender, chain)
            if self.deliveries > _DELIVERIES_MAX:
                break
        return found

    def _copy(self, address: bytes, sender: bytes, chain: tuple[bytes, ...]) -> _Found:
        self.deliveries += 1
        if self.deliveries > _DELIVERIES_MAX or len(chain) > _DEPTH_MAX:
            self.trail.add(b"qmail-local", "too many forwards to follow: undecided")
            return _Found.KEPT | _Found.UNDECIDED
        route = send.route(self.settings, address, self.trail)
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
            kept = _Found.KEPT
            return kept | _Found.UNDECIDED if delivery.undecided else kept
        return self._copies(delivery, envelope, chain)

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
        return deliver(self.host, controller, envelope, self.trail)

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
