"""Which backend serves a recipient: by domain first, then by turns and health.

Knows: all backends, the domains that each group of them serves, weights,
backups.  Knows not: connections (:mod:`proxy.backend.pool` does), messages.
Asked by the session for the group of a recipient, and by its conversation for
the order in which the backends of the group are tried; made by the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from proxy.backend.ear import Say
from proxy.backend.pool import Backend, say_nothing
from proxy.backend.settings import BackendSettings


class Place(NamedTuple):
    """One backend as configured.

    ``domains`` are in lower case; ``.suffix`` stands for all below it, as in
    rcpthosts (qmail-smtpd.8); none of them: whatever nobody else serves.
    ``weight`` is a whole number from 1 up.  A ``backup`` is used only while no
    other of the same domains can be.
    """

    settings: BackendSettings
    domains: frozenset[bytes] = frozenset()
    weight: int = 1
    backup: bool = False


class _Member:
    """A backend in its group; ``turn`` is what the turns have left it with."""

    __slots__ = ("backend", "backup", "turn", "weight")

    def __init__(self, backend: Backend, place: Place) -> None:
        self.backend = backend
        self.weight = place.weight
        self.backup = place.backup
        self.turn = 0

    @property
    def rank(self) -> tuple[int, bool]:
        """The least is tried first."""
        backend = self.backend
        state = 2 if backend.resting else 1 if backend.full else 0
        return state, self.backup


class Group:
    """The backends that serve the same domains.

    They take turns by weight: of seven, weights 5, 1 and 1 give a a b a c a a.
    Those that are full come after those that are not, and those that are left
    in peace after a failure come last.  Backups stand in the order of the
    file, behind the others of the same state.
    """

    def __init__(self) -> None:
        self._members: list[_Member] = []

    @property
    def backends(self) -> list[Backend]:
        """In the order of the configuration."""
        return [member.backend for member in self._members]

    @property
    def usable(self) -> bool:
        """Whether one of them is believed in: it was not asked yet, or answered."""
        return any(member.backend.up is not False for member in self._members)

    @property
    def auth_offered(self) -> bytes:
        """What the first of them that offers AUTH offers."""
        for member in self._members:
            if member.backend.auth_offered:
                return member.backend.auth_offered
        return b""

    def candidates(self, before: Backend | None = None) -> list[Backend]:
        """For a new transaction: the one that the same client had ``before``, or
        else whose turn it is, if there is none better; then the others."""
        members = self._members
        if len(members) == 1:
            return [members[0].backend]
        ranked = sorted(members, key=lambda member: member.rank)
        best = ranked[0].rank
        for member in ranked:
            if member.backend is before and member.rank == best:
                return [member.backend, *self.others(member.backend)]
        if not ranked[0].backup:
            chosen = _next([m for m in ranked if m.rank == best])
            ranked.remove(chosen)
            ranked.insert(0, chosen)
        return [member.backend for member in ranked]

    def others(self, backend: Backend) -> list[Backend]:
        """All but ``backend``, best first; nobody's turn is used up."""
        if len(self._members) == 1 and self._members[0].backend is backend:
            return []
        ranked = sorted(self._members, key=lambda member: member.rank)
        return [m.backend for m in ranked if m.backend is not backend]

    def use(self, members: Iterable[tuple[Backend, Place]]) -> None:
        """Other backends from now on."""
        self._members = [_Member(*each) for each in members]


def _next(members: Sequence[_Member]) -> _Member:
    """Smooth weighted round robin: each gains its weight, and who has most
    pays for all."""
    for member in members:
        member.turn += member.weight
    chosen = max(members, key=lambda member: member.turn)  # the first of equals
    chosen.turn -= sum(member.weight for member in members)
    return chosen


class Backends:
    """Every backend there is.

    ``hostname``, ``clock`` and ``say`` are those of :class:`Backend`.  There must be a
    place without domains among ``places``.
    """

    def __init__(
        self,
        places: Sequence[Place],
        hostname: bytes,
        clock: Callable[[], float] | None = None,
        say: Say = say_nothing,
    ) -> None:
        self._hostname = hostname
        self._say = say
        self._kept_at_most = float("inf")
        self._clock = clock
        self._by_place: dict[tuple[str, frozenset[bytes]], Backend] = {}
        self._groups: dict[frozenset[bytes], Group] = {}
        self._retired: list[Backend] = []
        self._by_domain: dict[bytes, Group] = {}
        self.routing = False
        """Whether recipients' domains make a difference."""
        self.default = self._groups.setdefault(frozenset(), Group())
        self.use(places)

    @property
    def auth_offered(self) -> bytes:
        """What clients are offered: they authenticate to those that serve no
        domain in particular, which then have all their mail."""
        return self.default.auth_offered

    def __iter__(self) -> Iterator[Backend]:
        """In the order of the configuration; not those that are retired."""
        return iter(self._by_place.values())

    def __len__(self) -> int:
        return len(self._by_place)

    @property
    def groups(self) -> list[Group]:
        """Those that are configured."""
        return [self.default, *dict.fromkeys(self._by_domain.values())]

    def group(self, recipient: bytes) -> Group:
        """Who serves ``recipient``, an address as
        :func:`~proxy.smtp.path.read_path` gives it."""
        if not self.routing:
            return self.default
        domain = recipient.rpartition(b"@")[2] if b"@" in recipient else b""
        domain = domain.lower()
        at = 0
        while at >= 0:
            group = self._by_domain.get(domain[at:])
            if group is not None:
                return group
            at = domain.find(b".", at + 1)
        return self.default

    def use(self, places: Sequence[Place]) -> None:
        """Another configuration from now on: a backend that stays keeps its
        connections, and what is known of it; one that is gone, or serves
        other domains now, finishes what it has begun."""
        before = self._by_place
        if len(before) == 1 and len(places) == 1:
            # It is the same one, wherever it is now.
            before = {_key(places[0]): next(iter(before.values()))}
        self._by_place = {}
        members: dict[frozenset[bytes], list[tuple[Backend, Place]]] = {}
        for place in places:
            key = _key(place)
            backend = before.pop(key, None)
            if backend is None:
                backend = Backend(
                    place.settings, self._hostname, self._clock, self._say
                )
                backend.kept_at_most = self._kept_at_most
            else:
                backend.use(place.settings)
            self._by_place[key] = backend
            members.setdefault(place.domains, []).append((backend, place))
        for backend in before.values():
            backend.retire()
            self._retired.append(backend)
        self._regroup(members)

    def keep_at_most(self, seconds: float) -> None:
        """See :attr:`Backend.kept_at_most`; for those that come, too."""
        self._kept_at_most = seconds
        for backend in self:
            backend.kept_at_most = seconds

    def sweep(self) -> None:
        """End what is overdue; called about once a second."""
        for backend in self:
            backend.sweep()
        if self._retired:
            for backend in self._retired:
                backend.sweep()
            self._retired = [b for b in self._retired if b.busy]
        if len(self._by_place) > 1:
            # As long as there are others to take it, nobody's message has to
            # find out whether a backend is back.
            for backend in self:
                backend.try_again()

    async def close(self) -> None:
        """End every connection and every attempt at one."""
        for backend in [*self, *self._retired]:
            await backend.close()

    def _regroup(
        self, members: dict[frozenset[bytes], list[tuple[Backend, Place]]]
    ) -> None:
        self.default.use(members[frozenset()])
        self._by_domain = {}
        for domains, theirs in members.items():
            group = self._groups.setdefault(domains, Group())
            group.use(theirs)
            self._by_domain.update(dict.fromkeys(domains, group))
        for domains in self._groups.keys() - members.keys():
            del self._groups[domains]  # a transaction may hold it still
        self.routing = bool(self._by_domain)


def _key(place: Place) -> tuple[str, frozenset[bytes]]:
    return str(place.settings), place.domains
