"""``backstop check``: is the configuration good, and what it points to?

Knows: what must be there before anybody serves, and what is likely a slip.
Knows not: the network (that is for ``doctor``); starts nothing, writes
nothing.  Called by ``cli``.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy import assemble
from proxy.config import Address, Config, ConfigError, Problem, load, read_address
from proxy.config.explain import toml_value
from proxy.config.load import PREFIX
from proxy.config.model import KeyPath
from proxy.config.problem import key_text, line_of, printable, shown
from proxy.qmail.cdb import CdbError, cdb_get
from proxy.qmail.control import ControlError, ControlFiles
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.passwd import FILE_MAX, Account, Table, account
from proxy.qmail.view import OpenFile, read_all
from proxy.qmail.walk import SUPERUSER

GOOD, WRONG, BAD_CONFIG = 0, 1, 2

_HOMES_SHOWN = 10
_FIRST_PERSON = 1000  # login.defs(5), UID_MIN
_NOBODY = 65534

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and how grave it is: ``error``, ``warning`` or ``note``."""

    level: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.level}: {self.problem}"

    def as_dict(self) -> dict[str, str | int]:
        """The keys of ``--json``."""
        problem = self.problem
        return {
            "level": self.level,
            "file": problem.where,
            "line": problem.line,
            "key": problem.key,
            "value": problem.value,
            "what": problem.what,
            "remedy": problem.remedy,
        }


def run(path: Path | None, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Check and print; the exit status."""
    try:
        config = load(path, environ)
    except ConfigError as error:
        findings = [Finding(ERROR, problem) for problem in error.problems]
        _print(findings, as_json, sys.stderr if not as_json else sys.stdout)
        return BAD_CONFIG
    findings = list(check(config, environ))
    _print(findings, as_json, sys.stdout)
    return WRONG if any(found.level == ERROR for found in findings) else GOOD


def _print(findings: list[Finding], as_json: bool, output: object) -> None:
    assert hasattr(output, "write")
    if as_json:
        text = json.dumps([found.as_dict() for found in findings], indent=2)
    else:
        text = "\n".join([*map(str, findings), _summary(findings)])
    output.write(text + "\n")


def _summary(findings: list[Finding]) -> str:
    levels = [found.level for found in findings]
    counts = [
        f"{levels.count(level)} {level}{'s' if levels.count(level) > 1 else ''}"
        for level in (ERROR, WARNING)
        if level in levels
    ]
    if ERROR in levels:
        return "configuration not good: " + ", ".join(counts)
    return "configuration OK" + (f", {counts[0]}" if counts else "")


def check(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that can be said without starting anything."""
    settings = _Settings(config, environ)
    host = assemble.qmail_host(config)
    yield from _network(config, settings)
    yield from _names(config, settings, host)
    files = _Files(config, host)
    if (lost := _host_missing(config, settings, files)) is not None:
        yield lost
        return
    yield from _control_files(host, files)
    yield from _relay(config, host, files)
    yield from _line_ends(files)
    yield from _tables(files)
    yield from _accounts(host, files)
    yield from _sources(files)
    yield from _homes(host, files)
    yield from _default_delivery(config, settings, files)


class _Settings:
    """Findings about a key: where it was set, and to what."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        try:
            self._text = config.source.read_text() if config.source else ""
        except (OSError, ValueError):
            self._text = ""

    def finding(self, level: str, path: KeyPath, what: str, remedy: str) -> Finding:
        value: object = self._config
        for part in path:
            value = getattr(value, str(part))
        text = toml_value(value)
        text = text if text.isascii() else shown(str(value))
        name = PREFIX + "__".join(map(str, path)).upper()
        for variable in (name, name + "_FILE"):
            if variable in self._environ:
                problem = Problem("environment", variable, text, what, remedy)
                return Finding(level, problem)
        source = str(self._config.source or "defaults")
        line = line_of(self._text, path) or 0
        return Finding(level, Problem(source, key_text(path), text, what, remedy, line))


class _Files:
    """The host's files, as the front door's own user sees them."""

    def __init__(self, config: Config, host: QmailHost) -> None:
        self._root = config.qmail.root.rstrip("/")
        self.home = host.settings.home
        self.view = host.view
        self.walker = host.walker(SUPERUSER)

    def finding(
        self, level: str, path: bytes, what: str, remedy: str, line: int = 0
    ) -> Finding:
        where = printable(self._root + path.decode("latin-1"))
        return Finding(level, Problem(where, "", "", printable(what), remedy, line))

    def control(self, name: str) -> bytes:
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


# The configuration's own sense.


def _network(config: Config, settings: _Settings) -> Iterator[Finding]:
    listen, backend = config.listen.sockets, config.backend.tcp
    local = {ip.decode() for ip in assemble.interface_addresses()}
    key: KeyPath = ("listen", "addresses")
    for address in sorted({a for a in listen if a.port and listen.count(a) > 1}):
        what = f"has {address} twice"
        yield settings.finding(ERROR, key, what, "take one of them out")
    if backend and any(_meet(one, backend, local) for one in listen):
        yield settings.finding(
            ERROR,
            ("backend", "address"),
            "is where the front door itself listens",
            "run qmail-smtpd on another port and name that",
        )
    path = config.backend.unix_path
    if path is not None and not os.path.exists(path):
        yield settings.finding(
            WARNING,
            ("backend", "address"),
            "there is no such socket",
            "start qmail-smtpd on it first",
        )
    if config.status.address:
        status = read_address(config.status.address)
        if any(_meet(one, status, local) for one in listen):
            yield settings.finding(
                ERROR,
                ("status", "address"),
                "is where mail is listened for",
                "use another port",
            )


_ANY = ("0.0.0.0", "::")


def _meet(listening: Address, other: Address, local: set[str]) -> bool:
    """Whether a connection to ``other`` comes out at ``listening``."""
    if listening.port != other.port or not other.port:
        return False
    if listening.host == other.host:
        return True
    here = other.host in local or other.host in ("localhost", "::1", *_ANY)
    return listening.host in _ANY and here


def _names(config: Config, settings: _Settings, host: QmailHost) -> Iterator[Finding]:
    name = assemble.hostname(config, host).decode("latin-1")
    if "." not in name or name.startswith("localhost"):
        yield settings.finding(
            WARNING,
            ("listen", "hostname"),
            f"we are called {shown(name)}, which is not a full domain name",
            'set it, like "mx.example.org"',
        )
    if config.mode == "observe":
        yield settings.finding(
            NOTE,
            ("mode",),
            "unknown recipients are let pass and only logged",
            'set it to "enforce" when the log looks right',
        )


# The host's files.


def _host_missing(config: Config, settings: _Settings, files: _Files) -> Finding | None:
    """Root, home or control: without them nothing else can be looked at."""
    read = "let the front door's user search it (chmod o+x, or setfacl)"
    try:
        files.view.lstat(b"/")
    except OSError as error:
        why = f"cannot be looked at: {error.strerror}"
        remedy = "name the directory where the qmail host's files are seen"
        return settings.finding(ERROR, ("qmail", "root"), why, remedy)
    for path in (files.home, files.home + b"/control"):
        if why := files.trouble(path, directory=True):
            shown_path = files.finding(ERROR, path, "", "").problem.where
            what = f"{shown_path}: {why}"
            remedy = "name qmail's home (conf-qmail)" if "No such" in why else read
            return settings.finding(ERROR, ("qmail", "home"), what, remedy)
    return None


_LINES = ["me", "smtpgreeting", "localiphost", "timeoutsmtpd", "databytes"]
_LISTS = ["rcpthosts", "badmailfrom"]
_SEND_LINES = ["envnoathost"]
_SEND_LISTS = ["locals", "percenthack", "virtualdomains"]


def _control_files(host: QmailHost, files: _Files) -> Iterator[Finding]:
    """Each one, as the qmail program that reads it would."""
    try:
        smtpd, send = host.smtpd_control(), host.send_control()
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
    files: _Files,
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


def _relay(config: Config, host: QmailHost, files: _Files) -> Iterator[Finding]:
    if assemble.relay_problem(config, host):
        yield files.finding(
            ERROR,
            files.control("rcpthosts"),
            "missing: qmail would take mail for every domain (an open relay)",
            "list your domains there, or set relay.allow_missing_rcpthosts = true",
        )


def _line_ends(files: _Files) -> Iterator[Finding]:
    for name in ("me", *_LISTS, "locals", "virtualdomains"):
        path = files.control(name)
        content = files.content(path) or b""
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.endswith(b"\r"):
                what = "a carriage return at its end counts as part of the name"
                remedy = "take them out: sed -i 's/\\r$//' control/" + name
                yield files.finding(WARNING, path, what, remedy, number)
                break


def _tables(files: _Files) -> Iterator[Finding]:
    """The two compiled tables, with what they are compiled from."""
    users, control = files.home + b"/users/", files.control("")
    assign = users + b"assign", users + b"cdb", "qmail-newu"
    more = control + b"morercpthosts", control + b"morercpthosts.cdb", "qmail-newmrh"
    for source, table, program in (assign, more):
        yield from _table(files, source, table, program)


def _table(files: _Files, source: bytes, table: bytes, program: str) -> list[Finding]:
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


def _changed(files: _Files, path: bytes) -> int:
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


def _accounts(host: QmailHost, files: _Files) -> Iterator[Finding]:
    if why := files.trouble(_PASSWD):
        remedy = "mount the qmail host's /etc below qmail.root too"
        yield files.finding(ERROR, _PASSWD, why, remedy)
        return
    settings = host.settings
    try:
        alias = host.account(settings.alias_user)
        others = (settings.smtpd_user, settings.send_user, settings.getpw_user)
        missing = [name.decode() for name in others if host.account(name) is None]
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


def _sources(files: _Files) -> Iterator[Finding]:
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


def _homes(host: QmailHost, files: _Files) -> Iterator[Finding]:
    """Where the front door may not look, it can only defer."""
    if os.geteuid() == 0:
        what = "looked at as root, who may read everything"
        remedy = "run this as the front door's own user too"
        yield files.finding(NOTE, b"/", what, remedy)
    closed = [found for home in _homes_of_people(files) for found in _home(files, home)]
    yield from closed[:_HOMES_SHOWN]
    if len(closed) > _HOMES_SHOWN:
        what = f"{len(closed) - _HOMES_SHOWN} more homes like these"
        yield files.finding(WARNING, _PASSWD, what, "mend all of them")


def _homes_of_people(files: _Files) -> Iterator[bytes]:
    content = files.content(_PASSWD) or b""
    table = Table(content)
    names = dict.fromkeys(line.partition(b":")[0] for line in content.split(b"\n"))
    for name in names:
        found = account(table, name)
        if found is not None and (_is_person(found) or name == b"alias"):
            yield found.home


def _is_person(found: Account) -> bool:
    return found.uid >= _FIRST_PERSON and found.uid != _NOBODY


def _home(files: _Files, home: bytes) -> list[Finding]:
    path = home + b"/.qmail"
    try:
        place = files.walker.stat(path)
    except KernelError:
        return []  # no home or no such file: nothing that is kept from us
    except CannotTell as error:
        remedy = "setfacl -m u:USER:x on it, or chmod o+x; until then 451"
        return [files.finding(WARNING, home, error.why, remedy)]
    try:
        files.view.open(place.path).close()
    except PermissionError:
        what = "the front door's own user may not read it"
        remedy = "setfacl -m u:USER:r on it, or chmod o+r; until then 451"
        return [files.finding(WARNING, path, what, remedy)]
    except OSError:
        return []
    return []


def _default_delivery(
    config: Config, settings: _Settings, files: _Files
) -> Iterator[Finding]:
    """It cannot be known what qmail-start was started with."""
    key: KeyPath = ("qmail", "default_delivery")
    usual = (files.content(files.control("defaultdelivery")) or b"").strip()
    told = config.qmail.default_delivery
    if usual and usual != told.strip().encode("utf-8", "surrogateescape"):
        what = f"control/defaultdelivery says {shown(usual.decode('latin-1'))}"
        remedy = "set it to what qmail-start is started with"
        yield settings.finding(WARNING, key, what, remedy)
    elif not usual:
        what = "this is what a missing .qmail is taken for"
        remedy = "see that qmail-start is started with the same"
        yield settings.finding(NOTE, key, what, remedy)
