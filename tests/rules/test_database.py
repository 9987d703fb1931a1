"""The way to a database, against real servers: answers, trouble, restarts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import URL

from proxy.rules.database import Database, DatabaseLimits, NoSuchTable, expanding
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


async def test_found_and_not_found(server: Server) -> None:
    database = server.make(DatabaseLimits())
    assert [*map(tuple, await database.rows(QUERY, {"name": "bob"}))] == [("bob",)]
    assert await database.rows(QUERY, {"name": "nobody"}) == []
    several = expanding("select name from people where name in :names", "names")
    rows = await database.rows(several, {"names": ["bob", "alice", "eve"]})
    assert sorted(row[0] for row in rows) == ["alice", "bob"]
    await database.close()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_key_is_only_a_key(server: Server, name: str) -> None:
    database = server.make(DatabaseLimits())
    assert await database.rows(QUERY, {"name": name}) == []
    assert len(await database.rows("select name from people", {})) == 2
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


async def test_a_restart_costs_nobody_an_answer(server: Server) -> None:
    database = server.make(DatabaseLimits(connections=2))
    asked = [database.rows(QUERY, {"name": "bob"}) for _ in range(2)]
    assert all(await asyncio.gather(*asked))
    server.it.stop()
    server.it.start()
    for _ in range(3):
        assert await database.rows(QUERY, {"name": "bob"})
    await database.close()


async def test_a_server_that_is_down_is_no_answer(server: Server) -> None:
    database = server.make(DatabaseLimits())
    assert await database.rows(QUERY, {"name": "bob"})
    server.it.stop()
    try:
        for _ in range(3):
            with pytest.raises(SourceDown) as raised:
                await database.rows(QUERY, {"name": "bob"})
            assert PASSWORD not in str(raised.value)
    finally:
        server.it.start()
    assert await database.rows(QUERY, {"name": "bob"})
    await database.close()


async def test_a_server_that_is_silent_is_no_answer(server: Server) -> None:
    """And those that wait for it keep nobody else from anything."""
    database = server.make(DatabaseLimits(connections=2, query_timeout=0.3))
    sleep = "pg_sleep" if isinstance(server.it, Postgres) else "sleep"
    asked = [database.rows(f"select {sleep}(20)", {}) for _ in range(6)]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, SourceDown)
        assert "no answer within 0.3 s" in str(answer)
    await _in_time(database)
    await database.close()


async def _in_time(database: Database) -> None:
    """The connections in doubt are put away, and new ones serve."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert await database.rows(QUERY, {"name": "bob"})
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


async def test_a_wrong_password_is_no_answer_and_not_told(pg: Postgres) -> None:
    wrong = "wr0ng-secret"
    url = URL.create("postgresql", USER, wrong, database=NAME)
    database = Database(url, None, {"host": pg.socket})
    with pytest.raises(SourceDown) as raised:
        await database.rows("select 1", {})
    assert wrong not in f"{raised.value!r} {database.shown} {raised.value.__cause__}"
    await database.close()


@pytest.mark.parametrize("url", ["nonsense", "oracle://u:pass-word@h/d", "http://h"])
def test_what_is_no_database_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(ValueError, match="database") as raised:
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
