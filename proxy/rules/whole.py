"""Files that are read as a whole, anew whenever they are other ones; and the guard
against a new one that has lost most of what was in it.

Knows: when a file has changed, how a large one is read without making sessions wait,
that bad or suspicious data never take the place of good ones.  Knows not: what a
line means; each caller hands in its own parser.  Used by sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import BeforeValidator, Field

from proxy.config.values import wrong
from proxy.qmail.cache import Identity, identity, settled
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import OpenFile, Status
from proxy.qmail.walk import SUPERUSER, Place, Walker
from proxy.rules.slices import Steps, Turns
from proxy.rules.source import Context, SourceDown
from proxy.rules.trouble import RuleError, Trouble

FILE_MAX = 256 << 20
"""Bytes; some ten million addresses."""

LINE_MAX = 4096
"""Bytes of one line."""

AT_ONCE = 1 << 15
"""Bytes of a file that are read in one go: a millisecond or two."""

MANY = 10
"""Addresses that a domain, or a whole file, must have had before their loss counts."""

REMIND_SECONDS = 600.0
"""Between two lines in the log of the same trouble."""

OLD_DATA = "old data"
"""What ``Context.on_answer`` is told for each question that old data answer."""

_BLOCK = 1 << 17
_LINES = 100  # between two looks at the clock


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise wrong("must be a number", "write digits, or 0 for no guard")
    return value


Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]

GUARD = (
    "The share, 0 to 1, of a domain's addresses that a changed file may lose. One that"
    " loses more is not taken, and the log tells, until HUP or a restart takes it. 0:"
    " no guard."
)
"""The description of the key ``guard``, where a source has it."""

TAKE_IT = "if it is meant, send HUP: then it is taken"
"""What to do about the guard."""


class Data(Protocol):
    """What a parser makes of a file."""

    def addresses(self) -> Iterable[bytes]:
        """What the guard counts, as ``user@domain``."""
        ...

    def __contains__(self, address: object) -> bool:
        """Whether it is one of :meth:`addresses`."""
        ...


T = TypeVar("T", bound=Data)
T_co = TypeVar("T_co", bound=Data, covariant=True)


class Parser(Protocol[T_co]):
    """Makes data of lines."""

    def line(self, number: int, line: bytes) -> None:
        """Take one line, without its newline; ``number`` counts from 1."""
        ...

    def data(self) -> T_co:
        """What came of all lines; raises :class:`RuleError` if any was bad."""
        ...


class Alarm:
    """Tells of one trouble at once, and now and then while it lasts."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._why = ""
        self._told = 0.0

    @property
    def why(self) -> str:
        """The trouble; ``""`` when there is none."""
        return self._why

    def set(self, why: str) -> None:
        """It is so from now on; ``""``: all is well."""
        if why == self._why:
            return
        self._why = why
        if why:
            self._tell()

    def asked(self) -> None:
        """A question is being answered in spite of it."""
        if not self._why:
            return
        self._context.on_answer(self._context.name, OLD_DATA, 0.0)
        if self._context.clock() - self._told >= REMIND_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told = self._context.clock()
        self._context.on_error(self._context.name, SourceDown(self._why))


class Whole(Generic[T]):
    """The data of one file.

    :meth:`load` reads it for the first time, and what is wrong with it is raised as
    :class:`RuleError`; later, good data stay until there are better ones.
    ``guard`` is the share that may be lost (:data:`GUARD`), 0 for all of it.
    """

    def __init__(
        self,
        path: bytes,
        parser: Callable[[], Parser[T]],
        context: Context,
        guard: float = 0.0,
    ) -> None:
        self._path = path
        self._parser = parser
        self._host = context.host
        self._guard = guard
        self._alarm = Alarm(context)
        self._reading: Turns[tuple[T, Status]] | None = None
        self._refused: Identity | None = None
        self._current: Identity
        self._same = self._settled = True
        self._data: T

    def load(self) -> Steps[None]:
        """Read it, before anything else is asked of this."""
        place = _place(Walker(self._host.view, SUPERUSER), self._path)
        self._data, status = yield from self._read(place)
        self._taken(status)

    @property
    def behind(self) -> bool:
        """Whether the file is another one, which is being read just now."""
        return self._reading is not None and not self._same

    def look(self) -> T:
        """The data, as of now; a large file that has changed counts when it has
        been read."""
        if self._reading is None:
            try:
                place = _place(self._host.walker(SUPERUSER), self._path)
            except RuleError as error:
                self._keep(error)
            else:
                self._compare(place)
        self._alarm.asked()
        return self._data

    def close(self) -> None:
        """Read no further."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _compare(self, place: Place) -> None:
        now = identity(place.status)
        self._same = now == self._current
        if self._same and self._settled:
            self._refused = None
            self._alarm.set("")
        elif now != self._refused:
            self._begin(place)

    def _begin(self, place: Place) -> None:
        """Read the file: a large one in slices, between other work."""
        refused = partial(self._not_taken, identity(place.status))
        self._reading = Turns(self._guarded(place), self._took, refused)
        self._reading.begin(small=place.status.st_size <= AT_ONCE)

    def _took(self, read: tuple[T, Status]) -> None:
        self._reading = None
        self._data, status = read
        self._taken(status)
        self._alarm.set("")

    def _not_taken(self, which: Identity, error: Exception) -> None:
        self._reading = None
        self._refused = which
        self._keep(error)

    def _taken(self, status: Status) -> None:
        self._refused = None
        self._same = True
        self._current = identity(status)
        self._settled = settled(status, self._host.clock())

    def _keep(self, error: Exception) -> None:
        self._alarm.set(f"{error}; until then the data of before count")

    def _guarded(self, place: Place) -> Steps[tuple[T, Status]]:
        new, status = yield from self._read(place)
        if self._guard:
            lost = yield from losses(self._data, new, self._guard)
            if lost:
                what = f"not taken: {lost}"
                raise RuleError([Trouble(what, TAKE_IT, path=self._path)])
        return new, status

    def _read(self, place: Place) -> Steps[tuple[T, Status]]:
        try:
            file = Walker(self._host.view, SUPERUSER).open(place)
        except CannotTell as error:
            raise _unreadable(self._path, error.why) from error
        parser = self._parser()
        try:
            yield from _lines(file, parser, self._path)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise _unreadable(self._path, why) from error
        finally:
            file.close()
        return parser.data(), file.status


def losses(old: Data, new: Data, share: float) -> Steps[str]:
    """What ``new`` has lost of ``old``, in words, if for some domain, or in all, that
    is more than ``share`` of many; else ``""``."""
    return (yield from losses_of(old.addresses(), new.__contains__, share))


def losses_of(
    old: Iterable[bytes], is_there: Callable[[bytes], bool], share: float
) -> Steps[str]:
    """The same of addresses, and of whether one of them is still there."""
    before: Counter[bytes] = Counter()
    gone: Counter[bytes] = Counter()
    for number, address in enumerate(old):
        domain = address[address.rfind(b"@") + 1 :]
        before[domain] += 1
        if not is_there(address):
            gone[domain] += 1
        if not number % _LINES:
            yield
    for domain, lost in gone.most_common():
        if too_many(before[domain], lost, share):
            of = f"the {before[domain]} addresses of {domain.decode('latin-1')}"
            return f"it has lost {lost} of {of} (guard = {share:g})"
    total, lost = before.total(), gone.total()
    if too_many(total, lost, share):
        return f"it has lost {lost} of its {total} addresses (guard = {share:g})"
    return ""


def too_many(before: int, lost: int, share: float) -> bool:
    """Whether so many are more than a ``share`` of many, or all of them."""
    return before >= MANY and (lost > share * before or lost == before)


def _lines(file: OpenFile, parser: Parser[Data], path: bytes) -> Steps[None]:
    """Hand each line to the parser, pausing now and then."""
    number, offset, rest = 0, 0, b""
    while block := file.pread(_BLOCK, offset):
        offset += len(block)
        if offset > FILE_MAX:
            what = f"is longer than {FILE_MAX >> 20} MiB"
            raise RuleError([Trouble(what, "split it among several rules", path=path)])
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            parser.line(number, line)
            if not number % _LINES:
                yield
        if len(rest) > LINE_MAX:
            what = f"a line of more than {LINE_MAX} bytes"
            remedy = "write one entry a line"
            raise RuleError([Trouble(what, remedy, "", path, number + 1)])
        yield
    if rest:
        parser.line(number + 1, rest)


def _place(walker: Walker, path: bytes) -> Place:
    """Where the file is; raises :class:`RuleError`."""
    try:
        return walker.stat(path)
    except KernelError as error:
        raise _unreadable(path, str(error)) from error
    except CannotTell as error:
        raise _unreadable(path, error.why) from error


def _unreadable(path: bytes, why: str) -> RuleError:
    remedy = "make it a file that the front door's user may read"
    return RuleError([Trouble(f"cannot be read: {why}", remedy, path=path)])
