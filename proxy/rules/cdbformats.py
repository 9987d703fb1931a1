"""The keys of recipients' cdb files: the dialects that patches of qmail-smtpd have.

Knows: under which keys a mailbox is looked up, in which order, what a value means.
Knows not: files; a function is handed in that looks a key up.  Used by ``cdb``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from proxy.rules.source import Finding, Says
from proxy.rules.trouble import shown

Get = Callable[[bytes], bytes | None]
"""The data under a key, ``None`` without; a line of a text file has no data."""

Format = Callable[[Get, bytes], Finding]
"""What a dialect makes of a mailbox in lower case, ``user@domain``."""


class _Key(NamedTuple):
    """A key, and what it means that it is there."""

    key: bytes
    says: Says = Says.FOUND


def plain(get: Get, mailbox: bytes) -> Finding:
    """The address is a key; its value does not count."""
    return _first(get, [_Key(mailbox)])


def validrcptto(get: Get, mailbox: bytes) -> Finding:
    """``validrcptto.cdb`` of John Simpson's patch: the address, the extension
    addresses above it, the domain; a value that begins with ``-`` is a refusal."""
    user, _, domain = mailbox.rpartition(b"@")
    keys = [mailbox]
    at = user.rfind(b"-")
    while at >= 0:
        keys.append(user[:at] + b"-default@" + domain)
        at = user.rfind(b"-", 0, at)
    keys.append(b"@" + domain)
    for key in keys:
        value = get(key)
        if value is None:
            continue
        if value.startswith(b"-"):
            return Finding(Says.REJECT, f"key {shown(key)} is a refusal")
        return Finding(Says.FOUND, f"key {shown(key)}")
    return _nothing(keys)


def sagredo(get: Get, mailbox: bytes) -> Finding:
    """``validrcptto`` and ``morevalidrcptto.cdb`` of the combined patch of Roberto
    Puzzanghera and Luca Franceschini (``vrtcheck`` of its qmail-smtpd.c): an address
    counts more than its domain, taking more than refusing."""
    domain = mailbox[mailbox.rfind(b"@") :]
    return _first(
        get,
        [
            _Key(mailbox),
            _Key(b"-" + mailbox, Says.REJECT),
            _Key(domain),
            _Key(b"-" + domain, Says.REJECT),
        ],
    )


def goodrcptto(get: Get, mailbox: bytes) -> Finding:
    """``goodrcptto`` and ``moregoodrcptto.cdb`` of Eben Pratt's patch (``grtcheck`` of
    its qmail-smtpd.c): the address, its domain.  An address without a domain is a key
    as it is, and not completed."""
    at = mailbox.rfind(b"@")
    return _first(get, [_Key(mailbox), *([_Key(mailbox[at:])] if at >= 0 else ())])


def qpsmtpd(get: Get, mailbox: bytes) -> Finding:
    """``goodrcptto`` of a plugin of qpsmtpd: the address, its domain, the user in any
    domain.  From its description, not from its source (docs/lists.md)."""
    user, _, domain = mailbox.rpartition(b"@")
    keys = mailbox, b"@" + domain, user + b"@", user
    return _first(get, [_Key(key) for key in keys])


def _first(get: Get, keys: list[_Key]) -> Finding:
    for key, says in keys:
        if key and get(key) is not None:
            refused = " is a refusal" if says is Says.REJECT else ""
            return Finding(says, f"key {shown(key)}{refused}")
    return _nothing([each.key for each in keys])


def _nothing(keys: list[bytes]) -> Finding:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return Finding(Says.MISSING, f"no key {shown(keys[0])}{more}")
