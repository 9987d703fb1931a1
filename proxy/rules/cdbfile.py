"""A cdb that others make: opened anew when it is replaced, and believed only whole.

Knows: what a sound cdb looks like from outside, which records it has, what the
guard says of a new one.  Knows not: what keys mean, but that a domain stands behind the
last ``@``.  Used by ``cdb`` and its formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial

from proxy.qmail.cache import Identity, identity, settled
from proxy.qmail.cdb import CdbError, cdb_get, cdb_has
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import OpenFile
from proxy.qmail.walk import SUPERUSER
from proxy.rules.slices import Turns
from proxy.rules.source import Context, SourceDown
from proxy.rules.whole import TAKE_IT, Alarm, losses_of, too_many

_HEAD = struct.Struct("<512I")
_LENGTHS = struct.Struct("<II")
_BLOCK = 1 << 16
_FEW = 200  # records that are compared in one go: a millisecond or two
REMEDY = "make it anew, beside it, and rename it to this name"
"""What to do about a damaged cdb."""


class CdbFile:
    """The cdb at ``path`` of the qmail host.

    ``guard`` is the share of its records, or of those of a domain, that a new one may
    lose; one that has lost more is not taken, and the old one, which is still open,
    stays.
    """

    def __init__(self, path: bytes, context: Context, guard: float = 0.0) -> None:
        self._path = path
        self._host = context.host
        self._guard = guard
        self._alarm = Alarm(context)
        self._file: OpenFile | None = None
        self._records = 0
        self._seen: Identity | None = None
        self._comparing: tuple[Turns[str], OpenFile] | None = None

    @property
    def behind(self) -> bool:
        """Whether there is another one, which is being compared just now."""
        return self._comparing is not None

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
        if self._comparing is not None:
            turns, new = self._comparing
            turns.close()
            new.close()
        if self._file is not None:
            self._file.close()
        self._file = self._seen = self._comparing = None

    def _look(self) -> OpenFile:
        if self._file is not None and self._comparing is not None:
            return self._file
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
            self._consider(file, count(file))
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

    def _consider(self, file: OpenFile, records: int) -> None:
        """``file`` instead of the one that is open, unless the guard forbids."""
        old, before = self._file, self._records
        if old is None or not self._guard:
            self._take(file, records)
            return
        lost = max(before - records, 0)
        of = ""
        if too_many(before, lost, self._guard):
            of = f"it has lost {lost} of its {before} records (guard = {self._guard:g})"
        if identity(file.status)[:2] == identity(old.status)[:2]:
            # Written over: there is no old one any more.
            if of:
                raise SourceDown(f"{self._path.decode('latin-1')}: {of}: {TAKE_IT}")
            self._take(file, records)
        elif of:
            self._refuse(file, of)
        else:
            self._compare(old, file, records)

    def _compare(self, old: OpenFile, new: OpenFile, records: int) -> None:
        """Whether a domain has lost too many: a large cdb between other work."""
        turns = Turns(
            losses_of(_old_addresses(old), partial(cdb_has, new), self._guard),
            lambda lost: self._compared(new, records, lost),
            lambda error: self._not_compared(new, records, error),
        )
        self._comparing = turns, new
        turns.begin(small=max(records, self._records) <= _FEW)

    def _not_compared(self, new: OpenFile, records: int, error: Exception) -> None:
        """A sound file is not held back for what is wrong with the one before."""
        sound = isinstance(error, _OldDamaged)
        self._compared(new, records, "" if sound else f"damaged: {error}")

    def _compared(self, new: OpenFile, records: int, lost: str) -> None:
        self._comparing = None
        if lost:
            self._refuse(new, lost)
        else:
            self._take(new, records)

    def _refuse(self, file: OpenFile, why: str) -> None:
        self._seen = identity(file.status)
        file.close()
        path = self._path.decode("latin-1")
        self._alarm.set(f"{path}: not taken: {why}: {TAKE_IT}; until then the old")

    def _take(self, file: OpenFile, records: int) -> None:
        old, seen = self._file, identity(file.status)
        if old is not None:
            old.close()
        self._file, self._records = file, records
        self._seen = seen if settled(file.status, self._host.clock()) else None
        self._alarm.set("")

    def _down(self, why: str) -> SourceDown:
        return SourceDown(f"{self._path.decode('latin-1')}: {why} ({REMEDY})")


class _OldDamaged(CdbError):
    """It was cut off or written over in its place, while it was open."""


def _old_addresses(file: OpenFile) -> Iterator[bytes]:
    try:
        yield from _addresses(file)
    except (CdbError, OSError) as error:
        raise _OldDamaged(str(error)) from error


def _addresses(file: OpenFile) -> Iterator[bytes]:
    """The keys that are of a domain, in the file's order: the records stand between
    the head and the first table (cdb(5)).  Raises :class:`CdbError`,
    :class:`OSError`."""
    end = min(_HEAD.unpack(file.pread(_HEAD.size, 0))[::2])
    for key in _keys(file, _HEAD.size, end):
        if b"@" in key:
            yield key


def _keys(file: OpenFile, at: int, end: int) -> Iterator[bytes]:
    block, start = b"", at
    while at < end:
        if at + _LENGTHS.size > start + len(block):
            block, start = file.pread(_BLOCK, at), at
            if len(block) < _LENGTHS.size:
                raise CdbError("it is cut off")
        key_length, data_length = _LENGTHS.unpack_from(block, at - start)
        at += _LENGTHS.size
        if at + key_length > start + len(block):
            block, start = file.pread(_BLOCK, at), at
        if key_length <= _BLOCK:
            yield block[at - start : at - start + key_length]
        at += key_length + data_length


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
