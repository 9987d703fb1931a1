"""Our log and qmail-send's, side by side: both kinds of error.

Knows: how our lines make a message with its recipients; what is a false refusal
and what a leak.  Knows not: files, how it is shown, how the two are matched
(``ledger``).  Called by the report's command.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import NamedTuple

from proxy.observe.heavy import Heavy
from proxy.report.ledger import (
    Delivery,
    Foreign,
    Ledger,
    Passed,
    Recipient,
    reply_key,
)
from proxy.report.our_log import (
    CLIENT,
    MESSAGE_CLIENT,
    MESSAGE_OUTCOME,
    MESSAGE_RECIPIENTS,
    MESSAGE_REPLY,
    MESSAGE_SENDER,
    MESSAGE_SESSION,
    OBSERVED,
    REASON,
    RECIPIENT,
    REFUSED_RECIPIENT,
    REFUSED_REPLY,
    REFUSED_SESSION,
    REPLY,
    RULE,
    SESSION,
    UNDECIDED,
    VERDICT,
    Row,
    plain,
)
from proxy.report.qmail_log import logsafe
from proxy.report.tally import Tally, Wanted, domain_of

SESSIONS_MAX = 10_000
REFUSED_MAX = 20_000
"""Recipients that were refused last: what qmail delivers to them is told."""
_RECIPIENTS_MAX = 10_000  # of one session, since its last message
_WITHIN_SECONDS = 86400
"""How long after a refusal qmail's delivery to that address speaks against it."""


class Case(NamedTuple):
    """One error: ours if it is a false refusal, and ours if it is a leak."""

    when: int | None
    session: str
    client: str
    sender: bytes
    recipient: bytes
    rule: str
    reason: str
    channel: str
    delivered: bytes
    text: bytes
    ambiguous: bool
    forwarded: bool


class Cases:
    """All of one kind: counted by rule and recipient, the last ones in full."""

    def __init__(self, last: int, size: int) -> None:
        self.total = 0
        self.ambiguous = 0
        self.rules = Heavy(size)
        self.recipients = Heavy(size)
        self.texts = Heavy(size)
        self.last: deque[Case] = deque(maxlen=last)

    def add(self, case: Case) -> None:
        """One more."""
        self.total += 1
        self.ambiguous += case.ambiguous
        self.rules.add({f"{case.rule}\0{case.reason}".encode("latin-1", "replace"): 1})
        self.recipients.add({case.recipient: 1})
        self.texts.add({case.text: 1})
        self.last.append(case)


class Joined:
    """Hears blocks of both logs, about in the order of time."""

    def __init__(self, tally: Tally, *, last: int = 10) -> None:
        self._tally = tally
        self._clock = tally.clock
        self._wanted: Wanted = tally.wanted
        size = tally.size
        self.ledger = Ledger(self._heard, tally.clock)
        self._sessions: OrderedDict[bytes, list[Row]] = OrderedDict()
        self._refused: OrderedDict[bytes, Row] = OrderedDict()
        self.leaks = Cases(last, size)
        self.leaks_remote = Cases(last, size)
        self.false_refusals = Cases(last, size)
        self.false_deferrals = Cases(last, size)
        self.suspects = Cases(last, size)
        self.others = Cases(last, size)
        self.outcomes: Counter[str] = Counter()
        self.accepted = 0
        self.last_time = 0
        self.by_kind: Counter[str] = Counter()

    def ours(self, rows: list[Row]) -> None:
        """The rows of our own log that count, as they follow upon one another."""
        for row in rows:
            if row[VERDICT]:
                self._recipient(row)
            elif row[MESSAGE_OUTCOME]:
                self._message(row)
            elif row[REFUSED_REPLY]:
                self._backend_refused(row)

    def _recipient(self, row: Row) -> None:
        if row[VERDICT] != b"accept":
            if row[REPLY].startswith(b'"550 5.1.1'):
                self._remember(row)
            return
        sessions = self._sessions
        of_session = sessions.get(row[SESSION])
        if of_session is None:
            if len(sessions) >= SESSIONS_MAX:
                sessions.popitem(last=False)
            of_session = sessions[row[SESSION]] = []
        if len(of_session) < _RECIPIENTS_MAX:
            of_session.append(row)

    def _remember(self, row: Row) -> None:
        refused = self._refused
        address = logsafe(plain(row[RECIPIENT]))
        refused.pop(address, None)
        refused[address] = row
        if len(refused) > REFUSED_MAX:
            refused.popitem(last=False)

    def _backend_refused(self, row: Row) -> None:
        address = plain(row[REFUSED_RECIPIENT])
        of_session = self._sessions.get(row[REFUSED_SESSION], [])
        for accepted in of_session:
            if plain(accepted[RECIPIENT]) == address:
                of_session.remove(accepted)
                return

    def _message(self, row: Row) -> None:
        # Those of a transaction that was given up (RSET) stand before its own.
        of_session = self._sessions.pop(row[MESSAGE_SESSION], [])
        if row[MESSAGE_OUTCOME] != b"accepted":
            return
        count = int(row[MESSAGE_RECIPIENTS])
        own = of_session[-count:] if count else []
        when, qp = reply_key(row[MESSAGE_REPLY])
        if when is None:
            when = self._tally.when(row)
        self.accepted += 1
        self.last_time = when or self.last_time
        self.ledger.passed(
            Passed(
                _text(row[MESSAGE_SESSION]),
                _text(row[MESSAGE_CLIENT]),
                plain(row[MESSAGE_SENDER]),
                when,
                tuple([_recipient_of(each) for each in own]),
                qp,
            )
        )

    # What qmail did.

    def _heard(self, heard: Delivery) -> None:
        message, recipient = heard.message, heard.recipient
        when = self._clock.seconds(heard.stamp) if heard.stamp else None
        if not isinstance(message, Passed):
            if heard.outcome == "failure":
                self._of_others(heard, when)
            elif heard.channel == "local":
                self._against(heard, when)
            return
        self.outcomes[heard.outcome] += 1
        if heard.outcome == "deferral":
            return
        address = recipient.address if recipient else heard.address
        domain = self._wanted.domain
        if domain and domain_of(address) != domain:
            return
        case = Case(
            when,
            message.session,
            message.client,
            message.sender,
            address,
            recipient.rule if recipient else "?",
            recipient.reason if recipient else "which recipient it was is not known",
            heard.channel,
            heard.address,
            heard.text,
            heard.ambiguous,
            message.forwarded,
        )
        if heard.outcome == "failure":
            if recipient is not None and recipient.observed == "reject":
                return  # rightly so: it is not let in in enforce mode
            away = heard.channel == "remote" and not message.forwarded
            (self.leaks_remote if away else self.leaks).add(case)
        elif not message.forwarded:
            if recipient is not None and recipient.observed == "reject":
                self.false_refusals.add(case)
            elif recipient is not None and recipient.observed == "defer":
                self.false_deferrals.add(case)
            elif heard.channel == "local":
                self._against(heard, when)

    def _against(self, heard: Delivery, when: int | None) -> None:
        """qmail delivered; was that address refused just before?"""
        refused = self._refused
        if not refused:
            return
        address = heard.address
        local, at, domain = address.rpartition(b"@")
        words = local.split(b"-") if at else [address]
        for number in range(min(len(words), 20)):
            shown = b"-".join(words[number:]) + at + domain if at else address
            row = refused.get(shown)
            if row is None:
                continue
            then = self._tally.when(row)
            apart = 0 if when is None or then is None else when - then
            if not 0 <= apart <= _WITHIN_SECONDS:
                continue
            del refused[shown]
            message = heard.message
            sender = message.sender if message else b""
            self.suspects.add(
                Case(
                    when,
                    _text(row[SESSION]),
                    _text(row[CLIENT]),
                    sender,
                    plain(row[RECIPIENT]),
                    _text(row[RULE]),
                    _text(row[REASON]),
                    heard.channel,
                    address,
                    heard.text,
                    bool(number),
                    False,
                )
            )
            return

    def _of_others(self, heard: Delivery, when: int | None) -> None:
        message = heard.message
        kind = "unknown: its beginning is not in the log"
        sender = b""
        if isinstance(message, Foreign):
            kind = "a bounce of qmail's" if message.bounce else f"uid {message.uid}"
            sender = message.sender
        self.by_kind[kind if len(self.by_kind) < 1000 else "others"] += 1
        domain = self._wanted.domain
        if domain and domain_of(heard.address) != domain:
            return
        self.others.add(
            Case(
                when,
                "",
                "",
                sender,
                heard.address,
                kind,
                "",
                heard.channel,
                heard.address,
                heard.text,
                False,
                False,
            )
        )


def _recipient_of(row: Row) -> Recipient:
    return Recipient(
        plain(row[RECIPIENT]),
        _text(row[RULE]),
        _text(row[REASON]),
        row[OBSERVED].decode("ascii"),
        bool(row[UNDECIDED]),
    )


def _text(value: bytes) -> str:
    return plain(value).decode("latin-1")
