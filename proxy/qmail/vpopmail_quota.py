"""Whether vpopmail has no room for more mail: in a mailbox, or in a whole domain.

Knows: where the limits are, what they are held against, and what vpopmail's usage
daemon may say instead.  Knows not: how a domain is counted
(:mod:`proxy.qmail.usage`), what a sender is told.  Called by
:mod:`proxy.qmail.vpopmail_lines`, and only where a key asks for it.  Source:
maildirquota.c, vlimits.c, vmysql.c and ``maildir_to_email()`` of vpopmail 5.4 to 5.6.

A mailbox or domain is full here when the smallest message would not fit.  Whether a
certain message does, only its size could tell.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from proxy.qmail.effect import Run
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.maildirsize import is_over, over_quota, quota_of, read_quota
from proxy.qmail.questions import (
    AskCount,
    AskDaemon,
    AskLimits,
    Daemon,
    Kind,
    Need,
    NoAnswer,
    Question,
    Quota,
    Stored,
)
from proxy.qmail.vpopmail_data import MYSQL, Installed, assigned, backend
from proxy.qmail.vusaged import daemon, domain_is_full, mailbox_is_full
from proxy.qmail.walk import Place

_LIMITS_MAX = 2048  # buf in vlimits_read_limits_file()
_FILE_MAX = 1 << 20
_EMAIL_MAX = 255
_WRAP = 1 << 64  # storage_t
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]{1,18})")

Note = Callable[..., None]


class Room(enum.Enum):
    """Whether there is room; ``LATER``: there was none a while ago, and it cannot be
    seen now whether there is."""

    ROOM = "room"
    FULL = "full"
    LATER = "later"
    UNKNOWN = "unknown"


class Rooms:
    """What one run of vdelivermail finds.  ``note`` takes steps of the trail."""

    def __init__(self, run: Run, installed: Installed, note: Note) -> None:
        self._run = run
        self._installed = installed
        self._note = note
        self._daemon: tuple[Daemon | None] | None = None

    def mailbox(self, path: bytes, here: Place, quota: bytes) -> Room:
        """Whether a Maildir is full (``user_over_maildirquota()``).

        ``quota`` is the account's; empty is the one of its file.  Raises
        :class:`CannotTell`, :class:`Need`.
        """
        run = self._run
        maildir = run.walker.enter(path, here)
        quota = quota or quota_of(run.host, run.walker, maildir)
        allowed = Quota() if quota.startswith(b"NO") else read_quota(quota)
        if allowed == Quota():
            return Room.ROOM
        stored = self._asked_daemon(email_of(path, here.path))
        over = over_quota(run.host, run.walker, maildir, allowed)
        if stored is not None:
            over = mailbox_is_full(stored, allowed.size)
        if over is None:
            return self._counted(path, maildir.path, Kind.MAILDIR, allowed)
        return Room.FULL if over else Room.ROOM

    def domain(self, path: bytes, here: Place) -> Room:
        """Whether the domain is full of which a Maildir is
        (``domain_over_maildirquota()``).  Raises :class:`CannotTell`, :class:`Need`.
        """
        if not self._installed.build.domain_quotas:
            return Room.ROOM
        name = email_of(path, here.path).partition(b"@")[2]
        domain = assigned(self._run.users_cdb(), name)
        if not name or domain is None:
            return Room.ROOM  # vget_limits() or vget_assign() fails
        limits = self._limits(name, domain.directory)
        if limits == Quota():
            return Room.ROOM
        stored = self._asked_daemon(b"@" + name)
        if stored is not None:
            self._tell(name, stored, limits)
            over = domain_is_full(stored, limits.size, limits.messages)
            return Room.FULL if over else Room.ROOM
        hashed = self._installed.build.hashed is not False
        kind = Kind.HASHED if hashed else Kind.DOMAIN
        return self._counted(name, domain.directory, kind, limits)

    # Limits.

    def _limits(self, domain: bytes, directory: bytes) -> Quota:
        """``vget_limits()``: of a row, or of the domain's own file, or of all."""
        home, kind, build = self._installed
        files = [home + b"/etc/vlimits.default"]
        if kind == MYSQL and build.sql_limits:
            found = self._limits_in_database(domain)
            if found is not None:
                return found
        else:
            files.insert(0, directory + b"/.qmailadmin-limits")
        for path in files:
            limits = self._limits_in(path)
            if limits is not None:
                return limits
        return Quota()

    def _limits_in_database(self, domain: bytes) -> Quota | None:
        run, (home, kind, build) = self._run, self._installed
        place = backend(run.host, run.walker, home, kind, build)
        answer = self._answer(AskLimits(place, domain))
        if isinstance(answer, NoAnswer):
            raise CannotTell(place.path, f"its database: {answer.why}")
        if not isinstance(answer, Quota):
            return None
        self._note("limits of {}: {}", domain, _shown(answer), at=place.path)
        return answer

    def _limits_in(self, path: bytes) -> Quota | None:
        walker = self._run.walker
        try:
            place = walker.readable(path)
        except KernelError:
            return None
        limits = self._run.host.cache.parsed(walker, place, parse_limits, _FILE_MAX)
        if limits != Quota():
            self._note("limits of the domain: {}", _shown(limits), at=path)
        return limits

    # What there is.

    def _asked_daemon(self, name: bytes) -> Stored | None:
        """What vusaged says, ``None`` where vpopmail would do without."""
        if self._daemon is None:
            home = self._installed.home
            self._daemon = (daemon(self._run.host, self._run.walker, home),)
        where = self._daemon[0]
        if where is None or not name or len(name) > _EMAIL_MAX:
            return None
        answer = self._answer(AskDaemon(where, name))
        if isinstance(answer, Stored):
            self._note("vusaged is asked for {}", name, at=where.path)
            return answer
        if isinstance(answer, NoAnswer):
            self._note("vusaged: {}: vpopmail counts itself", answer.why, at=where.path)
        return None

    def _counted(
        self, name: bytes, directory: bytes, kind: Kind, limits: Quota
    ) -> Room:
        """By a count, which is made afresh before it would refuse anybody."""
        identity = self._run.walker.identity
        over = False
        for sure in (False, True):
            answer = self._answer(AskCount(directory, kind, identity, sure))
            if not isinstance(answer, Stored):
                why = answer.why if isinstance(answer, NoAnswer) else ""
                self._note("not counted: {}", why, at=directory)
                return Room.LATER if sure else Room.UNKNOWN
            over = is_over(answer, limits)
            if sure or not over:
                self._tell(name, answer, limits)
            if not over:
                break
        return Room.FULL if over else Room.ROOM

    def _tell(self, name: bytes, stored: Stored, limits: Quota) -> None:
        text = "{} has {} bytes in {} messages; allowed are {}"
        self._note(text, name, stored.size, stored.messages, _shown(limits))

    def _answer(self, question: Question) -> object:
        answer = self._run.answers.get(question)
        if answer is None:
            raise Need(question)
        return answer


def _shown(limits: Quota) -> str:
    size = f"{limits.size} bytes" if limits.size else ""
    messages = f"{limits.messages} messages" if limits.messages else ""
    return " and ".join(filter(None, (size, messages))) or "as many as there may be"


def parse_limits(content: bytes) -> Quota:
    """``vlimits_read_limits_file()``: ``quota`` in megabytes and ``maxmsgcount``.

    Of a long file only the lines that are whole in its first 2048 bytes count.
    """
    lines = re.split(rb"[\r\n]", content[:_LIMITS_MAX].partition(b"\0")[0])
    if len(content) >= _LIMITS_MAX:
        lines.pop()
    size = messages = 0
    for line in lines:
        name, *value = re.split(rb"[ \t:]+", line, maxsplit=1)
        if not value:
            continue
        if name == b"quota":
            size = _number(value[0])
        elif name == b"maxmsgcount":
            messages = _number(value[0])
    return quota_in_megabytes(size, messages)


def quota_in_megabytes(size: int, messages: int) -> Quota:
    """``struct vlimits``; what is below 0 is so much that it is no limit."""
    return Quota((size << 20) % _WRAP, messages % _WRAP)


def _number(text: bytes) -> int:
    """strtoll(3)."""
    match = _NUMBER.match(text)
    return int(match[1]) if match else 0


def email_of(path: bytes, here: bytes) -> bytes:
    """``maildir_to_email()``: ``user@domain`` as the names of directories say,
    empty where they say nothing.

    The domain is the first directory above the user's that has a dot in its name,
    and that is not at the top.
    """
    if path.startswith(b"./"):
        path = here + path[1:]
    at = path.rfind(b"/Maildir/", 1)
    above, slash, user = path[: max(at, 0)].rpartition(b"/")
    if not slash or not above:
        return b""
    while above:
        above, _, name = above.rpartition(b"/")
        if b"." in name:
            return (user + b"@" + name)[:_EMAIL_MAX] if above else b""
    return b""
