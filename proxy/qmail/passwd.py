"""System accounts: /etc/passwd and /etc/group as the C library reads them, and
qmail-getpw's choice of the user who controls a local name.

Knows: the file formats (glibc's nss_files), qmail-getpw's rules.  Knows not:
accounts that only NIS, LDAP or sssd know (see docs/qmail-files.md).  Called by
``host`` and ``users``.  Source: qmail-getpw.8, qmail-getpw.c, passwd(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from proxy.qmail.errors import KernelError
from proxy.qmail.walk import Walker

FILE_MAX = 64 << 20

_BLANKS = b" \t\n\v\f\r"
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)")
_USERNAME_MAX = 32  # GETPW_USERLEN, one byte of it for the final NUL


class Account(NamedTuple):
    """One line of passwd(5)."""

    name: bytes
    uid: int
    gid: int
    home: bytes


class Controller(NamedTuple):
    """Who controls a local name: the six fields qmail-lspawn gets (nughde)."""

    user: bytes
    uid: int
    gid: int
    home: bytes
    dash: bytes
    extension: bytes


class Table:
    """Lines of a colon-separated file by their first field, in file order.

    Lines are only cut up when they are asked for, so that a large file is
    cheap to take in.
    """

    __slots__ = ("_lines",)

    def __init__(self, content: bytes) -> None:
        lines: dict[bytes, tuple[bytes, ...]] = {}
        for line in content.split(b"\n"):
            line = line.lstrip(_BLANKS)
            name = line.partition(b":")[0]
            if name in lines:
                lines[name] += (line,)
            else:
                lines[name] = (line,)
        self._lines = lines

    def fields(self, name: bytes) -> list[list[bytes]]:
        """The fields of every line for ``name``.

        A name that begins with ``+`` or ``-`` belongs to nss_compat, one that
        begins with ``#`` is a comment; C strings end at NUL.
        """
        lines = self._lines.get(name)
        if lines is None or name[:1] in (b"+", b"-", b"#"):
            return []
        return [line.split(b"\0")[0].split(b":") for line in lines]


def account(passwd: Table, name: bytes) -> Account | None:
    """``getpwnam``: the first well-formed line for ``name``."""
    for fields in passwd.fields(name):
        if len(fields) < 4:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            home = fields[5] if len(fields) > 5 else b""
            return Account(name, uid, gid, home)
    return None


def group_id(group: Table, name: bytes) -> int | None:
    """``getgrnam``: the number of group ``name``."""
    for fields in group.fields(name):
        if len(fields) > 2:
            number = _number(fields[2])
            if number is not None:
                return number
    return None


def _number(field: bytes) -> int | None:
    """strtoul(3), as nss_files has it: the field must end there, and a number of
    more than 32 bits makes the line malformed (glibc 2.36)."""
    match = _NUMBER.fullmatch(field)
    if match is None:
        return None
    digits = match[2].lstrip(b"0")
    value = int(digits or b"0") if len(digits) <= 20 else 1 << 64
    if match[1] == b"-" and value < 1 << 64:
        value = -value & 0xFFFFFFFF_FFFFFFFF
    return value if value <= 0xFFFFFFFF else None


Lookup = Callable[[bytes], Account | None]


def getpw(
    lookup: Lookup,
    walker: Walker,
    local: bytes,
    break_char: bytes,
    alias: bytes,
    cwd: bytes = b"/var/qmail",
) -> Controller | None:
    """qmail-getpw: the account whose name is the longest prefix of ``local``.

    A prefix ends at the end or at the break character; the account must not be
    root, and its home must exist and belong to it.  Otherwise the ``alias``
    user has the whole name.  ``None`` when there is no alias user.  ``cwd`` is
    the directory that qmail-getpw is started in.  Raises
    :class:`KernelError` (temporary only) and :class:`CannotTell`.
    """
    end = len(local)
    while end >= 0:
        if end < _USERNAME_MAX:
            found = lookup(local[:end].lower())
            if found is not None and found.uid and _owns_home(walker, found, cwd):
                whole = end == len(local)
                return Controller(
                    found.name,
                    found.uid,
                    found.gid,
                    found.home,
                    b"" if whole else b"-",
                    b"" if whole else local[end + 1 :],
                )
        end = local.rfind(break_char, 0, min(end, _USERNAME_MAX))
    found = lookup(alias)
    if found is None:
        return None
    return Controller(found.name, found.uid, found.gid, found.home, b"-", local)


def _owns_home(walker: Walker, found: Account, cwd: bytes) -> bool:
    home = found.home
    if home and not home.startswith(b"/"):
        home = cwd + b"/" + home
    try:
        return walker.stat(home).status.st_uid == found.uid
    except KernelError as error:
        if error.temporary:
            raise
        return False
