"""What our own log says, counted.

Knows: what is counted, by what.  Knows not: files, how it is shown, qmail's log.
Called by the report's command.

Blocks of lines are counted column by column, which is what makes it fast: the
work for one line is a match and a few entries of lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from proxy.observe.heavy import Heavy
from proxy.report.our_log import (
    CLIENT,
    DISCONNECT_WHY,
    FAILED_STEP,
    HEAD,
    MESSAGE_OUTCOME,
    MESSAGE_REASON,
    MESSAGE_REPLY,
    MESSAGE_SIZE,
    OBSERVED,
    RECIPIENT,
    REFUSED_RECIPIENT,
    REFUSED_REPLY,
    REPLY,
    TIME,
    TURNED_LIMIT,
    VERDICT,
    Row,
    plain,
    rows,
)
from proxy.report.stamp import Clock

KEPT = 10_000
"""Values that each table keeps for certain: see :class:`Heavy`."""

OUTCOMES = ("accepted", "refused", "deferred", "would_refuse", "would_defer")
GROUPS = ("relayed", "refused", "deferred")
DIMENSIONS = ("domains", "recipients", "clients", "networks")


@dataclass(frozen=True)
class Wanted:
    """What counts: lines from ``since`` on and before ``until`` (seconds since
    1970), recipients of ``domain`` (lower case)."""

    since: int | None = None
    until: int | None = None
    domain: bytes = b""

    def at(self, when: int) -> bool:
        """Whether that time counts."""
        early = self.since is not None and when < self.since
        return not (early or (self.until is not None and when >= self.until))


class Group:
    """Recipients with one kind of outcome, by each dimension."""

    def __init__(self, size: int = KEPT) -> None:
        self.by = {name: Heavy(size) for name in DIMENSIONS}

    def add(self, rows: list[Row]) -> None:
        """Count the recipients and clients of these lines."""
        recipients = _plain(Counter([row[RECIPIENT] for row in rows]))
        domains: Counter[bytes] = Counter()
        for recipient, number in recipients.items():
            domains[domain_of(recipient)] += number
        clients = _plain(Counter([row[CLIENT] for row in rows]))
        networks: Counter[bytes] = Counter()
        for client, number in clients.items():
            networks[network_of(client)] += number
        by = self.by
        by["recipients"].add(recipients)
        by["domains"].add(domains)
        by["clients"].add(clients)
        by["networks"].add(networks)


@dataclass
class Tally:
    """Everything that is counted of our log."""

    wanted: Wanted = field(default_factory=Wanted)
    clock: Clock = field(default_factory=Clock)
    size: int = KEPT

    def __post_init__(self) -> None:
        self.recipients = dict.fromkeys(OUTCOMES, 0)
        self.undecided = 0
        self.groups = {name: Group(self.size) for name in GROUPS}
        self.why = Heavy(self.size)
        self.hours: dict[str, Heavy] = {name: Heavy(self.size) for name in GROUPS}
        self.messages: Counter[str] = Counter()
        self.message_bytes = 0
        self.backend_refusals = Heavy(self.size)
        self.failed_messages = Heavy(self.size)
        self.sessions = Heavy(self.size)
        self.turned_away = Heavy(self.size)
        self.backend_failures = Heavy(self.size)
        self.first: int | None = None
        self.last: int | None = None

    def add(self, block: bytes) -> list[Row]:
        """Count whole lines, a newline before the first; the rows in time, as they
        stand there, whatever their domain."""
        found = self._in_time(rows(block))
        self._seen(found)
        self._recipients([row for row in found if row[VERDICT]])
        self._messages([row for row in found if row[MESSAGE_OUTCOME]])
        self._others(found)
        return found

    def _recipients(self, rows: list[Row]) -> None:
        if self.wanted.domain:
            rows = [r for r in rows if _in_domain(r[RECIPIENT], self.wanted.domain)]
        kinds = Counter([row[VERDICT : REPLY + 1] for row in rows])
        sorts: dict[tuple[bytes, bytes], int] = {}
        why: Counter[bytes] = Counter()
        for kind, number in kinds.items():
            verdict, observed, undecided, rule, reason, reply = kind
            outcome = outcome_of(verdict, observed)
            self.recipients[outcome] += number
            self.undecided += number if undecided else 0
            sorts[verdict, observed] = 1
            words = (outcome.encode(), plain(rule), plain(reason), plain(reply))
            why[b"\0".join(w.replace(b"\0", b"?") for w in words)] += number
        self.why.add(why)
        for name, members in _GROUPED.items():
            pairs = {p for p in sorts if outcome_of(*p) in members}
            if not pairs:
                continue
            mine = rows
            if len(pairs) < len(sorts):
                mine = [r for r in rows if (r[VERDICT], r[OBSERVED]) in pairs]
            self.groups[name].add(mine)
            self.hours[name].add(self._by_hour(mine))

    def _by_hour(self, rows: list[Row]) -> Counter[bytes]:
        hours: Counter[bytes] = Counter()
        texts = Counter([row[TIME][:13] for row in rows])
        if unknown := texts.pop(b"", 0):
            for row in rows:
                when = None if row[TIME] else self.clock.seconds(row[HEAD])
                if when is not None:
                    hours[b"%d" % (when - when % 3600)] += 1
                    unknown -= 1
        for text, number in texts.items():
            when = self.clock.seconds(text + b":00:00Z")
            if when is not None:
                hours[b"%d" % when] += number
        return hours

    def _messages(self, rows: list[Row]) -> None:
        if not rows or self.wanted.domain:
            return  # a message is nobody's recipient
        failed: Counter[bytes] = Counter()
        for row in rows:
            outcome = row[MESSAGE_OUTCOME]
            self.messages[outcome.decode("ascii")] += 1
            self.message_bytes += int(row[MESSAGE_SIZE])
            if outcome != b"accepted":
                words = (outcome, plain(row[MESSAGE_REPLY]), plain(row[MESSAGE_REASON]))
                failed[b"\0".join(w.replace(b"\0", b"?") for w in words)] += 1
        self.failed_messages.add(failed)

    def _others(self, rows: list[Row]) -> None:
        refused = [row for row in rows if row[REFUSED_REPLY]]
        if self.wanted.domain:
            domain = self.wanted.domain
            refused = [r for r in refused if _in_domain(r[REFUSED_RECIPIENT], domain)]
        self.backend_refusals.add(_plain(Counter([r[REFUSED_REPLY] for r in refused])))
        if self.wanted.domain:
            return
        for column, counts in (
            (DISCONNECT_WHY, self.sessions),
            (TURNED_LIMIT, self.turned_away),
            (FAILED_STEP, self.backend_failures),
        ):
            values = [row[column] for row in rows if row[column]]
            if values:
                counts.add(_plain(Counter(values)))

    def _in_time(self, rows: list[Row]) -> list[Row]:
        wanted = self.wanted
        if wanted.since is None and wanted.until is None:
            return rows
        timed = [(self.when(row), row) for row in rows]
        return [row for when, row in timed if when is not None and wanted.at(when)]

    def when(self, row: Row) -> int | None:
        """Seconds since 1970 of a line, where it tells."""
        return self.clock.seconds(row[TIME] or row[HEAD])

    def _seen(self, rows: list[Row]) -> None:
        for row in rows[:1] + rows[-1:]:
            when = self.when(row)
            if when is not None:
                self.first = when if self.first is None else min(self.first, when)
                self.last = when if self.last is None else max(self.last, when)


_GROUPED = {
    "relayed": ("accepted",),
    "refused": ("refused", "would_refuse"),
    "deferred": ("deferred", "would_defer"),
}
_WORDS = {b"accept": "accepted", b"reject": "refused", b"defer": "deferred"}
_WOULD = {b"reject": "would_refuse", b"defer": "would_defer"}


def outcome_of(verdict: bytes, observed: bytes) -> str:
    """One of :data:`OUTCOMES`."""
    return _WOULD.get(observed) or _WORDS.get(verdict, "accepted")


def _plain(counts: Counter[bytes]) -> Counter[bytes]:
    """The same, of what the values stand for."""
    if not any(value[:1] == b'"' for value in counts):
        return counts
    found: Counter[bytes] = Counter()
    for value, number in counts.items():
        found[plain(value)] += number
    return found


def domain_of(recipient: bytes) -> bytes:
    """In lower case; empty without one."""
    _, at, domain = recipient.rpartition(b"@")
    return domain.lower() if at else b""


def _in_domain(value: bytes, domain: bytes) -> bool:
    return domain_of(plain(value)) == domain


def network_of(client: bytes) -> bytes:
    """The /24 of an IPv4 address, the /64 of an IPv6 one; else the text."""
    if b":" not in client:
        head, dot, _ = client.rpartition(b".")
        return head + b".0/24" if dot else client
    try:
        address = ip_address(client.decode("ascii").partition("%")[0])
    except ValueError:  # UnicodeDecodeError is one
        return client
    network = IPv6Address(int(address) >> 64 << 64)
    return f"{network}/64".encode()


def merged(counts: Iterable[tuple[bytes, int]]) -> list[tuple[list[str], int]]:
    """The words of values that were joined by NUL."""
    return [([w.decode("latin-1") for w in v.split(b"\0")], n) for v, n in counts]
