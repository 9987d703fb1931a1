"""One qmail host: where its files are, and who its programs run as.

Knows: the layout below qmail's home, the names of qmail's users, what is
cached.  Knows not: any rule of delivery.  Made by whoever asks for decisions;
used by ``decide`` and ``local``.
"""

from __future__ import annotations

import stat as stat_bits
from dataclasses import dataclass, field

from proxy.qmail.cache import FileCache
from proxy.qmail.control import ControlFiles
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.passwd import FILE_MAX, Account, Table, account, group_id
from proxy.qmail.view import FileView, OpenFile
from proxy.qmail.walk import SUPERUSER, Identity, Walker


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What qmail's own files do not say.

    ``default_delivery`` is qmail-start's first argument (qmail-start.9).
    ``local_ips`` are the IPv4 addresses that qmail-smtpd takes for its own.
    ``break_char`` and ``unsafe_mode`` are conf-break and conf-patrn, compiled
    into qmail; ``alias_user`` and the others are conf-users and conf-groups.
    """

    home: bytes = b"/var/qmail"
    default_delivery: bytes = b"./Mailbox"
    local_ips: frozenset[bytes] = frozenset({b"0.0.0.0", b"127.0.0.1"})
    break_char: bytes = b"-"
    unsafe_mode: int = 0o002
    alias_user: bytes = b"alias"
    smtpd_user: bytes = b"qmaild"
    send_user: bytes = b"qmails"
    getpw_user: bytes = b"qmailp"
    qmail_group: bytes = b"qmail"
    nofiles_group: bytes = b"nofiles"


@dataclass(slots=True)
class QmailHost:
    """A view of the host's files with what was learnt from them so far."""

    view: FileView
    settings: HostSettings = field(default_factory=HostSettings)
    cache: FileCache = field(default_factory=FileCache)

    def walker(self, identity: Identity) -> Walker:
        return Walker(self.view, identity)

    def smtpd_control(self) -> ControlFiles:
        """The control directory as qmail-smtpd sees it (qmaild, nofiles)."""
        return self._control(self.settings.smtpd_user, self.settings.nofiles_group)

    def send_control(self) -> ControlFiles:
        """The control directory as qmail-send sees it (qmails, qmail)."""
        return self._control(self.settings.send_user, self.settings.qmail_group)

    def getpw_walker(self) -> Walker:
        """The files as qmail-getpw sees them (qmailp, nofiles)."""
        settings = self.settings
        return self.walker(self._identity(settings.getpw_user, settings.nofiles_group))

    def account(self, name: bytes) -> Account | None:
        """``getpwnam`` from the host's /etc/passwd."""
        return account(self._table(b"/etc/passwd"), name)

    def users_cdb(self) -> OpenFile | None:
        """users/cdb as qmail-lspawn (root) opens it; ``None`` without one.

        Raises :class:`KernelError`, :class:`CannotTell`.
        """
        walker = self.walker(SUPERUSER)
        try:
            place = walker.readable(self.settings.home + b"/users/cdb")
        except KernelError as error:
            if error.code == 2:  # ENOENT
                return None
            raise
        if not stat_bits.S_ISREG(place.status.st_mode):
            raise CannotTell(place.path, "not a regular file")
        return self.cache.opened(walker, place)

    def _control(self, user: bytes, group: bytes) -> ControlFiles:
        walker = self.walker(self._identity(user, group))
        directory = walker.stat(self.settings.home + b"/control")
        return ControlFiles(self.cache, walker, directory)

    def _identity(self, user: bytes, group: bytes) -> Identity:
        found = self.account(user)
        if found is None:
            return Identity(None, None)
        return Identity(found.uid, group_id(self._table(b"/etc/group"), group))

    def _table(self, path: bytes) -> Table:
        walker = self.walker(SUPERUSER)
        try:
            place = walker.stat(path)
        except KernelError as error:
            if error.code == 2:  # ENOENT: a host without accounts
                return _NO_ACCOUNTS
            raise CannotTell(path, str(error)) from error
        return self.cache.parsed(walker, place, Table, FILE_MAX)


_NO_ACCOUNTS = Table(b"")
