"""The way to a database, against real servers: answers, trouble, restarts."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import URL

from proxy.rules.database import Database, DatabaseLimits, NoSuchTable
from proxy.rules.drivers import DRIVERS
from proxy.rules.source import SourceDown
from tests.support.mariadb import MariaDB
from tests.support.postgres import NAME, PASSWORD, USER, Postgres

HOSTILE = ["o'brien", 'a"b', "x;drop table people", "%", "_", "\\", "a\nb", "é\u2028"]

QUERY = "select name from people where name = :name"


class Server(NamedTuple):
    """One kind of server, and how it is asked."""

    it: Postgres | MariaDB
    make: Callable[[DatabaseLimits], Database]


@pytest.fixture(params=["pg", "maria"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    it = request.getfixturevalue(request.param)
    kind = "" if isinstance(it, Postgres) else "character set utf8mb4"
    it.sql(f"create table people (name varchar(64) primary key) {kind}")
    it.sql("insert into people values ('alice'), ('bob')")

    def make(limits: DatabaseLimits) -> Database:
        if isinstance(it, Postgres):
            url = URL.create("postgresql", USER, PASSWORD, database=NAME)
            return Database(url, limits, {"host": it.socket})
        url = URL.create("mysql", USER, PASSWORD, database=NAME)
        return Database(url, limits, {"unix_socket": it.socket})

    yield Server(it, make)
    it.sql("drop table people")


async def asked(database: Database, query: str, **values: object) -> list[object]:
    return [*map(tuple, (await database.rows(query, values)).rows)]


async def test_found_and_not_found(server: Server) -> None:
    database = server.make(DatabaseLimits())
    assert await asked(database, QUERY, name="bob") == [("bob",)]
    assert await asked(database, QUERY, name="nobody") == []
    several = "select name from people where name in :names order by name"
    names = ["bob", "alice", "eve"]
    assert await asked(database, several, names=names) == [("alice",), ("bob",)]
    assert await asked(database, several, names=["bob"]) == [("bob",)]
    assert await asked(database, several, names=[]) == []
    await database.close()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_key_is_only_a_key(server: Server, name: str) -> None:
    database = server.make(DatabaseLimits())
    assert await asked(database, QUERY, name=name) == []
    assert len(await asked(database, "select name from people")) == 2
    await database.close()


async def test_no_such_table_is_told_apart(server: Server) -> None:
    database = server.make(DatabaseLimits())
    with pytest.raises(NoSuchTable):
        await database.rows("select name from nowhere", {})
    with pytest.raises(NoSuchTable):
        await database.rows("select surname from people", {})
    with pytest.raises(SourceDown) as raised:
        await database.rows("select name frm people", {})
    assert not isinstance(raised.value, NoSuchTable)
    await database.close()


async def test_more_rows_than_wanted_are_no_answer(server: Server) -> None:
    database = server.make(DatabaseLimits(rows=1))
    with pytest.raises(SourceDown, match="more than 1 rows"):
        await database.rows("select name from people", {})
    await database.close()


async def test_of_many_rows_only_the_first_is_held(server: Server) -> None:
    """A query of somebody's own may forget its condition; a service must not grow by
    its table.  The connection is as good as before."""
    many, wide = 4000, 10_000
    database = server.make(DatabaseLimits(connections=1))
    one = f"select repeat('x', {wide}) as wide, a.name from people a"
    crossed = one + "".join(f", people b{number}" for number in range(11))  # 2 ** 12
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        names, rows = await database.first(crossed, {})
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert names == ("wide", "name")
    assert [len(row[0]) for row in rows] == [wide]
    assert peak < many * wide / 8
    assert await asked(database, QUERY, name="bob") == [("bob",)]
    assert (await database.first(QUERY, {"name": "nobody"})).rows in ([], ())
    await database.close()


async def test_a_restart_costs_nobody_an_answer(server: Server) -> None:
    database = server.make(DatabaseLimits(connections=2))
    both = await asyncio.gather(*(asked(database, QUERY, name="bob") for _ in "12"))
    assert both == [[("bob",)], [("bob",)]]
    server.it.stop()
    server.it.start()
    for _ in range(3):
        assert await asked(database, QUERY, name="bob")
    await database.close()


async def test_a_server_that_is_down_is_no_answer(server: Server) -> None:
    database = server.make(DatabaseLimits())
    assert await asked(database, QUERY, name="bob")
    server.it.stop()
    try:
        for _ in range(3):
            with pytest.raises(SourceDown) as raised:
                await database.rows(QUERY, {"name": "bob"})
            assert PASSWORD not in str(raised.value)
    finally:
        server.it.start()
    assert await asked(database, QUERY, name="bob")
    await database.close()


async def test_a_server_that_is_silent_is_no_answer(server: Server) -> None:
    """And those that wait for it keep nobody else from anything."""
    database = server.make(DatabaseLimits(connections=2, query_timeout=0.3))
    sleep = "pg_sleep" if isinstance(server.it, Postgres) else "sleep"
    slow = [database.rows(f"select {sleep}(20)", {}) for _ in range(6)]
    for answer in await asyncio.gather(*slow, return_exceptions=True):
        assert isinstance(answer, SourceDown)
        assert "no answer within 0.3 s" in str(answer)
    await _in_time(database)
    await database.close()


async def _in_time(database: Database) -> None:
    """The connections in doubt are put away, and new ones serve."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert await asked(database, QUERY, name="bob")
            except SourceDown:
                continue
            return


async def test_whoever_gives_up_leaves_a_sound_pool(server: Server) -> None:
    database = server.make(DatabaseLimits(connections=1))
    sleep = "pg_sleep" if isinstance(server.it, Postgres) else "sleep"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await database.rows(f"select {sleep}(20)", {})
    await _in_time(database)
    await database.close()


async def which(database: Database) -> object:
    """What the server calls the connection that answers next."""
    word = "pg_backend_pid" if "postgresql" in database.shown else "connection_id"
    (row,) = await asked(database, f"select {word}()")
    assert isinstance(row, tuple)
    return row[0]


async def test_a_connection_in_doubt_is_never_asked_again(server: Server) -> None:
    """But what the server itself refuses, however often, costs no new one."""
    database = server.make(DatabaseLimits(connections=1, query_timeout=5))
    first = await which(database)
    for query in ("select name from nowhere", "select name frm people"):
        with pytest.raises(SourceDown):
            await database.rows(query, {})
    if isinstance(server.it, Postgres):  # where the driver itself says no
        with pytest.raises(SourceDown, match="invalid input"):
            await database.rows("select 1 where 1 = :name", {"name": "bob"})
    assert await which(database) == first
    sleep = "pg_sleep" if isinstance(server.it, Postgres) else "sleep"
    leaving = asyncio.ensure_future(database.rows(f"select {sleep}(20)", {}))
    done, _ = await asyncio.wait({leaving}, timeout=0.1)
    assert not done
    leaving.cancel()
    await asyncio.wait({leaving})
    assert await which(database) != first
    await database.close()


def test_half_an_answer_leaves_a_connection_in_doubt() -> None:
    """What follows the text that cannot be decoded is still to come on it."""
    answered = DRIVERS["mysql"].answered
    assert answered(None, UnicodeEncodeError("latin-1", "\u2028", 0, 1, "no"))
    assert not answered(None, UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"))


async def test_a_connection_that_was_killed_costs_nobody_an_answer(
    server: Server,
) -> None:
    database = server.make(DatabaseLimits(connections=1))
    first = await which(database)
    if isinstance(server.it, Postgres):
        server.it.sql(f"select pg_terminate_backend({first})", "postgres", "postgres")
    else:
        server.it.sql(f"kill {first}", "mysql", "root")
    assert await which(database) != first
    await database.close()


async def test_who_leaves_while_connecting_leaves_a_sound_pool(server: Server) -> None:
    database = server.make(DatabaseLimits(connections=1))
    for _ in range(5):
        leaving = asyncio.ensure_future(database.rows(QUERY, {"name": "bob"}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert leaving.cancelled()
    assert await asked(database, QUERY, name="bob")
    await database.close()


async def test_a_wrong_password_is_no_answer_and_not_told(pg: Postgres) -> None:
    wrong = "wr0ng-secret"
    url = URL.create("postgresql", USER, wrong, database=NAME)
    database = Database(url, None, {"host": pg.socket})
    with pytest.raises(SourceDown) as raised:
        await database.rows("select 1", {})
    assert wrong not in f"{raised.value!r} {database.shown} {raised.value.__cause__}"
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "oracle://u:pass-word@h/d",
        "http://h",
        "mysql://u:p@pass-word@h/d",
        "mysql://u:p@ss:pass-word@h/d",
        "mysql://u@h:pass-word/d",
    ],
)
def test_what_is_no_database_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(ValueError, match=r"database|%40") as raised:
        Database(url)
    assert "pass-word" not in str(raised.value)


async def test_a_file_is_a_database_too(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/d b#")
    with pytest.raises(SourceDown, match="unable to open"):
        await database.rows(QUERY, {"name": "bob"})
    assert not os.listdir(tmp_path)  # it is never made
    (tmp_path / "d b#").touch()
    with pytest.raises(NoSuchTable):
        await database.rows(QUERY, {"name": "bob"})
    await database.close()
    with pytest.raises(SourceDown, match="closed"):
        await database.rows(QUERY, {"name": "bob"})
