"""A qmail host that stands still while many recipients are asked about.

Knows: that what was seen once is remembered until :meth:`StillHost.forget`.
Knows not: any rule.  Made by ``explain``, which forgets between blocks of
input; what serves looks anew each time.
"""

from __future__ import annotations

from proxy.qmail.control import ControlFiles, Map, Names
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.passwd import Account
from proxy.qmail.view import FileView
from proxy.qmail.walk import Identity, Missing, Place, Walker


class StillHost(QmailHost):
    """The same files and the same decisions, seen as at one moment."""

    __slots__ = ("_accounts", "_getpw", "_send", "_smtpd", "_walkers")

    def __init__(self, host: QmailHost) -> None:
        super().__init__(host.view, host.settings, host.cache)
        self.forget()

    def forget(self) -> None:
        """Look anew."""
        self._walkers: dict[Identity, Walker] = {}
        self._accounts: dict[bytes, Account | None] = {}
        self._getpw: Walker | None = None
        self._send: ControlFiles | None = None
        self._smtpd: ControlFiles | None = None

    def walker(self, identity: Identity) -> Walker:
        walker = self._walkers.get(identity)
        if walker is None:
            walker = self._walkers[identity] = _StillWalker(self.view, identity)
        return walker

    def getpw_walker(self) -> Walker:
        if self._getpw is None:
            self._getpw = super().getpw_walker()
        return self._getpw

    def smtpd_control(self) -> ControlFiles:
        if self._smtpd is None:
            self._smtpd = _StillControl(super().smtpd_control())
        return self._smtpd

    def send_control(self) -> ControlFiles:
        if self._send is None:
            self._send = _StillControl(super().send_control())
        return self._send

    def account(self, name: bytes) -> Account | None:
        try:
            return self._accounts[name]
        except KeyError:
            found = self._accounts[name] = super().account(name)
            return found


_Found = Place | Missing | KernelError | CannotTell


class _StillWalker(Walker):
    """Remembers where names lead, and where they fail to."""

    __slots__ = ("_found",)

    def __init__(self, view: FileView, identity: Identity) -> None:
        super().__init__(view, identity)
        self._found: dict[tuple[bytes, bytes], _Found] = {}

    def walk(self, path: bytes, base: Place | None = None) -> Place | Missing:
        key = (path, b"" if base is None else base.path)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._walked(path, base)
        if isinstance(found, tuple):
            return found
        raise type(found)(*found.args)

    def _walked(self, path: bytes, base: Place | None) -> _Found:
        try:
            return super().walk(path, base)
        except (KernelError, CannotTell) as error:
            return error


class _StillControl(ControlFiles):
    """Remembers what the files that are read for every recipient say.

    A file that cannot be read is asked again: that is an exception here.
    """

    __slots__ = ("_lines", "_maps", "_names", "_readable")

    def __init__(self, control: ControlFiles) -> None:
        super().__init__(control._cache, control._walker, control._directory)
        self._lines: dict[bytes, bytes | None] = {}
        self._names: dict[bytes, Names | None] = {}
        self._maps: dict[bytes, Map | None] = {}
        self._readable: dict[bytes, bool] = {}

    def line(self, name: bytes) -> bytes | None:
        if name not in self._lines:
            self._lines[name] = super().line(name)
        return self._lines[name]

    def names(self, name: bytes) -> Names | None:
        if name not in self._names:
            self._names[name] = super().names(name)
        return self._names[name]

    def map(self, name: bytes) -> Map | None:
        if name not in self._maps:
            self._maps[name] = super().map(name)
        return self._maps[name]

    def readable(self, name: bytes) -> bool:
        if name not in self._readable:
            self._readable[name] = super().readable(name)
        return self._readable[name]
