"""Lookups in cdb files: sound, damaged, hostile."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.cdb import CdbError, cdb_get, cdb_has, cdb_hash, prefix_hashes
from tests.support.cdbmake import make_cdb
from tests.support.fuzz import fuzz

KEYS = st.binary(max_size=70)
RECORDS = st.lists(st.tuples(KEYS, st.binary(max_size=40)), max_size=40)


class Memory:
    """Counts what is read, so that a test can see that a lookup ends."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads = 0

    def pread(self, size: int, offset: int) -> bytes:
        assert 0 <= offset < 1 << 40
        self.reads += 1
        return self.content[offset : offset + size]


@pytest.mark.parametrize(
    ("key", "value"),
    # Checked by hand: 5381 * 33 ^ byte.
    [(b"", 5381), (b"a", 177604), (b"!", 177540)],
)
def test_the_hash(key: bytes, value: int) -> None:
    assert cdb_hash(key) == value


@fuzz
@given(st.binary(max_size=200))
def test_the_hash_stays_in_32_bits(key: bytes) -> None:
    assert 0 <= cdb_hash(key) < 1 << 32
    prefixes = [cdb_hash(key[:length]) for length in range(len(key) + 1)]
    assert prefix_hashes(key) == prefixes


@fuzz
@given(RECORDS, st.lists(KEYS, max_size=10))
def test_finds_what_was_written(
    records: list[tuple[bytes, bytes]], others: list[bytes]
) -> None:
    file = Memory(make_cdb(records))
    first: dict[bytes, bytes] = {}
    for key, data in records:
        first.setdefault(key, data)
    for key in [*first, *others]:
        assert cdb_get(file, key) == first.get(key)
        assert cdb_has(file, key) == (key in first)


def test_many_keys_in_one_table() -> None:
    keys = [b"%d" % n for n in range(3000)]
    keys = [key for key in keys if cdb_hash(key) & 255 == 7]
    assert len(keys) > 5
    file = Memory(make_cdb((key, b"=" + key) for key in keys))
    assert [cdb_get(file, key) for key in keys] == [b"=" + key for key in keys]


@pytest.mark.parametrize("key", [b"", b"a", b"absent", b"k" * 70])
def test_truncated_anywhere(key: bytes) -> None:
    whole = make_cdb([(b"", b"-"), (b"a", b"data"), (b"k" * 70, b"long")])
    right = cdb_get(Memory(whole), key)
    failed = 0
    for length in range(len(whole)):
        try:
            assert cdb_get(Memory(whole[:length]), key) == right
        except CdbError:
            failed += 1
    assert failed


def test_a_difference_is_seen_before_the_end_of_the_file() -> None:
    """qmail compares blocks of 32 bytes: the first one decides here, though
    the record's key goes on beyond the end of the file."""
    ours, theirs = b"a" * 64, b"b" * 64
    whole = bytearray(make_cdb([(theirs, b"")]))
    hashed = cdb_hash(ours)
    table = 8 * (hashed & 255)
    struct.pack_into("<II", whole, table, 2048, 1)
    struct.pack_into("<II", whole, 2048, hashed, 2056)
    struct.pack_into("<II", whole, 2056, 64, 0)
    whole[2064:] = theirs[:40]
    assert cdb_get(Memory(bytes(whole)), ours) is None
    whole[2064:] = ours[:32] + theirs[:8]
    with pytest.raises(CdbError, match="truncated"):
        cdb_get(Memory(bytes(whole)), ours)


def test_data_beyond_the_end_matters_only_to_who_wants_it() -> None:
    whole = make_cdb([(b"a", b"data")])
    at = whole.index(b"adata")
    damaged = bytearray(whole)
    struct.pack_into("<II", damaged, at - 8, 1, 1 << 19)
    assert cdb_has(Memory(bytes(damaged)), b"a")
    with pytest.raises(CdbError, match="truncated"):
        cdb_get(Memory(bytes(damaged)), b"a")
    struct.pack_into("<II", damaged, at - 8, 1, 0xFFFFFFFF)
    with pytest.raises(CdbError, match="1 MiB"):
        cdb_get(Memory(bytes(damaged)), b"a")


def _table_of(slot: bytes, slots: int, key: bytes) -> bytes:
    whole = bytearray(2048) + slot * slots
    struct.pack_into("<II", whole, 8 * (cdb_hash(key) & 255), 2048, slots)
    return bytes(whole)


def test_a_table_without_a_free_slot_ends() -> None:
    full = Memory(_table_of(struct.pack("<II", 1, 1), 100, b"a"))
    assert cdb_get(full, b"a") is None
    assert full.reads <= 102


def test_a_huge_table_without_a_free_slot_is_given_up() -> None:
    full = Memory(_table_of(struct.pack("<II", 1, 1), 20_000, b"a"))
    with pytest.raises(CdbError, match="no free slot"):
        cdb_get(full, b"a")
    assert full.reads <= 10_002


def test_positions_are_counted_in_32_bits() -> None:
    hashed = cdb_hash(b"a")
    slot = (hashed >> 8) % 1000
    whole = bytearray(2048)
    table = (2048 - 8 * slot) % (1 << 32)
    struct.pack_into("<II", whole, 8 * (hashed & 255), table, 1000)
    whole += struct.pack("<IIII", hashed, 2056, 1, 1) + b"ax"
    assert cdb_get(Memory(bytes(whole)), b"a") == b"x"


@fuzz
@given(st.binary(max_size=3000), KEYS)
def test_garbage_raises_nothing_else(content: bytes, key: bytes) -> None:
    with contextlib.suppress(CdbError):
        cdb_get(Memory(content), key)


@fuzz
@given(RECORDS, st.lists(st.tuples(st.integers(0), st.integers(0, 255))), KEYS)
def test_flipped_bytes_raise_nothing_else(
    records: list[tuple[bytes, bytes]], flips: list[tuple[int, int]], key: bytes
) -> None:
    content = bytearray(make_cdb([*records, (key, b"x")]))
    for at, value in flips:
        content[at % len(content)] = value
    with contextlib.suppress(CdbError):
        cdb_get(Memory(bytes(content)), key)
