"""fastforward: mail by an alias database, such as ``/etc/aliases.cdb``.

Knows: its options, the records of the cdb, lists in ``.bin`` files, owners, and
what becomes of programs among the aliases.  Knows not: where the forwarded copies
end.  Called by way of :mod:`proxy.qmail.known`.  Source: fastforward.c,
setforward.1, setmaillist.1 of fastforward 0.51.
"""

from __future__ import annotations

import stat as stat_bits
from collections.abc import Iterator
from functools import partial

from proxy.qmail.cdb import CdbError, cdb_get
from proxy.qmail.effect import Effect, Run, options, program_fault
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import OpenFile

NO_MAILBOX = "fastforward: no mailbox here by that name"

# fastforward has no bounds of its own; a list is read into memory whole.
_LIST_MAX = 4 << 20
_LISTS_MAX = 1_000
_ADDRESS_MAX = 900  # fastforward.c, dodata(): j - i < 900, the & counted


def fastforward(arguments: list[bytes], run: Run) -> Effect | None:
    """fastforward [ -nNpPdD ] data.cdb; ``None`` where an unknown program among
    the aliases decides.

    Raises :class:`CannotTell`.
    """
    read = options(arguments, b"nNpPdD")
    if read is None or not read[1]:
        return Effect(100, reason="fastforward: wrong usage")
    flags, files = read
    name = files[0]
    try:
        place = run.walker.readable(name, run.home)
    except KernelError as error:
        return _unreadable(run, name, str(error))
    if not stat_bits.S_ISREG(place.status.st_mode):
        return _unreadable(run, name, "not a regular file")
    cdb = run.host.cache.opened(run.walker, place)
    recipient = _recipient(run, default=flags.get(b"d", b"D") == b"d")
    journey = _Journey(
        run,
        cdb,
        deliver=flags.get(b"n", b"N") == b"N",
        passthrough=flags.get(b"p", b"P") == b"p",
    )
    try:
        return journey.follow(recipient)
    except _Ends as end:
        if end.effect is not None and end.effect.code == 111:
            run.trail.add(place.path, "{}", end.effect.reason)
        return end.effect
    except CdbError as error:
        return _unreadable(run, name, f"damaged: {error}")
    except OSError as error:
        raise CannotTell(place.path, error.strerror or "cannot be read") from error


def _recipient(run: Run, *, default: bool) -> bytes:
    environment = run.environment
    if not default:
        return environment[b"RECIPIENT"]
    user = environment.get(b"DEFAULT")
    if user is None:
        user = environment[b"EXT"]
    return user + b"@" + environment[b"HOST"]


def _unreadable(run: Run, name: bytes, why: str) -> Effect:
    run.trail.add(name, "fastforward cannot read it: {}", why)
    return Effect(111, reason=f"fastforward cannot read {name.decode('latin-1')}")


class _Ends(Exception):
    """fastforward exits here."""

    def __init__(self, effect: Effect | None) -> None:
        super().__init__(effect)
        self.effect = effect


class _Journey:
    """The state of fastforward's ``main()``, one run."""

    def __init__(
        self, run: Run, cdb: OpenFile, *, deliver: bool, passthrough: bool
    ) -> None:
        self.run = run
        self.cdb = cdb
        self.deliver = deliver
        self.passthrough = passthrough
        self.sender = run.environment[b"SENDER"]
        self.todo: list[bytes] = []
        self.forwards: list[bytes] = []
        self.inner: list[Effect] = []

    def follow(self, recipient: bytes) -> Effect:
        """``main()`` after the options."""
        done = {recipient}
        lists = 0
        self._original(recipient)
        while self.todo:
            item = self.todo.pop()
            if item in done:
                continue
            done.add(item)
            if item[:1] == b"&":
                self._recipient(item[1:])
                continue
            lists += 1
            if lists > _LISTS_MAX:
                raise CannotTell(item, "too many lists in one another")
            self._list(item)
        code = 99 if self.passthrough else 0
        if not self.deliver:
            return Effect(code, inner=tuple(self.inner))
        # A C string: qmail_from() ends at a NUL.
        sender = self.sender.partition(b"\0")[0]
        # The last is told to qmail-queue first.
        forwards = tuple(reversed(self.forwards))
        return Effect(code, forwards, sender, inner=tuple(self.inner))

    def _original(self, address: bytes) -> None:
        """``doorigrecip()``: wildcards count, and the owner gets the bounces."""
        if self.sender not in (b"", b"#@[]"):
            owner = self._find(b"?", address, wild=True)
            if owner is not None:
                self.sender = owner
        data = self._find(b":", address, wild=True)
        if data is not None:
            self.run.trail.add(b"fastforward", "{} is an alias", address)
            self._obey(data)
        elif self.passthrough:
            self.run.trail.add(b"fastforward", "{} is none: passed on", address)
            raise _Ends(Effect(0, passes=True))
        else:
            self.run.trail.add(b"fastforward", "{} is not an alias", address)
            raise _Ends(Effect(100, reason=NO_MAILBOX))

    def _recipient(self, address: bytes) -> None:
        """``dorecip()``: who has an owner is not expanded, but forwarded to."""
        if self._find(b"?", address) is None:
            data = self._find(b":", address)
            if data is not None:
                self._obey(data)
                return
        self.forwards.append(address)

    def _find(self, kind: bytes, address: bytes, *, wild: bool = False) -> bytes | None:
        """``gettarget()``: the record of the address, its host, its name."""
        names = [address]
        if wild and b"@" in address:
            at = address.rindex(b"@")
            names += [address[at:], address[: at + 1]]
        found = map(partial(cdb_get, self.cdb), ((kind + n).lower() for n in names))
        return next((data for data in found if data is not None), None)

    def _obey(self, data: bytes) -> None:
        """``dodata()``: the instructions of one alias."""
        for item in _items(data):
            if item[:1] in (b"|", b"!"):
                self._program(item)
            else:
                self._remember(item)

    def _remember(self, item: bytes) -> None:
        kind = item[:1]
        if kind in (b".", b"/") or (kind == b"&" and len(item) < _ADDRESS_MAX):
            self.todo.append(item)

    def _program(self, item: bytes) -> None:
        """``doprogram()``; a ``!`` puts preline(1) before it."""
        if not self.deliver:
            return
        piped = self.run.piped or item[:1] == b"!"
        found = self.run.shell(item[1:], self.run._replace(piped=piped))
        if found is None:
            self.run.trail.add(b"fastforward", "undecided: {} decides", item[1:])
            raise _Ends(None)
        fault = program_fault(found, self.run, "fastforward")
        if fault is not None:
            raise _Ends(fault)
        self.inner.append(found)

    def _list(self, name: bytes) -> None:
        """``dofile()``: a list made by setmaillist or newinclude."""
        walker = self.run.walker
        try:
            place = walker.readable(name, self.run.home)
        except KernelError as error:
            raise _Ends(_unreadable(self.run, name, str(error))) from error
        if place.status.st_mode & 0o444 != 0o444:
            raise _Ends(_unreadable(self.run, name, "it is not world-readable"))
        if stat_bits.S_ISDIR(place.status.st_mode):
            raise _Ends(_unreadable(self.run, name, "a directory"))
        self.run.trail.add(place.path, "a list")
        for item in self.run.host.cache.parsed(walker, place, _list, _LIST_MAX):
            self._remember(item)


def _items(data: bytes) -> Iterator[bytes]:
    """What ends in a NUL; the rest counts for nothing."""
    *items, _ = data.split(b"\0")
    return filter(None, items)


def _list(content: bytes) -> tuple[bytes, ...]:
    return tuple(_items(content))
