"""One SQL database behind a rule: a bounded pool, time limits, one exception.

Knows: SQLAlchemy's engines over asyncpg, asyncmy and aiosqlite; what a lost
connection means.  Knows not: any query.  Used by the rules that ask databases;
imported only when one is configured, as it wants the extra ``sql``.

Queries are reads, so one that a connection died on is asked again, once, on a
new connection: a server that was restarted costs no recipient a deferral.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from proxy.rules.source import SourceDown

Row = Sequence[Any]

DRIVERS = {
    "postgresql": "postgresql+asyncpg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mysql+asyncmy",
    "sqlite": "sqlite+aiosqlite",
}
"""The driver for each kind of database."""

# What "no such table" and "no such column" are: SQLSTATE of PostgreSQL, error
# numbers of MySQL and MariaDB, the text of SQLite.
_NO_TABLE_STATES = frozenset({"42P01", "42703"})
_NO_TABLE_NUMBERS = frozenset({1146, 1054})
_NO_TABLE_TEXTS = ("no such table", "no such column")

_WHY_MAX = 200


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """``connections`` at a time; seconds for a new connection, and for an
    answer with everything that goes before it; rows of one answer."""

    connections: int = 4
    connect_timeout: float = 5.0
    query_timeout: float = 5.0
    rows: int = 1000


class Database:
    """A database that is asked over a pool of its own.

    Belongs to the event loop that first asks it.  Connections are made when they
    are wanted; nothing is sent before the first question.
    """

    def __init__(
        self,
        url: str | URL,
        limits: DatabaseLimits | None = None,
        connect_args: Mapping[str, object] | None = None,
        *,
        password: str = "",
    ) -> None:
        """``url`` as SQLAlchemy writes it; of the driver only the kind counts:
        ``postgresql://user:password@host/name``.  ``password`` goes before one in
        it.  Raises ``ValueError`` for what is none, without its text, which may
        hold a password."""
        self.limits = limits or DatabaseLimits()
        url = _with_driver(url)
        if password:
            url = url.set(password=password)
        self._password = url.password or ""
        self.shown = url.set(query={}).render_as_string(hide_password=True)
        self._engine = self._make_engine(url, dict(connect_args or {}))
        self._closed = False
        # What is given up on goes on until its connection is put away.
        self._ending: set[asyncio.Task[Any]] = set()

    def _make_engine(self, url: URL, connect_args: dict[str, object]) -> AsyncEngine:
        limits = self.limits
        if url.drivername == DRIVERS["postgresql"]:
            connect_args.setdefault("timeout", limits.connect_timeout)
        elif url.drivername == DRIVERS["mysql"]:
            # The driver wants whole seconds.
            connect_args.setdefault("connect_timeout", int(limits.connect_timeout) + 1)
        if url.drivername == DRIVERS["sqlite"]:
            url = _read_only(url)
            # A file that another process writes to is waited for.
            connect_args.setdefault("timeout", limits.query_timeout)
        return create_async_engine(
            url,
            pool_size=limits.connections,
            max_overflow=0,
            pool_timeout=limits.query_timeout,
            # One statement is its own transaction: no BEGIN, no ROLLBACK, and an
            # answer costs one round trip.
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            hide_parameters=True,
            connect_args=connect_args,
        )

    async def rows(
        self, query: str | TextClause, parameters: Mapping[str, object]
    ) -> list[Row]:
        """All rows of ``query``, which names its parameters ``:so``.

        Parameters are bound, never put into the text; a list stands for ``IN
        :names``, declared by :func:`expanding`.  Raises :class:`SourceDown`.
        """
        if self._closed:
            raise SourceDown(f"{self.shown}: closed")
        statement = _statement(query) if isinstance(query, str) else query
        task = asyncio.create_task(self._twice(statement, parameters))
        try:
            done, _ = await asyncio.wait({task}, timeout=self.limits.query_timeout)
        except asyncio.CancelledError:
            self._give_up(task)
            raise
        if not done:
            self._give_up(task)
            seconds = f"{self.limits.query_timeout:g}"
            raise SourceDown(f"{self.shown}: no answer within {seconds} s")
        return task.result()

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        """Cancelled, but not waited for: a connection in doubt is closed first,
        and that takes as long as the server likes."""
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # nobody wants to know any more

    async def _twice(
        self, statement: TextClause, parameters: Mapping[str, object]
    ) -> list[Row]:
        try:
            return await self._once(statement, parameters)
        except _Lost:
            pass
        try:
            return await self._once(statement, parameters)
        except _Lost as lost:
            raise SourceDown(str(lost)) from None

    async def _once(
        self, statement: TextClause, parameters: Mapping[str, object]
    ) -> list[Row]:
        most = self.limits.rows
        try:
            async with self._engine.connect() as connection:
                result = await connection.execute(statement, parameters)
                found = result.fetchmany(most + 1)
                result.close()
                if self._closed:
                    await connection.invalidate()
        except DBAPIError as error:
            why = self._why(error)
            if error.connection_invalidated:
                raise _Lost(why) from None
            if _no_table(error):
                raise NoSuchTable(why) from None
            raise SourceDown(why) from None
        # Drivers raise what they like; whatever it is, there is no answer.
        except Exception as error:
            raise SourceDown(self._why(error)) from None
        if len(found) > most:
            raise SourceDown(f"{self.shown}: more than {most} rows")
        return list(found)

    def _why(self, error: Exception) -> str:
        """One line without secrets: drivers quote what they were given."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(error, SQLAlchemyError) and cause is None:
            cause = error
        # SQLAlchemy's asyncpg errors begin with the class of the true one.
        said = str(cause).split("\n", 1)[0].removeprefix("<class '")
        if self._password:
            said = said.replace(self._password, "***")
        said = "".join(c if c.isprintable() else " " for c in said)[:_WHY_MAX]
        return f"{self.shown}: {said or type(cause).__name__}"

    async def close(self) -> None:
        """Close every connection; those in use when their answer is there."""
        self._closed = True
        await self._engine.dispose()
        if self._ending:
            await asyncio.wait(self._ending, timeout=self.limits.connect_timeout)


class NoSuchTable(SourceDown):
    """The server answers, but does not have the table (or the column)."""


class _Lost(Exception):
    """The connection died; another one may do."""


def database_url(
    kind: str, host: str, port: int, user: str, password: str, database: str
) -> URL:
    """The URL of a server; what is empty, or 0, is the driver's default."""
    place = host or None
    return URL.create(
        kind, user, password, place, (port or None) if place else None, database
    )


def expanding(query: str, *names: str) -> TextClause:
    """``query`` whose parameters ``names`` are lists: ``where x in :names``."""
    return text(query).bindparams(*(bindparam(name, expanding=True) for name in names))


def _with_driver(url: str | URL) -> URL:
    try:
        made = make_url(url)
    except ArgumentError:
        raise ValueError("not the URL of a database") from None
    kind = made.get_backend_name()
    if kind not in DRIVERS:
        raise ValueError(f"a database of kind {kind!r} cannot be asked")
    return made.set(drivername=DRIVERS[kind])


@lru_cache(maxsize=256)
def _statement(query: str) -> TextClause:
    """The same one each time: it is taken apart once, and compiled once."""
    return text(query)


def _read_only(url: URL) -> URL:
    """A file that is never made or written (sqlite.org/uri.html)."""
    path = f"file:{quote(url.database or '')}"
    return url.set(database=path, query={**url.query, "mode": "ro", "uri": "true"})


def columns(row: Row) -> dict[str, Any]:
    """The values of a row by the names of their columns, in lower case."""
    names: Sequence[str] = getattr(row, "_fields", ())
    return {name.lower(): value for name, value in zip(names, row, strict=False)}


def _no_table(error: DBAPIError) -> bool:
    cause = error.orig
    if getattr(cause, "sqlstate", None) in _NO_TABLE_STATES:
        return True
    first = cause.args[0] if isinstance(cause, Exception) and cause.args else None
    if first in _NO_TABLE_NUMBERS:
        return True
    return isinstance(first, str) and first.startswith(_NO_TABLE_TEXTS)
