"""One statement on one connection, by the driver's own means.

Knows: how asyncpg, asyncmy and aiosqlite run a statement with positional parameters,
and which of their errors are the server's word about it, so that the connection is as
good as before.  Knows not: how connections are made or kept (``database``).

SQLAlchemy's own way through its cursors costs several times what a question costs
the server, as it waits in greenlets and describes each result.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

Row = Sequence[Any]


class Rows(NamedTuple):
    """An answer: the names of its columns, which may be left out where it has no
    rows, and the rows."""

    names: tuple[str, ...]
    rows: Sequence[Row]


class Driver(NamedTuple):
    """``name`` as SQLAlchemy has it.

    ``run`` runs a text with its values on a connection, and gives so many rows at
    most; only asyncpg, if it is asked for more than one, holds all that there are.
    ``answered``: the server has answered, with this error, or was never asked; what
    else goes wrong leaves a connection in doubt."""

    name: str
    run: Callable[[Any, str, Sequence[object], int], Awaitable[Rows]]
    answered: Callable[[Any, Exception], bool]


# PostgreSQL.  Classes of SQLSTATE after which the server hangs up: connection
# exceptions; 57P: shutdown and crash (PostgreSQL, appendix A).
_HANGS_UP = ("08", "57P")


async def _run_asyncpg(
    connection: Any, text: str, values: Sequence[object], most: int
) -> Rows:
    # The driver prepares it once, and again when the server's tables changed.
    if most == 1:  # the server is asked for no more
        row = await connection.fetchrow(text, *values)
        return Rows((), []) if row is None else Rows(tuple(row.keys()), [row])
    found = await connection.fetch(text, *values)
    return Rows(tuple(found[0].keys()) if found else (), found)


def prepared(*, kept: bool) -> dict[str, object]:
    """What asyncpg and SQLAlchemy are told about prepared statements: kept by names
    that no other client of the same server has, or not at all."""
    from asyncpg import Connection

    class Named(Connection):  # type: ignore[misc]
        """Whose statements are not called ``__asyncpg_stmt_1__``."""

        def _get_unique_id(self, prefix: str) -> str:
            return f"backstop_{prefix}_{uuid4().hex}"

    if kept:
        return {"connection_class": Named}
    return {
        "connection_class": Named,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,  # "": the one without a name
    }


def _answered_asyncpg(connection: Any, error: Exception) -> bool:
    state = getattr(error, "sqlstate", None)
    return (
        isinstance(state, str)
        and not state.startswith(_HANGS_UP)
        and not connection.is_closed()
    )


# MySQL and MariaDB.  2000 to 2999 are the driver's own (errmsg.h, CR_*); these are
# the server's that end the connection: shutdown, aborted, network, killed, idle.
_CLIENT = range(2000, 3000)
_AT_ONCE = 100
_ENDS = frozenset({0, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031})


async def _run_asyncmy(
    connection: Any, text: str, values: Sequence[object], most: int
) -> Rows:
    from asyncmy.cursors import SSCursor  # the usual one keeps all rows

    async with connection.cursor(SSCursor) as cursor:
        await cursor.execute(text, tuple(values))
        found = _read(cursor, await cursor.fetchmany(most))
        # The others are on their way: nothing else can be asked before they are read.
        while await cursor.fetchmany(_AT_ONCE):
            pass
        return found


def _answered_asyncmy(connection: Any, error: Exception) -> bool:
    # The key is none in the connection's charset, and was not sent.  But what cannot
    # be decoded is in the middle of an answer.
    if isinstance(error, UnicodeEncodeError):
        return True
    number = error.args[0] if error.args else None
    return isinstance(number, int) and number not in _CLIENT and number not in _ENDS


async def _run_aiosqlite(
    connection: Any, text: str, values: Sequence[object], most: int
) -> Rows:
    async with connection.execute(text, tuple(values)) as cursor:
        return _read(cursor, await cursor.fetchmany(most))


def _answered_aiosqlite(connection: Any, error: Exception) -> bool:
    return isinstance(error, sqlite3.Error)


def _read(cursor: Any, rows: Sequence[Row]) -> Rows:
    return Rows(tuple(column[0] for column in cursor.description or ()), rows)


_ASYNCMY = Driver("mysql+asyncmy", _run_asyncmy, _answered_asyncmy)

DRIVERS = {
    "postgresql": Driver("postgresql+asyncpg", _run_asyncpg, _answered_asyncpg),
    "mysql": _ASYNCMY,
    "mariadb": _ASYNCMY,
    "sqlite": Driver("sqlite+aiosqlite", _run_aiosqlite, _answered_aiosqlite),
}
"""The driver for each kind of database."""
