"""What a host's central files say, as long as none of them has changed.

Knows: control files, accounts and users/cdb, read once; every name that was
looked at on the way, and how to see with one lstat(2) each that it is still
the same.  Knows not: homes and dot-qmail files, which are looked at for every
recipient.  Kept by ``host``; used by ``decide``.

A change of a file counts at once; only the directories on the way to it, such
as ``/var``, are looked at once a second.  A file that is not there needs no
look of its own: making it changes its directory.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from collections.abc import Callable, Iterable, Iterator

from proxy.qmail import send, smtpd
from proxy.qmail.cache import FileCache, settled
from proxy.qmail.control import ControlFiles
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.passwd import FILE_MAX, Account, Table, account, group_id
from proxy.qmail.view import FileView, OpenFile, Status
from proxy.qmail.walk import SUPERUSER, Ancestors, Identity, Walker

_NO_ACCOUNTS = Table(b"")

# How long directories that are only passed through, and /etc/group, are taken
# to be what they were.
_AGE_NS = 1_000_000_000

_Mark = tuple[int, int, int, int]


class Names:
    """Who qmail's programs run as: conf-users and conf-groups."""

    SMTPD = (b"qmaild", b"nofiles")
    SEND = (b"qmails", b"qmail")
    GETPW = (b"qmailp", b"nofiles")


class _Watch:
    """A view that remembers what it was asked, to ask again later."""

    def __init__(self, view: FileView, clock: Callable[[], int]) -> None:
        self._view = view
        self._clock = clock
        self._seen: dict[bytes, _Mark] = {}
        self._settled = True

    @property
    def whole(self) -> bool:
        return self._view.whole

    def lstat(self, path: bytes) -> Status:
        status = self._view.lstat(path)
        if path not in self._seen:
            self._seen[path] = _mark(status)
            # Changed so lately that the next change may leave no mark.
            if not settled(status, self._clock()):
                self._settled = False
        return status

    def readlink(self, path: bytes) -> bytes:
        return self._view.readlink(path)

    def names(self, path: bytes, prefix: bytes, limit: int) -> frozenset[bytes] | None:
        return self._view.names(path, prefix, limit)

    def listing(self, path: bytes) -> Iterator[bytes]:
        return self._view.listing(path)

    def open(self, path: bytes) -> OpenFile:
        return self._view.open(path)

    def forget(self, paths: Iterable[bytes]) -> None:
        """These need not be asked again."""
        for path in paths:
            self._seen.pop(path, None)

    def unchanged(self) -> bool:
        """Whether everything that was seen would be seen again."""
        if not self._settled:
            return False
        lstat = self._view.lstat
        try:
            for path, mark in self._seen.items():
                status = lstat(path)
                if (
                    status.st_ctime_ns != mark[0]
                    or status.st_ino != mark[1]
                    or status.st_size != mark[2]
                    or status.st_mtime_ns != mark[3]
                ):
                    return False
        except OSError:
            return False
        return True


def _mark(status: Status) -> _Mark:
    # The kernel sets ctime at every change of content, mode, owner or name.
    return status.st_ctime_ns, status.st_ino, status.st_size, status.st_mtime_ns


class Moment:
    """The central files of a host; each part is read when it is wanted."""

    def __init__(
        self,
        view: FileView,
        cache: FileCache,
        home: bytes,
        clock: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._began = clock()
        self._watch = _Watch(view, clock)
        self.ancestors = Ancestors()
        self._cache = cache
        self._home = home
        self._accounts: Table | None = None
        self._groups: Table | None = None
        self._known: dict[bytes, Account] = {}
        self._getpw: Walker | None = None
        self._smtpd: smtpd.SmtpdSettings | None = None
        self._send: send.SendSettings | None = None
        self._users: tuple[OpenFile | None] | None = None
        self._view = view
        # By domain: see proxy.qmail.decide.
        self.prefixes: dict[bytes, bytes | None] = {}

    def unchanged(self) -> bool:
        """Whether all of it would be read the same again."""
        age = self._clock() - self._began
        return 0 <= age < _AGE_NS and self._watch.unchanged()

    def control(self, names: tuple[bytes, bytes] = Names.SMTPD) -> ControlFiles:
        """The control directory as one of qmail's users sees it.

        Raises :class:`KernelError`, :class:`CannotTell`.
        """
        walker = self._walker(self._identity(names))
        directory = walker.stat(self._home + b"/control")
        return ControlFiles(self._cache, walker, directory)

    def smtpd(self) -> smtpd.SmtpdSettings:
        """What qmail-smtpd reads at its start; raises as that does."""
        if self._smtpd is None:
            self._smtpd = smtpd.read_settings(self.control())
            self._watch.forget(self.ancestors.seen)
        return self._smtpd

    def send(self) -> send.SendSettings:
        """What qmail-send reads at its start; raises as that does."""
        if self._send is None:
            self._send = send.read_settings(self.control(Names.SEND))
            self._watch.forget(self.ancestors.seen)
        return self._send

    def account(self, name: bytes) -> Account | None:
        """``getpwnam`` from the host's /etc/passwd; raises :class:`CannotTell`."""
        if self._accounts is None:
            self._accounts = self._table(b"/etc/passwd")
            self._watch.forget(self.ancestors.seen)
        found = self._known.get(name)
        if found is None:
            found = account(self._accounts, name)
            if found is not None:
                self._known[name] = found
        return found

    def getpw_walker(self) -> Walker:
        """Homes as qmail-getpw sees them; not remembered here."""
        if self._getpw is None:
            identity = self._identity(Names.GETPW)
            self._getpw = Walker(self._view, identity, self.ancestors)
        return self._getpw

    def users_cdb(self) -> OpenFile | None:
        """users/cdb as qmail-lspawn (root) opens it; ``None`` without one.

        Raises :class:`KernelError`, :class:`CannotTell`.
        """
        if self._users is None:
            self._users = (self._open_users_cdb(),)
            self._watch.forget(self.ancestors.seen)
        return self._users[0]

    def _walker(self, identity: Identity) -> Walker:
        return Walker(self._watch, identity, self.ancestors)

    def _open_users_cdb(self) -> OpenFile | None:
        walker = self._walker(SUPERUSER)
        try:
            directory = walker.stat(self._home + b"/users")
            place = walker.readable(b"cdb", directory)
        except KernelError as error:
            if error.code == errno.ENOENT:
                return None
            raise
        if not stat_bits.S_ISREG(place.status.st_mode):
            raise CannotTell(place.path, "not a regular file")
        return self._cache.opened(walker, place)

    def _identity(self, names: tuple[bytes, bytes]) -> Identity:
        user, group = names
        found = self.account(user)
        if found is None:
            return Identity(None, None)
        if self._groups is None:
            self._groups = self._table(b"/etc/group")
            self._watch.forget((b"/etc/group",))
        return Identity(found.uid, group_id(self._groups, group))

    def _table(self, path: bytes) -> Table:
        walker = self._walker(SUPERUSER)
        try:
            place = walker.stat(path)
        except KernelError as error:
            if error.code == errno.ENOENT:  # a host without accounts
                return _NO_ACCOUNTS
            raise CannotTell(path, str(error)) from error
        return self._cache.parsed(walker, place, Table, FILE_MAX)
