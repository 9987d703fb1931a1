"""``backstop check``, the qmail host's part: the files that decide.

Knows: which files qmail and the front door need, and what is likely a slip in
them.  Knows not: the configuration's own sense (``command``).  Called by
``command``.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator

from proxy import obstacles
from proxy.check.finding import ERROR, NOTE, WARNING, Finding
from proxy.config import Config, Problem
from proxy.config.problem import printable
from proxy.qmail.cdb import CdbError, cdb_get
from proxy.qmail.control import ControlError, ControlFiles
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.moment import Names
from proxy.qmail.passwd import FILE_MAX, Account, Table, account
from proxy.qmail.view import OpenFile, read_all
from proxy.qmail.walk import SUPERUSER

_HOMES_SHOWN = 10
_HOMES_TO_MISS = 2
_NAMES_MAX = 10_000
_FIRST_PERSON = 1000  # login.defs(5), UID_MIN
_NOBODY = 65534


def check_host(config: Config, host: QmailHost, files: HostFiles) -> Iterator[Finding]:
    """Everything about the files, once qmail's home is there."""
    yield from _control_files(host, files)
    yield from _relay(config, host, files)
    yield from _line_ends(files)
    yield from _tables(files)
    yield from _accounts(host, files)
    yield from _sources(files)
    yield from _homes(host, files)


class HostFiles:
    """The host's files, as the front door's own user sees them."""

    def __init__(self, config: Config, host: QmailHost) -> None:
        self._root = config.qmail.root.rstrip("/")
        self.home = host.settings.home
        self.view = host.view
        self.walker = host.walker(SUPERUSER)

    def finding(
        self, level: str, path: bytes, what: str, remedy: str, line: int = 0
    ) -> Finding:
        """Something found in the file at ``path`` of the host."""
        where = printable(self._root + path.decode("latin-1"))
        return Finding(level, Problem(where, "", "", printable(what), remedy, line))

    def control(self, name: str) -> bytes:
        """The path of a control file."""
        return self.home + b"/control/" + name.encode()

    def trouble(self, path: bytes, *, directory: bool = False) -> str:
        """Why it is not there for us; ``""`` when it is."""
        try:
            (self.walker.enter if directory else self.walker.stat)(path)
        except (KernelError, CannotTell) as error:
            return _why(error)
        return ""

    def opened(self, path: bytes) -> OpenFile | None:
        """The regular file, ``None`` without one; raises
        :class:`CannotTell`."""
        try:
            place = self.walker.stat(path)
        except KernelError:
            return None
        return self.walker.open(place)

    def content(self, path: bytes) -> bytes | None:
        """All of it, ``None`` where it is not there or cannot be read."""
        try:
            file = self.opened(path)
            if file is None:
                return None
            try:
                return read_all(file, FILE_MAX)
            finally:
                file.close()
        except (CannotTell, OSError):
            return None


def _why(error: KernelError | CannotTell | ControlError) -> str:
    return str(error) if isinstance(error, KernelError) else error.why


_LINES = ["me", "smtpgreeting", "localiphost", "timeoutsmtpd", "databytes"]
_LISTS = ["rcpthosts", "badmailfrom"]
_SEND_LINES = ["envnoathost"]
_SEND_LISTS = ["locals", "percenthack", "virtualdomains"]


def _control_files(host: QmailHost, files: HostFiles) -> Iterator[Finding]:
    """Each one, as the qmail program that reads it would."""
    try:
        moment = host.moment()
        smtpd, send = moment.control(Names.SMTPD), moment.control(Names.SEND)
    except (KernelError, CannotTell) as error:
        yield files.finding(ERROR, files.home, _why(error), _REMEDY_READ)
        return
    yield from _readable(files, smtpd, "qmail-smtpd", _LINES, _LISTS)
    yield from _readable(files, send, "qmail-send", _SEND_LINES, _SEND_LISTS)
    me = files.control("me")
    if files.trouble(me):
        remedy = f"write this host's name to it: {_CONFIG_ME}"
        yield files.finding(ERROR, me, "missing: qmail cannot work", remedy)


_CONFIG_ME = "qmail's config or config-fast does"
_REMEDY_READ = "let the front door's user read it (chmod o+r, or setfacl)"


def _readable(
    files: HostFiles,
    control: ControlFiles,
    program: str,
    lines: list[str],
    lists: list[str],
) -> Iterator[Finding]:
    reads: list[tuple[str, Callable[[bytes], object]]] = [
        *((name, control.line) for name in lines),
        *((name, control.names) for name in lists),
    ]
    for name, read in reads:
        try:
            read(name.encode())
        except ControlError as error:
            what = f"{program} cannot read it: {error.why}"
            remedy = "make it a file that all may read (chmod 644)"
            yield files.finding(ERROR, files.control(name), what, remedy)
        except CannotTell as error:
            yield files.finding(ERROR, files.control(name), error.why, _REMEDY_READ)


def _relay(config: Config, host: QmailHost, files: HostFiles) -> Iterator[Finding]:
    if obstacles.relay_problem(config, host):
        yield files.finding(
            ERROR,
            files.control("rcpthosts"),
            "missing: qmail would take mail for every domain (an open relay)",
            "list your domains there, or set relay.allow_missing_rcpthosts = true",
        )
    for text in obstacles.relay_warnings(config, host):
        what, _, remedy = text.removesuffix(")").partition(" (")
        path = files.control("percenthack")
        what = what.removeprefix("control/percenthack ")
        yield files.finding(WARNING, path, what, remedy)


def _line_ends(files: HostFiles) -> Iterator[Finding]:
    for name in ("me", *_LISTS, "locals", "virtualdomains"):
        path = files.control(name)
        content = files.content(path) or b""
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.endswith(b"\r"):
                what = "a carriage return at its end counts as part of the name"
                remedy = "take them out: sed -i 's/\\r$//' control/" + name
                yield files.finding(WARNING, path, what, remedy, number)
                break


def _tables(files: HostFiles) -> Iterator[Finding]:
    """The two compiled tables, with what they are compiled from."""
    users, control = files.home + b"/users/", files.control("")
    assign = users + b"assign", users + b"cdb", "qmail-newu"
    more = control + b"morercpthosts", control + b"morercpthosts.cdb", "qmail-newmrh"
    for source, table, program in (assign, more):
        yield from _table(files, source, table, program)


def _table(
    files: HostFiles, source: bytes, table: bytes, program: str
) -> list[Finding]:
    remedy = f"run {program}"
    changed = _changed(files, source)
    try:
        file = files.opened(table)
    except CannotTell as error:
        return [files.finding(ERROR, table, error.why, _REMEDY_READ)]
    if file is None:
        what = f"has no effect: there is no {table.rpartition(b'/')[2].decode()}"
        return [files.finding(WARNING, source, what, remedy)] if changed else []
    try:
        damage = _damage(file, wildcards=program == "qmail-newu")
    except OSError as error:
        damage = f"cannot be read: {error.strerror}"
    finally:
        file.close()
    if damage:
        return [files.finding(ERROR, table, damage, remedy)]
    if changed > file.status.st_mtime_ns:
        what = f"older than {source.rpartition(b'/')[2].decode()}"
        return [files.finding(WARNING, table, what, remedy)]
    return []


def _changed(files: HostFiles, path: bytes) -> int:
    """When it was changed, in nanoseconds; 0 without it."""
    try:
        return files.walker.stat(path).status.st_mtime_ns
    except (KernelError, CannotTell):
        return 0


_HEAD = struct.Struct("<512I")


def _damage(file: OpenFile, *, wildcards: bool) -> str:
    """What is wrong with a cdb file; ``""`` if nothing is."""
    head = file.pread(_HEAD.size, 0)
    if len(head) < _HEAD.size:
        return "damaged: too short for a cdb file"
    numbers = _HEAD.unpack(head)
    size = file.status.st_size
    for start, slots in zip(numbers[::2], numbers[1::2], strict=True):
        if start + 8 * slots > size:
            return "damaged: it is cut off"
    try:
        if wildcards and cdb_get(file, b"") is None:
            return "damaged: it has no list of wildcard characters"
    except CdbError as error:
        return f"damaged: {error}"
    return ""


# Accounts.

_PASSWD, _NSSWITCH = b"/etc/passwd", b"/etc/nsswitch.conf"


def _accounts(host: QmailHost, files: HostFiles) -> Iterator[Finding]:
    if why := files.trouble(_PASSWD):
        remedy = "mount the qmail host's /etc below qmail.root too"
        yield files.finding(ERROR, _PASSWD, why, remedy)
        return
    programs = (Names.SMTPD, Names.SEND, Names.GETPW)
    try:
        known = host.moment().account
        alias = known(host.settings.alias_user)
        missing = [user.decode() for user, _ in programs if known(user) is None]
    except CannotTell as error:
        yield files.finding(ERROR, _PASSWD, error.why, _REMEDY_READ)
        return
    if missing:
        what = f"does not name {', '.join(missing)}"
        remedy = "without them it is not judged what qmail may read"
        yield files.finding(WARNING, _PASSWD, what, remedy)
    if alias is None:
        what = "does not name the user alias: qmail defers all mail for aliases"
        yield files.finding(ERROR, _PASSWD, what, "add it as qmail's INSTALL.ids says")
    elif why := files.trouble(alias.home, directory=True):
        what = f"the home of the user alias: {why}"
        yield files.finding(ERROR, alias.home, what, "make it, or let us search it")


_SEEN = frozenset({"files", "compat", "systemd"})


def _sources(files: HostFiles) -> Iterator[Finding]:
    """nsswitch.conf(5): who knows accounts besides /etc/passwd?"""
    content = files.content(_NSSWITCH) or b""
    for number, line in enumerate(content.decode("latin-1").split("\n"), start=1):
        database, colon, rest = line.partition("#")[0].partition(":")
        if not colon or database.strip() != "passwd":
            continue
        words = re.sub(r"\[[^\]]*\]", " ", rest).split()
        unseen = [word for word in words if word not in _SEEN]
        if unseen:
            what = f"accounts that only {', '.join(unseen)} knows are not seen"
            remedy = "put them into users/assign (qmail-pw2u, qmail-newu)"
            yield files.finding(WARNING, _NSSWITCH, what, remedy, number)


def _homes(host: QmailHost, files: HostFiles) -> Iterator[Finding]:
    """Where the front door may not look, it can only defer."""
    if os.geteuid() == 0:
        what = "looked at as root, who may read everything"
        remedy = "so does the service: process.allow_root"
        yield files.finding(NOTE, b"/", what, remedy)
    homes = list(dict.fromkeys(_homes_of_people(files)))
    yield from _gone(files, homes)
    closed = [found for home in homes for found in _home(files, home)]
    yield from closed[:_HOMES_SHOWN]
    if closed:
        what = (
            f"{len(closed)} of {len(homes)} homes cannot be read: all mail for their"
            " owners is answered 451, and comes back to its senders after days"
        )
        yield files.finding(ERROR, _PASSWD, what, _REMEDY_HOMES)


_REMEDY_HOMES = (
    "start it as root, or give it CAP_DAC_READ_SEARCH (deploy/README.md), or open all"
    " of them"
)


def _homes_of_people(files: HostFiles) -> Iterator[bytes]:
    content = files.content(_PASSWD) or b""
    table = Table(content)
    names = dict.fromkeys(line.partition(b":")[0] for line in content.split(b"\n"))
    for name in names:
        found = account(table, name)
        if found is not None and (_is_person(found) or name == b"alias"):
            yield found.home


def _gone(files: HostFiles, homes: list[bytes]) -> Iterator[Finding]:
    """Places in which no home is there at all: most likely a file system that is not
    mounted here.  qmail-getpw takes the users of missing homes for unknown."""
    places: dict[bytes, list[bytes]] = {}
    for home in homes:
        places.setdefault(os.path.dirname(home.rstrip(b"/")), []).append(home)
    for place, inside in places.items():
        missing = [home for home in inside if _is_missing(files, home)]
        if len(missing) == len(inside) >= _HOMES_TO_MISS:
            what = f"none of the {len(inside)} homes of {_PASSWD.decode()} is there"
            remedy = "is it mounted here? Mail for their owners is refused (550)"
            yield files.finding(WARNING, place, what, remedy)


def _is_missing(files: HostFiles, home: bytes) -> bool:
    try:
        files.walker.stat(home)
    except KernelError:
        return True
    except CannotTell:
        return False
    return False


def _is_person(found: Account) -> bool:
    return found.uid >= _FIRST_PERSON and found.uid != _NOBODY


def _home(files: HostFiles, home: bytes) -> list[Finding]:
    """What is kept from us there: the home, or a dot-qmail file of it."""
    first = home + b"/.qmail"
    try:
        files.walker.stat(first)
    except KernelError:
        pass  # it has no such file, but may have others
    except CannotTell as error:
        remedy = "setfacl -m u:USER:x on it, or chmod o+x; until then 451"
        return [files.finding(WARNING, home, error.why, remedy)]
    closed = [path for path in (first, *_extensions(files, home)) if _shut(files, path)]
    if not closed:
        return []
    more = f", and {len(closed) - 1} more here" if len(closed) > 1 else ""
    what = f"the front door's own user may not read it{more}"
    remedy = "setfacl -m u:USER:r on it, or chmod o+r; until then 451"
    return [files.finding(WARNING, closed[0], what, remedy)]


def _extensions(files: HostFiles, home: bytes) -> list[bytes]:
    """Its dot-qmail files for extensions, if we may list it."""
    try:
        place = files.walker.enter(home).path
        names = files.view.names(place, b".qmail-", _NAMES_MAX) or ()
    except (KernelError, CannotTell, OSError):
        return []
    return [home + b"/" + name for name in sorted(names)]


def _shut(files: HostFiles, path: bytes) -> bool:
    """Whether it is a file that we may not open."""
    try:
        files.view.open(files.walker.stat(path).path).close()
    except PermissionError:
        return True
    except (KernelError, CannotTell, OSError):
        return False
    return False
