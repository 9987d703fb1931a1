"""A cdb that others make: opened anew when it is replaced, and believed only whole.

Knows: what a sound cdb looks like from outside, how many records it has, what the
guard says of a new one.  Knows not: keys.  Used by ``cdb`` and its formats.
"""

from __future__ import annotations

import struct

from proxy.qmail.cache import SETTLED_NS, Identity, identity
from proxy.qmail.cdb import CdbError, cdb_get
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import OpenFile
from proxy.qmail.walk import SUPERUSER
from proxy.rules.source import Context, SourceDown
from proxy.rules.whole import TAKE_IT, Alarm, too_many

_HEAD = struct.Struct("<512I")
REMEDY = "make it anew, beside it, and rename it to this name"
"""What to do about a damaged cdb."""


class CdbFile:
    """The cdb at ``path`` of the qmail host.

    ``guard`` is the share of its records that a new one may lose; one that has lost
    more is not taken, and the old one, which is still open, stays.
    """

    def __init__(self, path: bytes, context: Context, guard: float = 0.0) -> None:
        self._path = path
        self._host = context.host
        self._guard = guard
        self._alarm = Alarm(context)
        self._file: OpenFile | None = None
        self._records = 0
        self._seen: Identity | None = None

    @property
    def records(self) -> int:
        """How many there are; raises :class:`SourceDown`."""
        self._look()
        return self._records

    def get(self, key: bytes) -> bytes | None:
        """The data of the first record under ``key``; raises :class:`SourceDown`
        where the file is missing, damaged, or cannot be read."""
        file = self._look()
        try:
            return cdb_get(file, key)
        except CdbError as error:
            raise self._down(f"damaged: {error}") from error
        except OSError as error:
            raise self._down(f"cannot be read: {error.strerror}") from error

    def asked(self) -> None:
        """A question is answered: tell of what is kept back, if anything is."""
        self._alarm.asked()

    def close(self) -> None:
        """Give the descriptor back; it is opened again when it is asked."""
        if self._file is not None:
            self._file.close()
        self._file = self._seen = None

    def _look(self) -> OpenFile:
        walker = self._host.walker(SUPERUSER)
        try:
            place = walker.stat(self._path)
            now = identity(place.status)
            if self._file is not None and now == self._seen:
                return self._file
            file = walker.open(place)
        except KernelError as error:
            raise self._down(f"cannot be read: {error}") from error
        except CannotTell as error:
            raise self._down(f"cannot be read: {error.why}") from error
        try:
            self._take(file, count(file))
        except CdbError as error:
            file.close()
            raise self._down(f"damaged: {error}") from error
        except OSError as error:
            file.close()
            raise self._down(f"cannot be read: {error.strerror}") from error
        except SourceDown:
            file.close()
            raise
        assert self._file is not None
        return self._file

    def _take(self, file: OpenFile, records: int) -> None:
        """``file`` instead of the one that is open, unless the guard forbids."""
        old, before = self._file, self._records
        seen = identity(file.status)
        lost = max(before - records, 0)
        if old is not None and self._guard and too_many(before, lost, self._guard):
            of = f"it has lost {lost} of its {before} records (guard = {self._guard:g})"
            path = self._path.decode("latin-1")
            if seen[:2] == identity(old.status)[:2]:
                # Written over: there is no old one any more.
                raise SourceDown(f"{path}: {of}: {TAKE_IT}")
            self._seen = seen
            file.close()
            self._alarm.set(f"{path}: not taken: {of}: {TAKE_IT}; until then the old")
            return
        if old is not None:
            old.close()
        newest = max(file.status.st_mtime_ns, file.status.st_ctime_ns)
        settled = self._host.clock() - newest > SETTLED_NS
        self._file, self._records = file, records
        # Changed so lately that the next change may leave no mark.
        self._seen = seen if settled else None
        self._alarm.set("")

    def _down(self, why: str) -> SourceDown:
        return SourceDown(f"{self._path.decode('latin-1')}: {why} ({REMEDY})")


def count(file: OpenFile) -> int:
    """How many records a cdb has: half of the slots of its 256 tables, of which its
    head tells (cdb(5)).  Raises :class:`CdbError` where a table ends behind the file,
    and :class:`OSError`."""
    head = file.pread(_HEAD.size, 0)
    if len(head) < _HEAD.size:
        raise CdbError("too short for a cdb file")
    numbers = _HEAD.unpack(head)
    slots = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < _HEAD.size or start + 8 * length > file.status.st_size:
            raise CdbError("it is cut off")
        slots += length
    return slots // 2
