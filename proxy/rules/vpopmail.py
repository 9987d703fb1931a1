"""Asks the databases behind vpopmail what the qmail decision wants to know.

Knows: vpopmail's tables and entries, one connection pool for each of its databases.
Knows not: what an answer means (:mod:`proxy.qmail.vpopmail`).  Used by ``needs``.
Source: vmysql.h, vpgsql.h, vldap.c of vpopmail 5.4 to 5.6.

The drivers are loaded with the first question, in a thread, so that no session waits
for it: whoever has vpopmail's users in files needs none of them.
"""

from __future__ import annotations

import asyncio
import os.path
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from proxy.qmail.questions import (
    NOTHING,
    AskAccounts,
    AskLimits,
    Backend,
    Found,
    Mailbox,
    NoAnswer,
    Nothing,
    Quota,
)
from proxy.qmail.vpopmail_data import LDAP, MYSQL, PGSQL, leading_number
from proxy.qmail.vpopmail_quota import quota_in_megabytes
from proxy.qmail.vpopmail_settings import VpopmailSettings
from proxy.rules.source import OnAnswer, Says, SourceDown, unheard
from proxy.rules.verdict import OnRuleError

if TYPE_CHECKING:
    from proxy.rules.database import Database
    from proxy.rules.directory import Directory

NAME = "vpopmail"
"""What log and metrics call these databases."""

WANTS: Mapping[str, tuple[str, ...]] = {
    MYSQL: ("sqlalchemy", "greenlet", "asyncmy"),
    PGSQL: ("sqlalchemy", "greenlet", "asyncpg"),
    LDAP: ("ldap",),
}
"""The packages without which a kind of database cannot be asked."""

# libmysqlclient goes to a socket for "localhost", and these are where it is.
_SOCKETS = (
    "/run/mysqld/mysqld.sock",
    "/var/run/mysqld/mysqld.sock",
    "/var/lib/mysql/mysql.sock",
    "/tmp/mysql.sock",
)

# A file that is edited now and then names another database each time.
_BACKENDS_MAX = 8


def usable() -> frozenset[str]:
    """The kinds of databases for which everything is installed."""
    return frozenset(kind for kind, names in WANTS.items() if all(map(_there, names)))


def _there(package: str) -> bool:
    return find_spec(package) is not None


class VpopmailDatabases:
    """The databases that vpopmail's own files name."""

    def __init__(
        self,
        settings: VpopmailSettings,
        on_answer: OnAnswer = unheard,
        on_error: OnRuleError | None = None,
        root: bytes = b"/",
    ) -> None:
        """``on_answer`` hears of every answer, under :data:`NAME`; ``on_error`` why
        there was none.  ``root`` is where the qmail host's file system is seen."""
        self._settings = settings
        self._root = os.fsdecode(root).rstrip("/")
        self._on_answer = on_answer
        self._on_error = on_error
        self._asked: dict[Backend, _Tables | _Entries] = {}
        self._making = asyncio.Lock()

    async def ask(
        self, question: AskAccounts | AskLimits
    ) -> Found | Quota | Nothing | NoAnswer:
        """The answer; what goes wrong is :class:`NoAnswer`, a deferral."""
        began = time.monotonic()
        found: Found | Quota | Nothing
        try:
            asked = await self._at(question.backend)
            if isinstance(question, AskAccounts):
                found = await asked.ask(question)
            else:
                found = await asked.limits(question)
        except SourceDown as error:
            self._on_answer(NAME, "error", time.monotonic() - began)
            if self._on_error is not None:
                self._on_error(NAME, error)
            return NoAnswer(str(error))
        says = Says.FOUND if _is_something(found) else Says.MISSING
        self._on_answer(NAME, says.value, time.monotonic() - began)
        return found

    async def _at(self, backend: Backend) -> _Tables | _Entries:
        known = self._asked.get(backend)
        if known is not None:
            return known
        async with self._making:
            known = self._asked.get(backend)
            if known is None:
                while len(self._asked) >= _BACKENDS_MAX:
                    await self._asked.pop(next(iter(self._asked))).close()
                known = await asyncio.to_thread(self._made, backend)
                self._asked[backend] = known
            return known

    def _made(self, backend: Backend) -> _Tables | _Entries:
        if backend.kind == LDAP:
            return _Entries(backend, self._settings)
        return _Tables(backend, self._settings, self._root)

    async def close(self) -> None:
        """Close all connections."""
        asked, self._asked = self._asked, {}
        for each in asked.values():
            await each.close()


class _Tables:
    """vpopmail's tables in MySQL, MariaDB or PostgreSQL."""

    def __init__(self, backend: Backend, settings: VpopmailSettings, root: str) -> None:
        self._backend = backend
        self._database = _database(backend, settings, root)

    async def limits(self, question: AskLimits) -> Quota | Nothing:
        """vget_limits(): megabytes and messages."""
        from proxy.rules.database import NoSuchTable

        query = "select diskquota, maxmsgcount from limits where domain = :domain"
        try:
            _, rows = await self._database.rows(
                query, {"domain": question.domain.decode("utf-8", "surrogateescape")}
            )
        except NoSuchTable:
            return NOTHING  # vcreate_limits_table() makes it
        for size, messages in rows:
            return quota_in_megabytes(int(size or 0), int(messages or 0))
        return NOTHING

    async def ask(self, question: AskAccounts) -> Found:
        aliases, accounts = self._aliases(question), self._accounts(question)
        lines, (mailboxes, asked) = await asyncio.gather(aliases, accounts)
        shown = self._database.shown
        domain = question.domain.decode("ascii")
        first = (
            f"valias where domain = {domain} and alias in {_names(question.aliases)}"
        )
        second = f"{asked} and pw_name in {_names(question.users)}"
        return Found(
            lines,
            mailboxes,
            (
                f"{shown}: {first}: {_known(lines)}",
                f"{shown}: {second}: {_known(mailboxes)}",
            ),
        )

    async def _aliases(self, question: AskAccounts) -> dict[bytes, tuple[bytes, ...]]:
        from proxy.rules.database import NoSuchTable

        query = (
            "select alias, valias_line from valias"
            " where domain = :domain and alias in :names"
        )
        names = _texts(question.aliases)
        values = {"domain": question.domain.decode("ascii"), "names": names}
        try:
            _, rows = await self._database.rows(query, values)
        except NoSuchTable:
            return {}  # valias_select() makes it, and finds it empty
        found: dict[bytes, list[bytes]] = defaultdict(list)
        for alias, line in rows:
            found[_bytes(alias).lower()].append(_bytes(line))
        return {name: tuple(lines) for name, lines in found.items()}

    async def _accounts(
        self, question: AskAccounts
    ) -> tuple[dict[bytes, Mailbox], str]:
        """The accounts, and where they were looked for."""
        from proxy.rules.database import NoSuchTable

        if self._backend.many is not False:
            try:
                return await self._in_one_table(question)
            except NoSuchTable:
                if self._backend.many:
                    raise
        return await self._in_its_own_table(question)

    async def _in_one_table(
        self, question: AskAccounts
    ) -> tuple[dict[bytes, Mailbox], str]:
        domain = question.domain.decode("ascii")
        rows = await self._rows(
            "vpopmail where pw_domain = :domain and", question, {"domain": domain}
        )
        return rows, f"vpopmail where pw_domain = {domain}"

    async def _in_its_own_table(
        self, question: AskAccounts
    ) -> tuple[dict[bytes, Mailbox], str]:
        # vauth_munch_domain(); the domain is of letters, digits, dots and dashes.
        table = question.domain.decode("ascii").replace(".", "_").replace("-", "_")
        quote = "`" if self._backend.kind == MYSQL else '"'
        assert table.replace("_", "").isalnum(), "a domain that vpopmail allows"
        rows = await self._rows(f"{quote}{table}{quote} where", question, {})
        return rows, f"{table} where true"

    async def _rows(
        self, source: str, question: AskAccounts, values: Mapping[str, object]
    ) -> dict[bytes, Mailbox]:
        query = (
            f"select pw_name, pw_gid, pw_dir, pw_shell from {source} pw_name in :names"
        )
        _, rows = await self._database.rows(
            query, {**values, "names": _texts(question.users)}
        )
        return {
            _bytes(name).lower(): Mailbox(int(flags or 0), _bytes(home), _bytes(quota))
            for name, flags, home, quota in rows
        }

    async def close(self) -> None:
        await self._database.close()


def _is_something(found: Found | Quota | Nothing) -> bool:
    if isinstance(found, Found):
        return bool(found.aliases or found.mailboxes)
    return isinstance(found, Quota)


def _below(root: str, path: str) -> str:
    """A socket of the qmail host, as it is seen here.  One that is mounted by its own
    name is taken, too."""
    below = root + path
    return below if os.path.exists(below) else path


def _database(backend: Backend, settings: VpopmailSettings, root: str) -> Database:
    from proxy.rules.database import Database, DatabaseLimits, database_url

    host, connect_args = backend.host, {}
    socket = _below(root, backend.socket) if backend.socket else ""
    if backend.kind == MYSQL and host == "localhost" and not socket:
        usual = (_below(root, path) for path in _SOCKETS)
        socket = next(filter(os.path.exists, usual), "")
    if socket:
        connect_args["unix_socket"] = socket
    if backend.kind == PGSQL and host.startswith("/"):
        connect_args["host"] = _below(root, host)
        if backend.port:
            connect_args["port"] = str(backend.port)
        host = ""
    kind = "mysql" if backend.kind == MYSQL else "postgresql"
    user, password = backend.user, backend.password
    url = database_url(kind, host, backend.port, user, password, backend.database)
    limits = DatabaseLimits(settings.connections, settings.timeout, settings.timeout)
    return Database(url, limits, connect_args)


class _Entries:
    """vpopmail's entries in an LDAP directory."""

    def __init__(self, backend: Backend, settings: VpopmailSettings) -> None:
        from proxy.rules.directory import Directory, DirectorySettings

        self._base = backend.database
        host = backend.host if "://" in backend.host else f"ldap://{backend.host}"
        self._directory: Directory = Directory(
            DirectorySettings(
                f"{host}:{backend.port}" if backend.port else host,
                backend.user,
                backend.password,
                connections=settings.connections,
                connect_timeout=settings.timeout,
                query_timeout=settings.timeout,
            )
        )

    async def limits(self, question: AskLimits) -> Quota | Nothing:
        """There, limits are in files only."""
        return NOTHING

    async def ask(self, question: AskAccounts) -> Found:
        lines, mailboxes = await asyncio.gather(
            self._aliases(question), self._accounts(question)
        )
        shown = self._directory.shown
        domain = question.domain.decode("ascii")
        first = f"ou=valias,{self._base}: aa in {_names(question.aliases)} at {domain}"
        second = f"ou={domain},{self._base}: uid in {_names(question.users)}"
        return Found(
            lines,
            mailboxes,
            (
                f"{shown}: {first}: {_known(lines)}",
                f"{shown}: {second}: {_known(mailboxes)}",
            ),
        )

    async def _aliases(self, question: AskAccounts) -> dict[bytes, tuple[bytes, ...]]:
        """valias_select(): ``di`` of the entries whose ``aa`` is the address."""
        from proxy.rules.directory import Scope, filter_value

        addresses = {name + b"@" + question.domain: name for name in question.aliases}
        any_of = "".join(f"(aa={filter_value(address)})" for address in addresses)
        entries = await self._directory.search(
            f"ou=valias,{self._base}", Scope.SUBTREE, f"(|{any_of})", ["aa", "di"]
        )
        found: dict[bytes, list[bytes]] = defaultdict(list)
        for entry in entries or ():
            for address in entry.attributes.get("aa", ()):
                name = addresses.get(address.lower())
                if name is not None:
                    found[name].extend(entry.attributes.get("di", ()))
        return {name: tuple(lines) for name, lines in found.items() if lines}

    async def _accounts(self, question: AskAccounts) -> dict[bytes, Mailbox]:
        """vauth_getpw(): below ``ou=domain``; without that there is no user."""
        from proxy.rules.directory import Scope, filter_value, name_value

        any_of = "".join(f"(uid={filter_value(name)})" for name in question.users)
        entries = await self._directory.search(
            f"ou={name_value(question.domain)},{self._base}",
            Scope.SUBTREE,
            f"(&(objectclass=qmailUser)(|{any_of}))",
            ["uid", "qmailGID", "mailMessageStore", "mailQuota"],
        )
        return {
            name.lower(): Mailbox(
                leading_number(entry.first("qmailGID") or b""),
                entry.first("mailMessageStore") or b"",
                entry.first("mailQuota") or b"",
            )
            for entry in entries or ()
            for name in entry.attributes.get("uid", ())
        }

    async def close(self) -> None:
        await self._directory.close()


def _texts(names: Sequence[bytes]) -> list[str]:
    return [name.decode("ascii") for name in names]


def _names(names: Sequence[bytes]) -> str:
    return f"({', '.join(_texts(names))})"


def _known(found: Mapping[bytes, Any]) -> str:
    return ", ".join(_texts(sorted(found))) or "none"


def _bytes(value: object) -> bytes:
    """A column as its bytes; ``NULL`` is empty."""
    return str(value).encode("utf-8", "surrogateescape") if value is not None else b""
