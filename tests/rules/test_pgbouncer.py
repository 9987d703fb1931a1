"""PostgreSQL behind the real PgBouncer, in each of its modes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import URL

from proxy.rules.database import Database, DatabaseLimits, NoSuchTable
from tests.support.pgbouncer import PORT, PgBouncer, pgbouncer
from tests.support.postgres import NAME, Postgres

pytestmark = pytest.mark.fault("R3")


@pytest.fixture(params=["session", "transaction", "statement"])
def bouncer(request: pytest.FixtureRequest, pg: Postgres) -> Iterator[PgBouncer]:
    pg.sql("create table people (name varchar(64) primary key)")
    pg.sql("insert into people values ('alice'), ('bob')")
    with pgbouncer(pg, request.param) as it:
        yield it
    pg.sql("drop table people")


def database(bouncer: PgBouncer) -> Database:
    url = URL.create("postgresql", "anybody", database=NAME, port=PORT)
    limits = DatabaseLimits(connections=6, query_timeout=60.0)
    return Database(url, limits, {"host": bouncer.socket})


async def test_each_question_has_its_own_answer(bouncer: PgBouncer) -> None:
    """Many questions at a time, from two processes' worth of pools."""
    both = [database(bouncer), database(bouncer)]

    async def ask(number: int) -> None:
        asked, name = both[number % 2], ("bob", "alice", "eve")[number % 3]
        query = number % 4
        if query == 0:
            got = await asked.rows(
                "select name from people where name = :n", {"n": name}
            )
            want = [] if name == "eve" else [(name,)]
        elif query == 1:
            got = await asked.rows(
                "select 'second' from people where name = :n", {"n": name}
            )
            want = [] if name == "eve" else [("second",)]
        elif query == 2:
            text = "select cast(count(*) as text) from people where name in :n"
            got = await asked.rows(text, {"n": ["bob", name]})
            want = [("1" if name in ("bob", "eve") else "2",)]
        else:
            got = await asked.rows("select cast(:n as text)", {"n": name})
            want = [(name,)]
        assert [*map(tuple, got.rows)] == want

    await asyncio.gather(*[ask(number) for number in range(240)])
    for number in range(60):
        await ask(number)
    for each in both:
        await each.close()


async def test_trouble_is_told_apart(bouncer: PgBouncer) -> None:
    asked = database(bouncer)
    for _ in range(6):
        with pytest.raises(NoSuchTable):
            await asked.rows("select 1 from nothing where name = :n", {"n": "bob"})
        found = await asked.first(
            "select name from people where name = :n", {"n": "bob"}
        )
        assert [*map(tuple, found.rows)] == [("bob",)]
    await asked.close()
