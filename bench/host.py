"""qmail hosts to measure on, and the cdb files that they need.

Knows: where qmail keeps what (qmail-control.5, qmail-users.5, cdb(5)), how to
write much of it quickly.  Knows not: how it is read.  Called by ``peers``,
``decisions`` and ``direct``.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.tools import DOMAIN, user_name

_FIRST_UID = 20_000
_ALIAS_UID, _QMAIL_GID = 7790, 2108
_PAIR = struct.Struct("<II")


def lay_out(root: Path, control: Mapping[str, str] | None = None) -> None:
    """An empty host: control files and the alias user."""
    files = {"me": f"mx.{DOMAIN}", "rcpthosts": DOMAIN, "locals": DOMAIN}
    for name, text in {**files, **(control or {})}.items():
        write(root / "var/qmail/control" / name, text + "\n")
    (root / "var/qmail/users").mkdir()
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root / "etc/group", f"qmail:x:{_QMAIL_GID}:\n")
    add_account(root, "alias", _ALIAS_UID, "/var/qmail/alias")


def add_account(root: Path, name: str, uid: int, home: str) -> int:
    """A line of /etc/passwd and a home; the user number.

    Without root's rights all accounts have our own number: qmail delivers to
    no home that belongs to another.
    """
    owner = uid if os.geteuid() == 0 else os.getuid()
    directory = root / home.lstrip("/")
    directory.mkdir(parents=True)
    os.chown(directory, owner, -1)
    with (root / "etc/passwd").open("a") as passwd:
        passwd.write(f"{name}:x:{owner}:{owner}::{home}:/bin/sh\n")
    return owner


def add_users(root: Path, count: int) -> None:
    """System users with a Maildir each, as the load generator names them."""
    for number in range(count):
        name = user_name(number)
        owner = add_account(root, name, _FIRST_UID + number, f"/home/{name}")
        home = root / "home" / name
        add_maildir(home, owner)
        add_dot_qmail(home, ".qmail", owner)


def add_maildir(home: Path, owner: int) -> None:
    """Where the dot-qmail files deliver to."""
    for part in ("", "/new", "/cur", "/tmp"):
        os.mkdir(f"{home}/Maildir{part}")
        os.chown(f"{home}/Maildir{part}", owner, -1)


def add_dot_qmail(home: Path, name: str, owner: int) -> None:
    """A dot-qmail file that delivers to the owner's Maildir."""
    path = home / name
    path.write_bytes(b"./Maildir/\n")
    os.chown(path, owner, -1)


def write(path: Path, text: str) -> None:
    """A file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_users_cdb(
    path: Path, names: Iterable[str], account: str, uid: int, home: str
) -> None:
    """users/cdb as qmail-newu makes it: each name exactly, all in one home."""
    data = f"{account}\0{uid}\0{uid}\0{home}\0\0\0".encode()
    records = ((b"!" + name.encode() + b"\0", data) for name in names)
    write_cdb(path, (*records, (b"", b"")))


def write_cdb(path: Path, records: Iterable[tuple[bytes, bytes]]) -> None:
    """A cdb with ``records`` in that order."""
    tables = [array("Q") for _ in range(256)]  # hash and position in one number
    position = 2048
    with path.open("wb") as file:
        file.write(bytes(position))
        for key, data in records:
            hashed = _hash(key)
            tables[hashed & 255].append(hashed << 32 | position)
            file.write(_PAIR.pack(len(key), len(data)) + key + data)
            position += 8 + len(key) + len(data)
        header = bytearray()
        for table in tables:
            slots = _slots(table)
            header += _PAIR.pack(position, len(slots))
            file.write(b"".join(_PAIR.pack(s >> 32, s & 0xFFFFFFFF) for s in slots))
            position += 8 * len(slots)
        file.seek(0)
        file.write(header)


def _hash(key: bytes) -> int:
    value = 5381
    for byte in key:
        value = (value * 33 ^ byte) & 0xFFFFFFFF
    return value


def _slots(table: array[int]) -> list[int]:
    """An open hash table of twice the size, linear probing."""
    slots = [0] * (2 * len(table))
    for entry in table:
        at = (entry >> 40) % len(slots)
        while slots[at]:
            at = (at + 1) % len(slots)
        slots[at] = entry
    return slots
