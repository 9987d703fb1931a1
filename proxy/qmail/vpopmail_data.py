"""Where vpopmail keeps its users: its own files, and what to ask a database.

Knows: vpasswd and vpasswd.cdb, ``etc/vpopmail.*``, what vpopmail was built with as
far as files tell.  Knows not: what is asked of a database
(:mod:`proxy.qmail.questions`), what a mailbox leads to
(:mod:`proxy.qmail.vpopmail`).  Source: vcdb.c, vmysql.c, vpgsql.c, vldap.c of
vpopmail 5.4 to 5.6.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from proxy.qmail.cdb import CdbError, cdb_get
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.questions import Backend, Mailbox
from proxy.qmail.view import OpenFile
from proxy.qmail.walk import Place, Walker

CDB, MYSQL, PGSQL, LDAP = "cdb", "mysql", "pgsql", "ldap"
DATABASES = (MYSQL, PGSQL, LDAP)

_VPASSWD_MAX = 64 << 20
_PROGRAM_MAX = 16 << 20
_SETTINGS_MAX = 1 << 16
_LINE_MAX = 255  # conn_info in load_connection_info()
_DOMAIN_MAX = 96


class Build(NamedTuple):
    """What vpopmail was built with; ``None`` (and ``""``) where files do not tell.

    ``hashed`` is USERS_BIG_DIR, ``sql_limits`` ENABLE_MYSQL_LIMITS.
    """

    kind: str = ""
    extensions: bool | None = None
    many: bool | None = None
    replication: bool | None = None
    domain_quotas: bool | None = None
    hashed: bool | None = None
    sql_limits: bool | None = None


class Installed(NamedTuple):
    """A vpopmail: its home, the back end that holds its users, and its build."""

    home: bytes
    kind: str
    build: Build


class Domain(NamedTuple):
    """A real domain and its directory."""

    name: bytes
    directory: bytes


def assigned(cdb: OpenFile | None, domain: bytes) -> Domain | None:
    """``vget_assign()``: users/cdb leads an alias domain to the real one.

    Raises :class:`CannotTell`.
    """
    try:
        data = cdb_get(cdb, b"!" + domain + b"-") if cdb and domain else None
    except (CdbError, OSError) as error:
        raise CannotTell(b"users/cdb", str(error)) from error
    fields = (data or b"").split(b"\0")
    return Domain(fields[0][:_DOMAIN_MAX], fields[3]) if len(fields) > 3 else None


def valid_user(name: bytes) -> bool:
    """``is_username_valid()``."""
    return _USER.fullmatch(name) is not None


def valid_domain(name: bytes) -> bool:
    """``is_domain_valid()``."""
    return _DOMAIN.fullmatch(name) is not None


_USER = re.compile(rb"[!#$&'*+\-./0-9=?A-Z^-~]*")
_DOMAIN = re.compile(rb"[-.0-9A-Za-z]*")


# Accounts in files.


def parse_vpasswd(content: bytes) -> dict[bytes, bytes]:
    """``make_vpasswd_cdb()``: the first line of a name counts, and a last line
    without its end does not."""
    accounts: dict[bytes, bytes] = {}
    for line in content.split(b"\n")[:-1]:
        name, colon, data = line.partition(b":")
        if colon:
            accounts.setdefault(name, data)
    return accounts


def mailbox(data: bytes) -> Mailbox:
    """``passwd:uid:gid:gecos:dir:quota``; what is missing is empty."""
    fields = data.partition(b"\0")[0].split(b":")
    fields += [b""] * (6 - len(fields))
    return Mailbox(leading_number(fields[2]), fields[4], fields[5])


def leading_number(text: bytes) -> int:
    """atoi(3)."""
    match = re.match(rb"[ \t\n\v\f\r]*([+-]?[0-9]{1,18})", text)
    return int(match[1]) if match else 0


def in_files(
    host: QmailHost, walker: Walker, directory: Place, name: bytes
) -> tuple[bytes, Mailbox | None]:
    """The account in ``vpasswd.cdb``, or in ``vpasswd``, of which vpopmail makes a
    missing cdb; and the file that was looked at.

    Raises :class:`CannotTell` also where vpopmail's own user may not read: what it
    then holds for no such user is only a broken host.
    """
    place = existing(walker, directory, b"vpasswd.cdb")
    if place is not None:
        try:
            data = cdb_get(host.cache.opened(walker, place), name)
        except (CdbError, OSError) as error:
            raise CannotTell(place.path, f"damaged: {error}") from error
        return place.path, None if data is None else mailbox(data)
    place = existing(walker, directory, b"vpasswd")
    if place is None:
        return directory.path + b"/vpasswd.cdb", None
    accounts = host.cache.parsed(walker, place, parse_vpasswd, _VPASSWD_MAX)
    text = accounts.get(name)
    return place.path, None if text is None else mailbox(text)


def existing(walker: Walker, directory: Place, name: bytes) -> Place | None:
    """The file, ``None`` where there is none; raises :class:`CannotTell`."""
    try:
        return walker.readable(name, directory)
    except KernelError as error:
        if error.code in (errno.ENOENT, errno.ENOTDIR):
            return None
        path = directory.path + b"/" + name
        raise CannotTell(path, f"vpopmail may not read it: {error}") from error


# What vpopmail was built with.


def build(host: QmailHost, walker: Walker, program: bytes, home: bytes) -> Build:
    """As ``include/vpopmail_config.h`` says, which ``make install`` leaves there;
    else as the program itself shows."""
    header = _read(host, walker, home + b"/include/vpopmail_config.h", parse_header)
    if header is not None and header.kind:
        return header
    shown = _read(host, walker, program, parse_program) or Build()
    if header is None:
        return shown
    return header._replace(kind=shown.kind)


def _read(host: QmailHost, walker: Walker, path: bytes, parse: object) -> Build | None:
    """What cannot be read tells nothing."""
    try:
        place = walker.readable(path)
        found: Build = host.cache.parsed(walker, place, parse, _PROGRAM_MAX)  # type: ignore[arg-type]
    except (KernelError, CannotTell):
        return None
    return found


def parse_header(content: bytes) -> Build:
    """``config.h``: ``#define NAME`` or ``/* #undef NAME */``."""
    defined = set(re.findall(rb"^[ \t]*#[ \t]*define[ \t]+(\w+)", content, re.M))
    told = defined | set(re.findall(rb"#undef[ \t]+(\w+)", content))

    def flag(name: bytes) -> bool | None:
        return name in defined if name in told else None

    kinds = {b"USE_CDB": CDB, b"USE_MYSQL": MYSQL, b"USE_LDAP": LDAP}
    kind = [kinds[name] for name in kinds if name in defined]
    return Build(
        kind[0] if len(kind) == 1 else "",
        flag(b"QMAIL_EXT"),
        flag(b"MANY_DOMAINS"),
        flag(b"MYSQL_REPLICATION"),
        flag(b"DOMAIN_QUOTAS"),
        flag(b"USERS_BIG_DIR"),
        flag(b"ENABLE_MYSQL_LIMITS"),
    )


# Texts that one of its modules alone has, in every version.
_MARKS = {
    MYSQL: b"vmysql: can't read settings",
    PGSQL: b"vpgsql: can't read settings",
    LDAP: b"vldap: can't read settings",
    CDB: b"vpasswd.cdb",
}


def parse_program(content: bytes) -> Build:
    """``vdelivermail``: the modules linked into it.  A script is not vpopmail's
    own, and was built with nothing."""
    if not content.startswith(b"\x7fELF"):
        return Build(extensions=False)
    kinds = [kind for kind, mark in _MARKS.items() if mark in content]
    if len(kinds) != 1:
        return Build()
    # USER_SELECT of vmysql.h and vpgsql.h.
    many = b"pw_domain = " in content if kinds[0] in (MYSQL, PGSQL) else None
    limits = b"FROM limits" in content if kinds[0] == MYSQL else False
    return Build(
        kinds[0],
        None,
        many,
        domain_quotas=b"domain is over quota" in content,
        sql_limits=limits,
    )


# Its databases.


def settings_file(home: bytes, kind: str) -> bytes:
    """Where vpopmail has the settings of a database."""
    return home + b"/etc/vpopmail." + kind.encode()


def backend(
    host: QmailHost, walker: Walker, home: bytes, kind: str, built: Build
) -> Backend:
    """The database that ``etc/vpopmail.KIND`` names; raises :class:`CannotTell`."""
    path = settings_file(home, kind)
    try:
        place = walker.readable(path)
    except KernelError as error:
        raise CannotTell(path, str(error)) from error
    lines = host.cache.parsed(walker, place, connection_lines, _SETTINGS_MAX)
    made = _PARSERS[kind](path, lines, built) if lines else None
    if made is None:
        raise CannotTell(path, "no line host|port|user|password|database")
    return made


def connection_lines(content: bytes) -> tuple[bytes, ...]:
    """The lines that are neither empty nor comments."""
    lines = (line[:_LINE_MAX] for line in content.split(b"\n"))
    return tuple(line for line in lines if line and not line.startswith(b"#"))


def _cut(line: bytes) -> list[str]:
    """strtok(3): empty fields do not exist."""
    return [field.decode("utf-8", "replace") for field in line.split(b"|") if field]


def _mysql(path: bytes, lines: tuple[bytes, ...], built: Build) -> Backend | None:
    # Line 1 is for reading, line 2 for writing; built without replication,
    # vpopmail reads by the latter, too.
    line = lines[:2][-1] if built.replication is False else lines[0]
    fields = _cut(line)
    if len(fields) < 5:
        return None
    host, port, user, password, database = fields[:5]
    is_path = port.startswith("/")
    number = 0 if is_path else leading_number(port.encode())
    socket = port if is_path else ""
    return Backend(
        MYSQL, path, host, number, user, password, database, socket, built.many
    )


def _pgsql(path: bytes, lines: tuple[bytes, ...], built: Build) -> Backend | None:
    fields = [each.decode("utf-8", "replace") for each in lines[0].split(b"|", 4)]
    if len(fields) < 5:
        return None
    defaults = ("localhost", "0", "postgres", "", "vpopmail")
    host, port, user, password, database = (
        each or default for each, default in zip(fields, defaults, strict=True)
    )
    number = leading_number(port.encode())
    return Backend(PGSQL, path, host, number, user, password, database, "", built.many)


def _ldap(path: bytes, lines: tuple[bytes, ...], built: Build) -> Backend | None:
    fields = _cut(lines[0])
    if len(fields) < 5:
        return None
    host, port, user, password, base = fields[:5]
    return Backend(
        LDAP, path, host, leading_number(port.encode()), user, password, base
    )


_PARSERS = {MYSQL: _mysql, PGSQL: _pgsql, LDAP: _ldap}
