"""Messages that we passed on, and what qmail made of them.

Knows: how a message of ours is found again in qmail-send's log, and which of its
recipients a delivery was for.  Knows not: files, how our own facts come (a log,
or the events of the running service).  Called by the report and the leak watch.

The key is the ``qp`` of qmail-smtpd's ``250 ok TIME qp NUMBER``: the process id of
qmail-queue, which qmail-send logs too.  Process ids come again, so the envelope
sender must be the same as well, and the nearest in time counts.  Where a reply
has no ``qp``, sender and time alone have to do.  A local delivery whose report
names a ``qp`` (qmail-local.c) was forwarded; the forwarded message is ours, too.

Everything that is remembered is bounded; the oldest is forgotten first, and
counted.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from proxy.report.qmail_log import logsafe
from proxy.report.stamp import Clock

MESSAGES_MAX = 50_000
"""Messages remembered until qmail-send names them, and as many until they end."""
_DELIVERIES_MAX = 20_000  # qmail-send has at most some hundreds at a time
_EARLY_SECONDS = 120
"""How much before our own line qmail-send's may be: clocks, and busy logs."""
_LATE_SECONDS = 7 * 86400
_SAME_SECONDS = 10
"""How far apart the two are where only the sender tells."""

_QP = re.compile(rb"ok (\d{9,12}) qp (\d{1,20})").search
# qmail-local.c; forward.c and condredirect.c, which are programs of dot-qmail files.
_FORWARDED = re.compile(rb"/(?:forward:_|condredirect:_)?qp_(\d{1,20})/").search


Key = TypeVar("Key", int, bytes)


class Recipient(NamedTuple):
    """A recipient that was passed on; ``observed`` is what enforce mode would
    have said, where that is another."""

    address: bytes
    rule: str
    reason: str = ""
    observed: str = ""
    undecided: bool = False


@dataclass(slots=True, eq=False)
class Passed:
    """A message that the backend took from us, or one that came of it.

    ``when`` in seconds since 1970.  ``forwarded``: qmail forwarded it for the one
    recipient that is named.
    """

    session: str
    client: str
    sender: bytes
    when: int | None
    recipients: tuple[Recipient, ...]
    qp: int | None = None
    forwarded: bool = False
    by_envelope: bool = field(default=False)
    serial: int = 0


@dataclass(slots=True, eq=False)
class Foreign:
    """A message in qmail's queue that did not come through us; ``bounce`` is one
    that qmail-send made."""

    sender: bytes
    uid: int
    qp: int
    bounce: bool


class Delivery(NamedTuple):
    """The end of one delivery, or of one attempt.

    ``outcome`` is ``success``, ``failure`` or ``deferral``; ``text`` is qmail's.
    ``recipient`` is ours, ``None`` where it cannot be told; ``ambiguous``: others
    of the message may be meant.  ``message`` is ``None`` where its beginning is not
    in the log.
    """

    stamp: bytes
    outcome: str
    channel: str
    address: bytes
    text: bytes
    message: Passed | Foreign | None
    recipient: Recipient | None
    ambiguous: bool


def reply_key(reply: bytes) -> tuple[int | None, int | None]:
    """Time and ``qp`` in qmail-smtpd's 250 (``acceptmessage()``, qmail-smtpd.c)."""
    match = _QP(reply)
    return (int(match[1]), int(match[2])) if match else (None, None)


class Ledger:
    """Hears our facts by :meth:`passed`, qmail-send's as a
    :class:`~proxy.report.qmail_log.Listener`, and calls ``heard`` at each end of
    a delivery."""

    def __init__(
        self,
        heard: Callable[[Delivery], None],
        clock: Clock,
        limit: int = MESSAGES_MAX,
        *,
        successes: bool = True,
    ) -> None:
        """``successes``: of other people's messages too, or only failures."""
        self._heard = heard
        self._clock = clock
        self._limit = limit
        self._successes = successes
        self._serial = 0
        # The oldest is taken from many of them: next(iter()) of a plain dict
        # passes over all that was deleted before it.
        self._waiting: OrderedDict[int, Passed] = OrderedDict()  # by serial
        self._by_qp: dict[int, list[Passed]] = {}
        self._by_sender: dict[bytes, list[Passed]] = {}
        self._queued: OrderedDict[int, Passed | Foreign] = OrderedDict()
        self._foreign_qps: dict[int, int] = {}
        self._bounces: OrderedDict[int, None] = OrderedDict()
        self._deliveries: OrderedDict[int, tuple[int, bytes, bytes]] = OrderedDict()
        self.found = 0
        self.found_by_envelope = 0
        self.foreign = 0
        self.forgotten = 0
        self.bounces_of_ours = 0
        self.bounces_of_others = 0

    @property
    def waiting(self) -> int:
        """Messages that qmail-send has not named yet."""
        return len(self._waiting)

    def passed(self, message: Passed) -> None:
        """The backend took this message from us."""
        self._serial += 1
        message.serial = self._serial
        self._waiting[message.serial] = message
        if message.qp is not None:
            self._by_qp.setdefault(message.qp, []).append(message)
        else:
            sender = logsafe(message.sender)
            self._by_sender.setdefault(sender, []).append(message)
        if len(self._waiting) > self._limit:
            oldest = next(iter(self._waiting.values()))
            self._take(oldest)
            self.forgotten += not oldest.forwarded

    def _take(self, message: Passed) -> None:
        del self._waiting[message.serial]
        if message.qp is not None:
            _drop(self._by_qp, message.qp, message)
        else:
            _drop(self._by_sender, logsafe(message.sender), message)

    # qmail-send's lines.

    def info(
        self, stamp: bytes, message: int, sender: bytes, qp: int, uid: int
    ) -> None:
        """See :class:`~proxy.report.qmail_log.Listener`."""
        self._forget_queued(message)
        found = self._find(stamp, sender, qp)
        if found is not None:
            self._take(found)
            found.qp = qp
            self._queued[message] = found
            self.found += not found.forwarded
            self.found_by_envelope += found.by_envelope
        else:
            bounce = self._bounces.pop(qp, 0) is None
            self._queued[message] = Foreign(sender, uid, qp, bounce)
            self._foreign_qps[qp] = message
            self.foreign += 1
        if len(self._queued) > self._limit:
            self._forget_queued(next(iter(self._queued)))

    def starting(
        self, delivery: int, message: int, channel: bytes, recipient: bytes
    ) -> None:
        """See :class:`~proxy.report.qmail_log.Listener`."""
        self._deliveries[delivery] = (message, channel, recipient)
        if len(self._deliveries) > _DELIVERIES_MAX:
            self._deliveries.popitem(last=False)

    def result(self, stamp: bytes, delivery: int, report: bytes) -> None:
        """See :class:`~proxy.report.qmail_log.Listener`."""
        began = self._deliveries.pop(delivery, None)
        if began is None:
            return
        number, channel, address = began
        outcome, _, text = report.partition(b": ")
        if outcome not in (b"success", b"failure"):
            outcome = b"deferral"
        message = self._queued.get(number)
        if not isinstance(message, Passed):
            if outcome == b"failure" or (self._successes and outcome == b"success"):
                self._tell(stamp, outcome, channel, address, text, message)
            return
        recipient, ambiguous = recipient_of(address, message)
        if outcome == b"success" and recipient and channel == b"local":
            self._follow(text, message, recipient)
        self._tell(
            stamp, outcome, channel, address, text, message, recipient, ambiguous
        )

    def bounced(self, message: int, qp: int) -> None:
        """See :class:`~proxy.report.qmail_log.Listener`."""
        if isinstance(self._queued.get(message), Passed):
            self.bounces_of_ours += 1
        else:
            self.bounces_of_others += 1
        self._bounces[qp] = None
        if len(self._bounces) > self._limit:
            self._bounces.popitem(last=False)

    def ended(self, message: int) -> None:
        """See :class:`~proxy.report.qmail_log.Listener`."""
        self._forget_queued(message)

    # Inside.

    def _find(self, stamp: bytes, sender: bytes, qp: int) -> Passed | None:
        same_qp = self._by_qp.get(qp)
        if not same_qp and not self._by_sender:
            return None
        when = self._clock.seconds(stamp) if stamp else None
        if same_qp:
            fit = [m for m in same_qp if _may_be(m, sender, when)]
            if fit:
                return min(fit, key=lambda message: _apart(message, when))
        near = [
            m
            for m in self._by_sender.get(sender, ())
            if _apart(m, when) <= _SAME_SECONDS
        ]
        if not near:
            return None
        near[0].by_envelope = True
        return near[0]

    def _follow(self, text: bytes, message: Passed, recipient: Recipient) -> None:
        """What was forwarded for ``recipient`` is ours."""
        match = _FORWARDED(b"/" + text + b"/")
        if match is None:
            return
        qp = int(match[1])
        new = Passed(
            message.session,
            message.client,
            message.sender,
            message.when,
            (recipient,),
            qp,
            forwarded=True,
        )
        number = self._foreign_qps.pop(qp, None)
        known = self._queued.get(number) if number is not None else None
        if number is not None and isinstance(known, Foreign) and known.qp == qp:
            self._queued[number] = new  # qmail-send had it before the report
            self.foreign -= 1
        else:
            new.when = None
            self.passed(new)

    def _forget_queued(self, number: int) -> None:
        message = self._queued.pop(number, None)
        if isinstance(message, Foreign):
            self._foreign_qps.pop(message.qp, None)

    def _tell(
        self,
        stamp: bytes,
        outcome: bytes,
        channel: bytes,
        address: bytes,
        text: bytes,
        message: Passed | Foreign | None,
        recipient: Recipient | None = None,
        ambiguous: bool = False,
    ) -> None:
        self._heard(
            Delivery(
                stamp,
                outcome.decode("ascii"),
                channel.decode("ascii"),
                address,
                text,
                message,
                recipient,
                ambiguous,
            )
        )


def _drop(table: dict[Key, list[Passed]], key: Key, message: Passed) -> None:
    messages = table[key]
    messages.remove(message)
    if not messages:
        del table[key]


def _may_be(message: Passed, sender: bytes, when: int | None) -> bool:
    if message.forwarded:
        return True  # ~/.qmail-owner may have changed its sender
    ours = logsafe(message.sender)
    # Our log cuts what is very long.
    same = ours == sender or (ours.endswith(b"...") and sender.startswith(ours[:-3]))
    if when is None or message.when is None:
        return same
    return same and -_EARLY_SECONDS <= when - message.when <= _LATE_SECONDS


def _apart(message: Passed, when: int | None) -> int:
    if when is None or message.when is None:
        return 0
    return abs(when - message.when)


def recipient_of(address: bytes, message: Passed) -> tuple[Recipient | None, bool]:
    """Which recipient of ``message`` a delivery to ``address`` is for, and whether
    that is a guess.

    ``rewrite()`` (qmail-send.c) leaves an address as it is, or puts a virtual
    domain's ``prefix-`` before it.  Where several fit, that with the shortest
    prefix is taken.  Where none does (a recipient without a domain, the percent
    hack, RELAYCLIENT's suffix), it is the only one, or none.
    """
    recipients = message.recipients
    if message.forwarded:
        return recipients[0], False
    fit: list[tuple[int, Recipient]] = []
    for recipient in recipients:
        shown = logsafe(recipient.address)
        if address == shown or address.endswith(b"-" + shown):
            fit.append((len(shown), recipient))
    if fit:
        best = max(fit, key=lambda one: one[0])[1]
        return best, len({recipient.address for _, recipient in fit}) > 1
    return (recipients[0], False) if len(recipients) == 1 else (None, True)
