"""cdb files, sound or not: a lookup ends, and says what cdb_seek.c would.

An input is a key up to the first LF, and the file.
"""

from __future__ import annotations

from proxy.qmail.cdb import CdbError, cdb_get, cdb_has
from proxy.qmail.users import AssignError, assigned
from tests.support.cdbmake import make_users_cdb

ALLOWED: tuple[type[Exception], ...] = (CdbError, AssignError)
SAMPLE = make_users_cdb(
    [
        (b"=joe", b"joe:1001:1001:/home/joe:::"),
        (b"+joe-", b"joe:1001:1001:/home/joe:-::"),
        (b"+", b"alias:1002:1002:/var/qmail/alias:-::"),
    ]
)
TOKENS = (b"joe", b"joe-list", b"\n", b"\0", b"!", SAMPLE[:16], SAMPLE[2048:2112])
READS_MAX = 100_000


class _File:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads = 0

    def pread(self, size: int, offset: int) -> bytes:
        assert offset >= 0
        assert 0 <= size <= 1 << 20
        self.reads += 1
        assert self.reads < READS_MAX
        return self.content[offset : offset + size]


def one_input(data: bytes) -> None:
    key, _, content = data.partition(b"\n")
    _lookup(content, key)
    # The same with a sound head, so that a search gets beyond it.
    if len(content) > 8:
        _lookup(SAMPLE[: len(SAMPLE) - len(content)] + content, key)


def _lookup(content: bytes, key: bytes) -> None:
    file = _File(content)
    try:
        found = cdb_get(file, key)
    except CdbError:
        pass
    else:
        assert cdb_has(file, key) == (found is not None)
    entry = assigned(file, key)
    if entry is not None:
        matched, controller = entry
        assert (b"!" + key.lower() + b"\0").startswith(matched)
        assert 0 <= controller.uid < 1 << 32
        assert 0 <= controller.gid < 1 << 32
