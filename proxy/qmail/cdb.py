"""Reading one key of a cdb file, exactly as qmail's cdb_seek.c does.

Knows: the cdb format, and that a damaged file is an error only where the
lookup runs into the damage.  Knows not: what keys mean.  Called by
``smtpd`` and ``users``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import Protocol

_PAIR = struct.Struct("<II")
_UINT32 = 0xFFFFFFFF

# A sound table is half empty, so a lookup ends after a few slots.  A hostile
# one could send us through the whole file.
_PROBES_MAX = 10_000
_DATA_MAX = 1 << 20
_BLOCK = 1 << 16


class CdbError(Exception):
    """The file ends, or goes on for ever, where the lookup needs it."""


class RandomAccess(Protocol):
    """Anything readable at an offset; :class:`proxy.qmail.view.OpenFile` fits."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end."""
        ...


def cdb_hash(key: bytes) -> int:
    """The hash of cdb_hash.c: 32 bits, starting from 5381."""
    h = 5381
    for byte in key:
        h = ((h * 33) & _UINT32) ^ byte
    return h


def prefix_hashes(key: bytes) -> list[int]:
    """The hashes of ``key[:0]``, ``key[:1]`` and so on, in one pass."""
    return list(
        accumulate(key, lambda h, byte: ((h * 33) & _UINT32) ^ byte, initial=5381)
    )


def cdb_get(file: RandomAccess, key: bytes, hashed: int | None = None) -> bytes | None:
    """The data of the first record under ``key``, or ``None``.

    ``hashed`` is the key's hash, where it is known already.  Raises
    :class:`CdbError` where ``cdb_seek`` or ``cdb_bread`` gives -1, and
    :class:`OSError` when the file cannot be read.
    """
    found = _seek(file, key, cdb_hash(key) if hashed is None else hashed)
    if found is None:
        return None
    length, offset = found
    if length > _DATA_MAX:
        raise CdbError("a record is longer than 1 MiB")
    return _read(file, length, offset)


def cdb_has(file: RandomAccess, key: bytes) -> bool:
    """Whether there is a record under ``key``, whose data is not looked at.

    Raises as :func:`cdb_get` does.
    """
    return _seek(file, key, cdb_hash(key)) is not None


def cdb_records(file: RandomAccess) -> Iterator[tuple[bytes, bytes]]:
    """Every key with its data: the records stand between the head and the first
    table (cdb(5)).  For small files; raises as :func:`cdb_get` does."""
    head = _read(file, 2048, 0)
    at, end = 2048, min(_PAIR.unpack_from(head, 8 * n)[0] for n in range(256))
    block, start = b"", at
    while at < end:
        if at + 8 > start + len(block):
            block, start = file.pread(_BLOCK, at), at
        if len(block) < at - start + 8:
            raise CdbError("the file is truncated")
        key_length, data_length = _PAIR.unpack_from(block, at - start)
        at, size = at + 8, key_length + data_length
        if size > _DATA_MAX:
            raise CdbError("a record is longer than 1 MiB")
        if at + size > start + len(block):
            block, start = _read(file, size, at) + file.pread(_BLOCK, at + size), at
        record = block[at - start : at - start + size]
        yield record[:key_length], record[key_length:]
        at += size


def _seek(file: RandomAccess, key: bytes, h: int) -> tuple[int, int] | None:
    """``cdb_seek``: length and offset of the data under ``key``."""
    table, slots = _PAIR.unpack(_read(file, 8, 8 * (h & 255)))
    if not slots:
        return None
    slot = (h >> 8) % slots
    for _ in range(min(slots, _PROBES_MAX)):
        slot_hash, record = _PAIR.unpack(_read(file, 8, (table + 8 * slot) & _UINT32))
        if not record:
            return None
        if slot_hash == h:
            key_length, data_length = _PAIR.unpack(_read(file, 8, record))
            if key_length == len(key) and _matches(file, key, record + 8):
                return data_length, record + 8 + key_length
        slot += 1
        if slot == slots:
            slot = 0
    if slots > _PROBES_MAX:
        raise CdbError(f"no free slot among {_PROBES_MAX}")
    return None


def _matches(file: RandomAccess, key: bytes, offset: int) -> bool:
    """Compare in blocks of 32 as cdb_seek.c does: a difference in the first
    block is "no match" even where the file ends in the second."""
    for start in range(0, len(key), 32):
        block = key[start : start + 32]
        if _read(file, len(block), offset + start) != block:
            return False
    return True


def _read(file: RandomAccess, size: int, offset: int) -> bytes:
    data = file.pread(size, offset)
    if len(data) != size:
        raise CdbError("the file is truncated")
    return data
