"""Names to files, as the kernel walks them for one of qmail's users.

Knows: path_resolution(7): search permission on every directory, symbolic
links (absolute ones stay below the view's root), limits on names.
Knows not: what the files mean.  Called by every module here that reads a file.

The front door runs as a user of its own, so the kernel cannot be asked what
*joe* may open; modes and owners are compared here instead.  Access lists
beyond the mode bits (acl(5)) are not seen.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import FileView, OpenFile, Status

READ, WRITE, SEARCH = 4, 2, 1

_PATH_MAX = 4096  # limits.h; the final NUL counts
_NAME_MAX = 255
_LINKS_MAX = 40  # path_resolution(7)
_SPECIAL = frozenset({b"", b".", b".."})
_KIND = 0o170000  # inode(7), S_IFMT
_PASSED = _KIND | 0o111
_PUBLIC = stat_bits.S_IFDIR | 0o111  # a directory that everybody may pass
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class Identity(NamedTuple):
    """One of the users that qmail's programs run as.

    ``uid`` is ``None`` where the host's files do not name the user: then only
    existence is judged, not permission.  No supplementary groups: qmail drops
    them (prot.c).
    """

    uid: int | None
    gid: int | None

    def may(self, status: Status, want: int) -> bool:
        """Whether the mode bits grant ``want`` (a sum of READ, WRITE, SEARCH)."""
        uid = self.uid
        if uid is None or uid == 0:
            return True
        mode = status.st_mode
        if status.st_uid == uid:
            return (mode >> 6) & want == want
        if status.st_gid == self.gid:
            return (mode >> 3) & want == want
        return mode & want == want


SUPERUSER = Identity(0, 0)


class Place(NamedTuple):
    """Where a path leads: a resolved absolute path, and what is there."""

    path: bytes
    status: Status


class Missing(NamedTuple):
    """Where a path would be created: its directory, which does exist."""

    path: bytes
    directory: Status


class Listed(NamedTuple):
    """A directory, and all names in it that matter here."""

    place: Place
    names: frozenset[bytes]


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory == b"/" else directory + b"/" + name


@dataclass(slots=True)
class Ancestors:
    """Directories on the way to something else, for as long as the owner of
    this object wants: ``seen`` by their own names, ``public`` those that
    everybody may reach, so that nobody's permission need be compared.
    ``listed`` are homes that were entered on a way without links, with the
    names in them, by path and identity.

    ``turn``, where its owner sets it, remembers every look for recipients that
    are decided at the same time; ``None`` is a name that does not exist."""

    seen: dict[bytes, Status] = field(default_factory=dict)
    public: dict[bytes, Place] = field(default_factory=dict)
    listed: dict[tuple[bytes, int, int], Listed] = field(default_factory=dict)
    turn: dict[bytes, Status | None] | None = None


def _is_public(status: Status) -> bool:
    return status.st_mode & 0o111 == 0o111


class Walker:
    """Looks at files of a view with the permissions of one identity."""

    __slots__ = ("ancestors", "identity", "view")

    def __init__(
        self,
        view: FileView,
        identity: Identity,
        ancestors: Ancestors | None = None,
    ) -> None:
        """``ancestors`` remembers directories that are only passed through; by
        default as long as this walker lives."""
        self.view = view
        self.identity = identity
        self.ancestors = Ancestors() if ancestors is None else ancestors

    def root(self) -> Place:
        """The root directory; raises :class:`CannotTell`."""
        status = self.ancestors.seen.get(b"/")
        if status is None:
            status = self.ancestors.seen[b"/"] = self._lstat(b"/")
        return Place(b"/", status)

    def stat(self, path: bytes, base: Place | None = None) -> Place:
        """``stat(2)``; raises :class:`KernelError`, :class:`CannotTell`."""
        found = self.walk(path, base)
        if isinstance(found, Missing):
            raise KernelError(errno.ENOENT)
        return found

    def enter(self, path: bytes, base: Place | None = None) -> Place:
        """``chdir(2)``; raises :class:`KernelError`, :class:`CannotTell`."""
        place = self.stat(path, base)
        if not stat_bits.S_ISDIR(place.status.st_mode):
            raise KernelError(errno.ENOTDIR)
        if not self.identity.may(place.status, SEARCH):
            raise KernelError(errno.EACCES)
        return place

    def readable(self, path: bytes, base: Place | None = None) -> Place:
        """What ``open(path, O_RDONLY|O_NONBLOCK)`` would give, not opened.

        Raises :class:`KernelError`, :class:`CannotTell`.
        """
        place = self.stat(path, base)
        self.check_readable(place)
        return place

    def check_readable(self, place: Place) -> None:
        """Raise the :class:`KernelError` of open(2) on something that exists."""
        if not self.identity.may(place.status, READ):
            raise KernelError(errno.EACCES)
        if stat_bits.S_ISSOCK(place.status.st_mode):
            raise KernelError(errno.ENXIO)

    def open(self, place: Place) -> OpenFile:
        """Open the regular file at ``place``; raises :class:`CannotTell`."""
        if not stat_bits.S_ISREG(place.status.st_mode):
            raise CannotTell(place.path, "not a regular file")
        try:
            return self.view.open(place.path)
        except OSError as error:
            raise CannotTell(place.path, _reason(error)) from error

    def walk(self, path: bytes, base: Place | None = None) -> Place | Missing:
        """Resolve ``path`` (from ``base``, by default ``/``), links followed.

        :class:`Missing` when only the last name does not exist.  Raises
        :class:`KernelError` where the kernel would refuse ``identity``, and
        :class:`CannotTell` where the front door itself may not look.
        """
        if not path:
            raise KernelError(errno.ENOENT)
        if len(path) >= _PATH_MAX:
            raise KernelError(errno.ENAMETOOLONG)
        # Most often a name in a directory that is known, or in one that anybody
        # may pass: one look.  What follows does the same, step by step.
        directory, slash, name = path.rpartition(b"/")
        if name not in _SPECIAL and len(name) <= _NAME_MAX:
            known = self.ancestors.public.get(directory) if slash else base
            if known is not None:
                found = self._one(known, path if slash else _join(known.path, name))
                if found is not None:
                    return found
        return self._steps(path, base)

    def _steps(self, path: bytes, base: Place | None) -> Place | Missing:
        """:meth:`walk`, one name after the other."""
        absolute = path.startswith(b"/")
        if base is None or absolute:
            base = self.root()
        current, status = base
        public = absolute and _is_public(status)
        names = path.split(b"/")
        names.reverse()
        links = 0
        while names:
            name = names.pop()
            if not stat_bits.S_ISDIR(status.st_mode):
                raise KernelError(errno.ENOTDIR)
            if name in (b"", b"."):
                continue
            if not self.identity.may(status, SEARCH):
                raise KernelError(errno.EACCES)
            if name == b"..":
                public = False
                current = os.path.dirname(current)
                status = self._lstat(current)
                continue
            if len(name) > _NAME_MAX:
                raise KernelError(errno.ENAMETOOLONG)
            child = _join(current, name)
            last = not any(names)
            there = self.look(child) if last else self._pass(child)
            if there is None:
                if not last:
                    raise KernelError(errno.ENOENT)
                if names:  # "new/": a directory cannot be made by open(2)
                    raise KernelError(errno.EISDIR)
                return Missing(child, status)
            if stat_bits.S_ISLNK(there.st_mode):
                public = False
                links += 1
                if links > _LINKS_MAX:
                    raise KernelError(errno.ELOOP)
                target = self._readlink(child)
                if target.startswith(b"/"):
                    current, status = self.root()
                names.extend(reversed(target.split(b"/")))
                continue
            if last and public and child == path:
                self.ancestors.public[path.rpartition(b"/")[0]] = Place(current, status)
            current, status = child, there
            public = public and _is_public(status)
        return Place(current, status)

    def _one(self, base: Place, child: bytes) -> Place | Missing | None:
        """``child`` in the directory ``base``; ``None`` for a symbolic link."""
        status = base.status
        mode = status.st_mode
        if mode & _PASSED != _PUBLIC:
            if mode & _KIND != stat_bits.S_IFDIR:
                raise KernelError(errno.ENOTDIR)
            if not self.identity.may(status, SEARCH):
                raise KernelError(errno.EACCES)
        there = self.look(child)
        if there is None:
            return Missing(child, status)
        if there.st_mode & _KIND == stat_bits.S_IFLNK:
            return None
        return Place(child, there)

    def _pass(self, path: bytes) -> Status | None:
        """As :meth:`look`, for a directory on the way to something else."""
        status = self.ancestors.seen.get(path)
        if status is None:
            status = self.look(path)
            if status is not None and stat_bits.S_ISDIR(status.st_mode):
                self.ancestors.seen[path] = status
        return status

    def look(self, path: bytes) -> Status | None:
        """lstat(2) of a resolved path, or ``None``; raises :class:`CannotTell`."""
        turn = self.ancestors.turn
        if turn is None:
            return self._look_now(path)
        try:
            return turn[path]
        except KeyError:
            status = turn[path] = self._look_now(path)
            return status

    def _look_now(self, path: bytes) -> Status | None:
        try:
            return self.view.lstat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise CannotTell(path, _reason(error)) from error

    def _lstat(self, path: bytes) -> Status:
        try:
            return self.view.lstat(path)
        except OSError as error:
            raise CannotTell(path, _reason(error)) from error

    def _readlink(self, path: bytes) -> bytes:
        try:
            return self.view.readlink(path)
        except OSError as error:
            raise CannotTell(path, _reason(error)) from error


def _reason(error: OSError) -> str:
    text = error.strerror or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the front door's own user may not look here ({text})"
    return text
