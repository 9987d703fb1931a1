"""A writer of cdb files, small and independent of the reader under test."""

from __future__ import annotations

import struct
from collections.abc import Iterable


def make_cdb(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a cdb with ``records`` in that order (cdb(5) layout)."""
    body = bytearray(2048)
    tables: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    for key, data in records:
        hashed = _hash(key)
        tables[hashed & 255].append((hashed, len(body)))
        body += struct.pack("<II", len(key), len(data)) + key + data
    for number, table in enumerate(tables):
        slots = _slots(table)
        struct.pack_into("<II", body, 8 * number, len(body), len(slots))
        for slot in slots:
            body += struct.pack("<II", *slot)
    return bytes(body)


def make_users_cdb(
    entries: Iterable[tuple[bytes, bytes]], wildcards: bytes | None = None
) -> bytes:
    """users/cdb as qmail-newu writes it from ``(name, fields)``.

    ``name`` is ``=joe`` or ``+joe-``; ``fields`` are what follows the first
    colon of a line of users/assign.
    """
    records: list[tuple[bytes, bytes]] = []
    ends: list[int] = []
    for name, text in entries:
        fields = text.split(b":")
        data = b"\0".join(fields[:6])
        if name.startswith(b"="):
            records.append((b"!" + name[1:].lower() + b"\0", data + b"\0"))
        else:
            records.append((b"!" + name[1:].lower(), data))
            ends += name[1:].lower()[-1:]
    found = bytes(dict.fromkeys(ends)) if wildcards is None else wildcards
    return make_cdb([*records, (b"", found)])


def _hash(key: bytes) -> int:
    value = 5381
    for byte in key:
        value = (((value << 5) + value) ^ byte) % (1 << 32)
    return value


def _slots(table: list[tuple[int, int]]) -> list[tuple[int, int]]:
    slots = [(0, 0)] * (2 * len(table))
    for hashed, position in table:
        at = (hashed >> 8) % len(slots)
        while slots[at][1]:
            at = (at + 1) % len(slots)
        slots[at] = (hashed, position)
    return slots
