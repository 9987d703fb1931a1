"""One SQL database behind a rule: a bounded pool, time limits, one exception.

Knows: SQLAlchemy's engines, which make connections and put statements into the
driver's words; what a lost connection means.  Knows not: any query; how a driver
runs a statement (``drivers``).  Used by the rules that ask databases; imported only
when one is configured, as it wants the extra ``sql``.

Connections are kept here and not in SQLAlchemy's pool, and are asked through the
driver itself: so an answer costs hardly more than its round trip.  Each statement is
a transaction of its own, so nothing is to be undone between two questions.  What is
given up on leaves a connection in doubt; that is closed, and never asked again.

A pooler such as PgBouncer may give each statement another connection to the server.
Prepared statements are lost by that, and asyncpg's usual names for them would be
another client's statements there.  So ours are named as nobody else's, and once one is
missing, nothing is prepared beforehand any more.

Queries are reads, so one that a connection died on is asked again, once, on a
new connection: a server that was restarted costs no recipient a deferral.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy import NullPool, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from proxy.rules.drivers import DRIVERS, Driver, Rows, prepared
from proxy.rules.source import SourceDown

# What "no such table" and "no such column" are: SQLSTATE of PostgreSQL, error
# numbers of MySQL and MariaDB, the text of SQLite.
_NO_TABLE_STATES = frozenset({"42P01", "42703"})
_NO_TABLE_NUMBERS = frozenset({1146, 1054})
_NO_TABLE_TEXTS = ("no such table", "no such column")

# A value has characters that a column or the whole database cannot hold.
_NOT_HELD_STATES = frozenset({"22P05", "22021"})
_NOT_HELD_NUMBERS = frozenset({1267, 1270, 1271})

# A prepared statement is not there, or one of its name is already.
_POOLED_STATES = frozenset({"26000", "42P05"})

_WHY_MAX = 200


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """``connections`` at a time; seconds for a new connection, and for an answer
    with everything that goes before it (``None``: who asks sees to that); rows of one
    answer."""

    connections: int = 4
    connect_timeout: float = 5.0
    query_timeout: float | None = 5.0
    rows: int = 1000


_File = tuple[int, int]
"""Device and inode."""


class _Held(NamedTuple):
    """A connection: SQLAlchemy's, which closes it, and the driver's own; with SQLite,
    which file it is to.  ``prepares``: it keeps prepared statements."""

    whole: AsyncConnection
    own: Any
    file: _File | None
    prepares: bool


class _Statement(NamedTuple):
    """A query in the driver's words; the parameters by their places."""

    text: str
    names: tuple[str, ...]


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
        url, self._driver = _with_driver(url)
        if password:
            url = url.set(password=password)
        self._password = url.password or ""
        self.shown = url.set(query={}).render_as_string(hide_password=True)
        is_file = url.drivername == DRIVERS["sqlite"].name
        self._path = url.database if is_file else None
        self._url = url
        self._connect_args = dict(connect_args or {})
        self._prepares = True
        self._engine = self._make_engine()
        self._in_words = lru_cache(maxsize=256)(self._compiled)
        # A place is held by each question, and by a connection that is being closed
        # in its stead; the free connections fill places that nobody holds.
        self._places = asyncio.Semaphore(self.limits.connections)
        self._free: list[_Held] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def _make_engine(self) -> AsyncEngine:
        limits, url = self.limits, self._url
        connect_args = dict(self._connect_args)
        if url.drivername == DRIVERS["postgresql"].name:
            connect_args.setdefault("timeout", limits.connect_timeout)
            connect_args.update(prepared(kept=self._prepares))
        elif url.drivername == DRIVERS["mysql"].name:
            # The driver wants whole seconds.
            connect_args.setdefault("connect_timeout", int(limits.connect_timeout) + 1)
        if url.drivername == DRIVERS["sqlite"].name:
            url = _read_only(url)
            # A file that another process writes to is waited for.
            seconds = limits.query_timeout or limits.connect_timeout
            connect_args.setdefault("timeout", seconds)
        return create_async_engine(
            url,
            poolclass=NullPool,  # ours is in its place
            # One statement is its own transaction: no BEGIN, no ROLLBACK, and an
            # answer costs one round trip.
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args=connect_args,
        )

    async def rows(self, query: str, parameters: Mapping[str, object]) -> Rows:
        """The answer to ``query``, which names its parameters ``:so``.

        Parameters are bound, never put into the text; a list stands for all its
        values: ``where name in :names``.  Raises :class:`SourceDown`.
        """
        most = self.limits.rows
        found = await self._answer(query, parameters, most + 1)
        if len(found.rows) > most:
            raise SourceDown(f"{self.shown}: more than {most} rows")
        return found

    async def first(self, query: str, parameters: Mapping[str, object]) -> Rows:
        """The same, but only the first row of it, however many there are: no more are
        kept in memory, whatever somebody's query asks for."""
        return await self._answer(query, parameters, 1)

    async def _answer(
        self, query: str, parameters: Mapping[str, object], most: int
    ) -> Rows:
        if self._closed:
            raise SourceDown(f"{self.shown}: closed")
        lists = tuple(
            (name, len(value))
            for name, value in parameters.items()
            if isinstance(value, list)
        )
        statement = self._in_words(query, lists)
        known = _spread(parameters) if lists else parameters
        values = [known[name] for name in statement.names]
        if self.limits.query_timeout is None:
            return await self._twice(statement.text, values, most)
        try:
            async with asyncio.timeout(self.limits.query_timeout):
                return await self._twice(statement.text, values, most)
        except TimeoutError:
            seconds = f"{self.limits.query_timeout:g}"
            raise SourceDown(f"{self.shown}: no answer within {seconds} s") from None

    async def _twice(self, query: str, values: Sequence[object], most: int) -> Rows:
        try:
            return await self._once(query, values, most)
        except _Lost:
            # What died with it is of no use either.
            while self._free:
                self._put_away(self._free.pop())
        try:
            return await self._once(query, values, most)
        except _Lost as lost:
            raise SourceDown(str(lost)) from None

    async def _once(self, query: str, values: Sequence[object], most: int) -> Rows:
        await self._places.acquire()
        if self._path is not None:
            self._look()
        held = self._free.pop() if self._free else await self._connect()
        try:
            found = await self._driver.run(held.own, query, values, most)
        # Drivers raise what they like; whatever it is, there is no answer.
        except Exception as error:
            why = self._why(error)
            pooled = self._pooled(error)
            if pooled or not self._driver.answered(held.own, error):
                self._put_away(held, self._places)
                raise _Lost(why) from None
            self._give_back(held)
            raise _kind(error)(why) from None
        except BaseException:  # given up on, while the server works
            self._put_away(held, self._places)
            raise
        self._give_back(held)
        return found

    def _pooled(self, error: Exception) -> bool:
        """Whether a pooler stands before the server; from then on, nothing is
        prepared."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if getattr(cause, "sqlstate", None) not in _POOLED_STATES:
            return False
        if self._prepares:
            self._prepares = False
            self._engine = self._make_engine()
        return True

    def _look(self) -> None:
        """Ask no file that another one was put in the place of, or that is gone."""
        file = self._file()
        for held in [held for held in self._free if held.file != file]:
            self._free.remove(held)
            self._put_away(held)

    def _file(self) -> _File | None:
        """Which file there is; SQLite would go on with the one that it has opened."""
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _give_back(self, held: _Held) -> None:
        if self._closed or held.prepares != self._prepares:
            self._put_away(held, self._places)
        else:
            self._free.append(held)
            self._places.release()

    # To connect, and to close.  Both take as long as the server likes, and go on when
    # nobody waits for them any more.

    async def _connect(self) -> _Held:
        """A new connection; the place is given up where there is none."""
        connecting = asyncio.create_task(self._connected())
        try:
            await asyncio.wait({connecting})
        except asyncio.CancelledError:
            connecting.cancel()
            self._follow(self._unwanted(connecting))
            raise
        try:
            return connecting.result()
        except Exception as error:
            self._places.release()
            why = self._why(error)
            raise (_Lost if self._pooled(error) else SourceDown)(why) from None

    async def _connected(self) -> _Held:
        prepares = self._prepares
        file = self._file()  # rather an older one than a newer one
        whole = await self._engine.connect()
        raw = await whole.get_raw_connection()
        return _Held(whole, raw.driver_connection, file, prepares)

    async def _unwanted(self, connecting: asyncio.Task[_Held]) -> None:
        """Who wanted it has gone; somebody else may have it."""
        await asyncio.wait({connecting})
        if connecting.cancelled() or connecting.exception() is not None:
            self._places.release()
        else:
            self._give_back(connecting.result())

    def _put_away(self, held: _Held, place: asyncio.Semaphore | None = None) -> None:
        """Close a connection that nobody may ask again, which then frees ``place``."""
        self._follow(self._away(held, place))

    async def _away(self, held: _Held, place: asyncio.Semaphore | None) -> None:
        try:
            with contextlib.suppress(Exception):
                await held.whole.invalidate()
                await held.whole.close()
        finally:
            if place is not None:
                place.release()

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _compiled(self, query: str, lists: tuple[tuple[str, int], ...]) -> _Statement:
        """The driver's words for a query with lists of so many values."""
        for name, length in lists:
            places = ", ".join(f":{each}" for each in _places_of(name, length))
            # No value is equal to NULL.
            query = re.sub(
                rf"(?<![:\w\\]):{name}(?!\w)", f"({places or 'NULL'})", query
            )
        compiled = text(query).compile(dialect=self._engine.dialect)
        return _Statement(str(compiled), tuple(compiled.positiontup or ()))

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
        while self._free:
            self._put_away(self._free.pop())
        if self._ending:
            await asyncio.wait(self._ending, timeout=self.limits.connect_timeout)
        await self._engine.dispose()


class NoSuchTable(SourceDown):
    """The server answers, but does not have the table (or the column)."""


class NotHeld(SourceDown):
    """The server answers, but a value has characters that it cannot compare with what
    it holds, in another character set."""


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


def _with_driver(url: str | URL) -> tuple[URL, Driver]:
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):  # that of a port quotes it
        raise ValueError("not the URL of a database") from None
    if "@" in (made.host or ""):  # the end of a password, which would be shown
        raise ValueError("has an @ too many: that of a password is written %40")
    kind = made.get_backend_name()
    if kind not in DRIVERS:
        raise ValueError(f"a database of kind {kind!r} cannot be asked")
    driver = DRIVERS[kind]
    return made.set(drivername=driver.name), driver


def _read_only(url: URL) -> URL:
    """A file that is never made or written (sqlite.org/uri.html)."""
    path = f"file:{quote(url.database or '')}"
    return url.set(database=path, query={**url.query, "mode": "ro", "uri": "true"})


def _places_of(name: str, length: int) -> list[str]:
    return [f"{name}__{number}" for number in range(length)]


def _spread(parameters: Mapping[str, object]) -> dict[str, object]:
    """``parameters`` with each value of a list by the name of its place."""
    spread: dict[str, object] = {}
    for name, value in parameters.items():
        if isinstance(value, list):
            spread.update(zip(_places_of(name, len(value)), value, strict=True))
        else:
            spread[name] = value
    return spread


def _kind(error: Exception) -> type[SourceDown]:
    first = error.args[0] if error.args else None
    state = getattr(error, "sqlstate", None)
    if isinstance(error, UnicodeEncodeError):  # the charset in the URL has it not
        return NotHeld
    if state in _NOT_HELD_STATES or first in _NOT_HELD_NUMBERS:
        return NotHeld
    return NoSuchTable if _no_table(error) else SourceDown


def _no_table(error: Exception) -> bool:
    if getattr(error, "sqlstate", None) in _NO_TABLE_STATES:
        return True
    first = error.args[0] if error.args else None
    if first in _NO_TABLE_NUMBERS:
        return True
    return isinstance(first, str) and first.startswith(_NO_TABLE_TEXTS)
