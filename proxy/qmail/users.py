"""qmail-lspawn: which user, home and extension a local name belongs to.

Knows: users/cdb (exact and wildcard entries) and when qmail-getpw is asked
instead.  Knows not: what lies in the home.  Called by ``decide``.
Source: qmail-users.5, qmail-lspawn.8, ``nughde_get()`` in qmail-lspawn.c.
"""

from __future__ import annotations

import re

from proxy.qmail.cdb import CdbError, RandomAccess, cdb_get, prefix_hashes
from proxy.qmail.passwd import Controller

_DIGITS = re.compile(rb"[0-9]*")


class AssignError(Exception):
    """users/cdb cannot be used: qmail-lspawn defers every local delivery."""


def assigned(cdb: RandomAccess, local: bytes) -> tuple[bytes, Controller] | None:
    """The entry of users/cdb for ``local`` and the key that matched.

    ``None`` when users/cdb does not know the name.  Raises
    :class:`AssignError` for a damaged file or entry.
    """
    try:
        found = _search(cdb, local)
    except (CdbError, OSError) as error:
        raise AssignError(str(error)) from error
    if found is None:
        return None
    key, data = found
    return key, _controller(data)


def _search(cdb: RandomAccess, local: bytes) -> tuple[bytes, bytes] | None:
    """Exact first, then ever shorter prefixes that end in a wildcard
    character; the bare ``!`` last."""
    wildcards = cdb_get(cdb, b"")
    if wildcards is None:
        raise CdbError("it has no list of wildcard characters")
    lower = b"!" + local.lower() + b"\0"
    hashes = prefix_hashes(lower)  # a name of dashes has many prefixes
    data = cdb_get(cdb, lower, hashes[-1])
    if data is not None:
        return lower, data
    for length in range(len(lower) - 1, 0, -1):
        if length == 1 or lower[length - 1] in wildcards:
            data = cdb_get(cdb, lower[:length], hashes[length])
            if data is not None:
                return lower[:length], data + local[length - 1 :]
    return None


def _controller(data: bytes) -> Controller:
    # The last field ends at the NUL that qmail-lspawn appends, or earlier.
    fields = (data + b"\0").split(b"\0")
    if len(fields) < 7:
        raise AssignError("an entry has fewer than six fields")
    user, uid, gid, home, dash, extension = fields[:6]
    return Controller(user, _scan(uid), _scan(gid), home, dash, extension)


def _scan(field: bytes) -> int:
    """scan_ulong.c: the leading digits, 0 without any; kept in 32 bits."""
    match = _DIGITS.match(field)
    digits = match[0] if match else b""
    # 2 ** 32 divides 10 ** 32, so earlier digits do not count.
    return int(digits[-32:] or b"0") & 0xFFFFFFFF
