"""Root's rights: used to bind port 25, then given up.

Knows: which user the front door becomes, what it keeps, how to see that there
is no way back.  Knows not: sockets, signals, what is read with the right that
is kept.  Called by ``serve`` when all sockets are bound, and by ``check``
and ``explain``, which look at files as the service would.

What is kept is CAP_DAC_READ_SEARCH: dot-qmail files in homes of mode 0700 are
readable, and nothing is writable (capabilities(7)).  With ``backend.transparent``
CAP_NET_RAW stays too (or CAP_NET_ADMIN, where that one is not there).

Programs that are started have none of it.  But with ``backend.command`` set-id
programs have to work among them: qmail-smtpd's qmail-queue is one.  Then neither
no_new_privs is set nor the bounding set emptied.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
from collections.abc import Iterator
from typing import NamedTuple

from proxy.config.process import Process
from proxy.process import capabilities

USUAL_USERS = ("backstop", "qmaild", "nobody")
"""Who the front door is where nothing is configured: the first that exists.
qmaild is the user of qmail-smtpd (INSTALL.ids)."""


class PrivilegeError(Exception):
    """Rights that cannot be given up or kept: ``key`` of ``[process]`` with its
    ``value``, ``what`` is wrong, the ``remedy``."""

    def __init__(self, key: str, value: object, what: str, remedy: str) -> None:
        super().__init__(key, value, what, remedy)
        self.key = key
        self.what = what
        self.remedy = remedy
        shown = "" if value is None else f" = {json.dumps(value)}"
        self._text = f"process.{key}{shown}: {what} ({remedy})"

    def __str__(self) -> str:
        return self._text


class RunUser(NamedTuple):
    """An account to run as; ``usual`` if nobody chose it."""

    name: str
    uid: int
    gid: int
    usual: bool = False


class Needs(NamedTuple):
    """What serving needs beyond reading: ``set_id`` programs that are started
    (backend.command), other hosts' ``addresses`` (backend.transparent)."""

    set_id: bool = False
    addresses: bool = False


NO_NEEDS = Needs()


class Rights(NamedTuple):
    """What the process is now.  ``reads_all``: it has CAP_DAC_READ_SEARCH, or
    is root; ``warnings`` and lighter ``hints`` are for the administrator."""

    user: str
    reads_all: bool
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        read = "may read every file" if self.reads_all else "reads what that user may"
        return f"runs as {self.user}, {read}"


_STAY = "or set process.allow_root = true to run as root"
_USERADD = "useradd --system --no-create-home"
_REPORT = f"this should not be: report it, {_STAY}"


def is_root() -> bool:
    """Whether any of the process's user ids is 0."""
    return 0 in os.getresuid() if hasattr(os, "getresuid") else os.geteuid() == 0


def run_user(process: Process) -> RunUser:
    """The account to become; raises :class:`PrivilegeError`."""
    if process.user is None:
        found, usual = _usual(), True
    else:
        found, usual = _user(process.user, process.group), False
    if process.group is not None:
        found = found._replace(gid=_group(process.group))
    if found.uid == 0:
        remedy = f"name another user, {_STAY}"
        raise PrivilegeError("user", process.user, "this is root", remedy)
    return found._replace(usual=usual)


def _usual() -> RunUser:
    for name in USUAL_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return RunUser(name, entry.pw_uid, entry.pw_gid)
    raise PrivilegeError(
        "user",
        None,
        "started as root, and there is no user backstop to become",
        f"make it: {_USERADD} backstop; or name another one, {_STAY}",
    )


def _user(name: str, group: str | None) -> RunUser:
    try:
        if not name.isdigit():
            entry = pwd.getpwnam(name)
            return RunUser(name, entry.pw_uid, entry.pw_gid)
        uid = int(name)
        with contextlib.suppress(KeyError):
            entry = pwd.getpwuid(uid)
            return RunUser(entry.pw_name, uid, entry.pw_gid)
        if group is not None:
            return RunUser(name, uid, _group(group))
    except (KeyError, OverflowError):
        remedy = f"make it: {_USERADD} {name}"
        raise PrivilegeError("user", name, "no such user", remedy) from None
    what = "no passwd entry tells its group"
    raise PrivilegeError("user", name, what, "set process.group too")


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        remedy = f"make it: groupadd --system {name}"
        raise PrivilegeError("group", name, "no such group", remedy) from None


def settle(process: Process, needs: Needs = NO_NEEDS) -> Rights:
    """Give up all that serving does not need; for a process with one thread.

    Raises :class:`PrivilegeError`; then some of it may be given up already.
    """
    if not is_root():
        return _limit(process, needs)
    if process.allow_root:
        return Rights("root", reads_all=True)
    user = run_user(process)
    keep = _can_keep(process.keep_read_capability)
    kept = _kept(keep, needs)
    try:
        _become(user, kept, needs)
    except OSError as error:
        raise PrivilegeError(
            "user",
            user.name,
            f"cannot become that user: {error.strerror}",
            "in a container without CAP_SETUID and CAP_SETGID, start it as that user,"
            f" {_STAY}",
        ) from error
    _verify(user, kept)
    warnings = tuple(_doubts(user, process, keep))
    return Rights(user.name, keep, warnings, tuple(_hints(user)))


def _can_keep(wanted: bool | None) -> bool:
    """Whether CAP_DAC_READ_SEARCH will be kept, if it is ``wanted`` (``None``:
    if it is there)."""
    if wanted is False:
        return False
    if not capabilities.AVAILABLE:
        why = "this system has no capabilities(7), which are Linux's"
    else:
        try:
            if capabilities.permitted() & capabilities.DAC_READ_SEARCH:
                return True
            why = "started without CAP_DAC_READ_SEARCH"
        except (OSError, AttributeError) as error:
            why = f"the capabilities of the process cannot be asked for ({error})"
    if wanted:
        remedy = "give it to the service; or set it to false, and open the homes"
        raise PrivilegeError("keep_read_capability", True, why, remedy)
    return False


def _kept(keep: bool, needs: Needs) -> int:
    """The capabilities that stay."""
    kept = capabilities.DAC_READ_SEARCH if keep else 0
    if needs.addresses and capabilities.AVAILABLE:
        # Where neither is there, the service says so when it starts.
        with contextlib.suppress(OSError, AttributeError):
            there = capabilities.permitted()
            for one in (capabilities.NET_RAW, capabilities.NET_ADMIN):
                if there & one:
                    return kept | one
    return kept


def _become(user: RunUser, kept: int, needs: Needs) -> None:
    linux = capabilities.AVAILABLE
    if linux:
        if not needs.set_id:
            # No CAP_SETPCAP: there is nothing to start anyway.
            with contextlib.suppress(OSError):
                capabilities.empty_bounding_set()
        capabilities.keep_over_setuid(bool(kept))
    # In this order: without user 0 there is no right to the others.  With it,
    # each sets the real, effective and saved id (setgid(2), setuid(2)).
    os.setgroups([])
    os.setgid(user.gid)
    os.setuid(user.uid)
    if linux:
        capabilities.limit_to(kept)
        capabilities.keep_over_setuid(False)
        if not needs.set_id:
            capabilities.no_new_privileges()


def _verify(user: RunUser, kept: int) -> None:
    """See that it is so; trust no return value."""
    for regain in (os.setuid, os.seteuid):
        with contextlib.suppress(OSError):
            regain(0)
            what = f"{regain.__name__}(0) still works after giving up root"
            raise PrivilegeError("user", user.name, what, _REPORT)
    good = os.getuid() == os.geteuid() == user.uid and os.getgroups() == []
    good = good and os.getgid() == os.getegid() == user.gid
    if good and capabilities.AVAILABLE:
        good = capabilities.permitted() == kept
    if not good:
        what = "not all of root's rights are gone"
        raise PrivilegeError("user", user.name, what, _REPORT)


def _doubts(user: RunUser, process: Process, keep: bool) -> Iterator[str]:
    if process.keep_read_capability is None and not keep:
        yield (
            "without CAP_DAC_READ_SEARCH recipients whose home or .qmail is closed to"
            f" {user.name} are deferred (backstop check names them)"
        )


def _hints(user: RunUser) -> Iterator[str]:
    if user.usual and user.name == "nobody":
        yield (
            "there is no user backstop: runs as nobody, as others may too (make a user"
            f" of its own: {_USERADD} backstop)"
        )


def _limit(process: Process, needs: Needs) -> Rights:
    """Not started as root: keep what is needed, if it is there at all."""
    keep = _can_keep(process.keep_read_capability)
    if capabilities.AVAILABLE:
        # Where the kernel refuses, what is there stays.  Nothing too many may be
        # there, and what is there be ambient: programs that are started had it.
        with contextlib.suppress(OSError, AttributeError):
            capabilities.limit_to(_kept(keep, needs))
        with contextlib.suppress(OSError, AttributeError):
            if not needs.set_id:
                capabilities.no_new_privileges()
    name = _own_name()
    return Rights(name, keep, tuple(_other_user(process, name)))


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _other_user(process: Process, name: str) -> Iterator[str]:
    if process.user is not None and process.user not in (name, str(os.geteuid())):
        yield f'process.user = "{process.user}" has no effect: not started as root'
