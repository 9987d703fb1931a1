"""The rule ``sql`` on real databases: found, not found, trouble, hostile keys."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

pytest.importorskip("sqlalchemy")

from proxy.config.rules import read_rule
from tests.support.asked import AskedRule
from tests.support.mariadb import PASSWORD as MARIA_PASSWORD
from tests.support.mariadb import MariaDB
from tests.support.postgres import NAME, PASSWORD, USER, Postgres
from tests.support.rights import let_all_enter, with_the_right_to_read

QUERY = "SELECT 1 FROM people WHERE address = :address"

PEOPLE = (
    "CREATE TABLE people (address varchar(64) PRIMARY KEY, action varchar(16));"
    "INSERT INTO people VALUES ('bob@example.test', NULL);"
    "INSERT INTO people VALUES ('gone@example.test', 'reject');"
    "INSERT INTO people VALUES ('late@example.test', 'DEFER');"
    "INSERT INTO people VALUES ('other@example.test', 'pass');"
    "INSERT INTO people VALUES ('never@example.test', 'missing');"
    "INSERT INTO people VALUES ('odd@example.test', 'maybe');"
)

HOSTILE = [
    b"b\x01ob@example.test",
    b"bob@example.test\x7f",
    b"bob'@example.test",
    b"' OR '1'='1@example.test",
    b"x' UNION SELECT 1 -- @example.test",
    b"bob@example.test'; DROP TABLE people; --",
    b'bob"@example.test',
    b"bob`@example.test",
    b"\\@example.test",
    b"bob\\@example.test",
    b"bob\\'@example.test",
    b"%@example.test",
    b"b_b@example.test",
    b"bob@example.test\nx",
    b"\nbob@example.test",
    b"bob\0@example.test",
    b"bob@example.test\0",
    b"\xe9@example.test",
    b"bob\xff@example.test",
    b"\xc3\x28@example.test",
    b"\xef\xbf\xbd@example.test",
    b":address@example.test",
    b"%(address)s@example.test",
    b"{0}@example.test",
    b"$1@example.test",
    b"?@example.test",
    b"@example.test",
    b"@",
    b"bob@example.test" + b"x" * 800,
]


class Sqlite:
    """A file, for the tests that go over all kinds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sql(self, text: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(text)


Server = Postgres | MariaDB | Sqlite
MakeRule = Callable[..., AskedRule]


def url_of(server: Server) -> str:
    if isinstance(server, Postgres):
        return f"postgresql://{USER}@/{NAME}?host={server.socket}"
    if isinstance(server, MariaDB):
        return f"mysql://{USER}@localhost/{NAME}?unix_socket={server.socket}"
    return f"sqlite:///{server.path}"


def add_people(server: Server) -> None:
    if isinstance(server, MariaDB):
        server.sql(PEOPLE.replace("(16));", "(16)) CHARACTER SET utf8mb4;"))
    else:
        server.sql(PEOPLE)


@pytest.fixture
def lite(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path / "mail.db")


@pytest.fixture(params=["pg", "maria", "lite"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    it: Server = request.getfixturevalue(request.param)
    add_people(it)
    yield it
    it.sql("DROP TABLE people")


@pytest.fixture(params=["pg", "maria"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Postgres | MariaDB]:
    it: Postgres | MariaDB = request.getfixturevalue(request.param)
    add_people(it)
    yield it
    it.sql("DROP TABLE people")


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeRule]:
    """Makes rules for a server, and closes them."""
    words = tmp_path / "password"
    words.write_text(PASSWORD + "\n")
    assert PASSWORD == MARIA_PASSWORD
    made: list[AskedRule] = []

    def rule(server: Server, **keys: object) -> AskedRule:
        told = {"type": "sql", "url": url_of(server), "query": QUERY, **keys}
        if not isinstance(server, Sqlite):
            told["password_file"] = str(words)
        made.append(AskedRule(**{k: v for k, v in told.items() if v is not None}))
        return made[-1]

    yield rule
    for each in made:
        await each.close()


async def test_found_and_not_found(server: Server, make: MakeRule) -> None:
    rule = make(server)
    verdict = await rule.verdict("Bob@Example.TEST")
    assert verdict is not None
    assert (verdict.kind.value, verdict.reply.code) == ("accept", 250)
    (step,) = verdict.trace
    assert step.where() == "rule sql"
    assert step.note() == f"{QUERY} (address=bob@example.test): a row"
    assert await rule.says("nobody@example.test") == "reject"
    assert await make(server, missing="pass").says("nobody@example.test") == "none"
    assert rule.answers == ["found", "missing"]


@pytest.mark.parametrize("address", HOSTILE)
async def test_hostile_keys_never_match(
    server: Server, make: MakeRule, address: bytes
) -> None:
    """I-sql-quote: whatever stands in an address is a value and nothing else."""
    rule = make(server)
    assert await rule.says(address) == "reject"
    assert await rule.says("bob@example.test") == "accept"
    assert not rule.errors


async def test_what_a_column_cannot_hold_is_in_no_row(
    maria: MariaDB, make: MakeRule
) -> None:
    """Other parts of the query count as ever."""
    maria.sql(PEOPLE.replace("(16));", "(16)) CHARACTER SET latin1;"))
    all_of = make(maria, query=QUERY + " OR address = :at_domain")
    maria.sql("INSERT INTO people (address) VALUES ('@all.test'), ('bo?@example.test')")
    rule = make(maria)
    for name in (b"\xd0\xb1", b"bob\xe9", b"bo\xff", b"bo\tb"):
        assert await rule.says(name + b"@example.test") == "reject"
        assert await all_of.says(name + b"@example.test") == "reject"
        assert await all_of.says(name + b"@all.test") == "accept"
    assert await rule.says("n\u00f6body@example.test") == "reject"
    assert await rule.says("bob@example.test") == "accept"
    assert not rule.errors
    maria.sql("DROP TABLE people")


@pytest.mark.fault("R5")
@pytest.mark.parametrize("charset", ["latin1", "gbk", "ascii", "utf8mb4"])
async def test_what_the_connection_cannot_write_is_in_no_row(
    maria: MariaDB, make: MakeRule, charset: str
) -> None:
    """The URL may name a character set that has not every letter."""
    add_people(maria)
    url = f"{url_of(maria)}&charset={charset}"
    rule = make(maria, url=url)
    all_of = make(maria, url=url, query=QUERY + " OR address = :at_domain")
    maria.sql("INSERT INTO people (address) VALUES ('@all.test')")
    names = (b"\xd0\xb1", b"bob\xe9", b"\xe7\xb8\x97' OR '1'='1", b"\xf0\x9f\x98\x80")
    for name in names:
        assert await rule.says(name + b"@example.test") == "reject", rule.errors
        assert await all_of.says(name + b"@all.test") == "accept"
    assert await rule.says("bob@example.test") == "accept"
    assert not rule.errors
    maria.sql("DROP TABLE people")


async def test_what_a_database_cannot_hold_is_in_no_row(
    pg: Postgres, make: MakeRule
) -> None:
    making = f"CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0 OWNER {USER}"
    pg.sql(making, "postgres", "postgres")
    pg.sql(PEOPLE, "old")
    rule = make(pg, url=url_of(pg).replace(f"/{NAME}?", "/old?"))
    for name in (b"\xd0\xb1", b"bob\xe9"):
        assert await rule.says(name + b"@example.test") == "reject", rule.errors
    assert await rule.says("bob@example.test") == "accept"


async def test_hostile_senders_are_values_too(server: Server, make: MakeRule) -> None:
    query = QUERY + " AND :sender <> 'x'"
    rule = make(server, query=query)
    for sender in (b"'", b"' OR 1=1 --@a.test", b"\xff\0'@a.test", b""):
        assert await rule.says("bob@example.test", sender) == "accept"
        assert await rule.says("nobody@example.test", sender) == "reject"


async def test_an_action_decides(server: Server, make: MakeRule) -> None:
    query = "SELECT action AS ACTION FROM people WHERE address = :address"
    rule = make(server, query=query)
    said = {
        name: await rule.says(f"{name}@example.test")
        for name in ["bob", "gone", "late", "other", "never", "odd", "nobody"]
    }
    assert said == {
        "bob": "accept",
        "gone": "reject",
        "late": "defer",
        "other": "none",
        "never": "reject",
        "odd": "defer",
        "nobody": "reject",
    }
    assert "'maybe'" in rule.errors[0]


async def test_all_that_can_be_bound(server: Server, make: MakeRule) -> None:
    wanted = "bob|example.test|@example.test|me@there.test|192.0.2.1"
    names = (":local", ":domain", ":at_domain", ":sender", ":client")
    if isinstance(server, MariaDB):
        joined = f"CONCAT_WS('|', {', '.join(names)})"
    else:
        joined = " || '|' || ".join(names)
    rule = make(server, query=f"SELECT 1 WHERE {joined} = '{wanted}'")
    assert await rule.says("BOB@example.test", b"Me@There.Test") == "accept"
    as_written = make(server, query=f"SELECT 1 WHERE {joined} = '{wanted}'")
    assert await as_written.says("bobo@example.test", b"Me@There.Test") == "reject"


async def test_letter_case_is_kept_by_a_key(pg: Postgres, make: MakeRule) -> None:
    query = "SELECT 1 WHERE :address = 'Bob@example.test'"
    assert await make(pg, query=query).says("Bob@Example.test") == "reject"
    rule = make(pg, query=query, keep_case=True, cache_found=60)
    assert await rule.says("Bob@Example.test") == "accept"
    assert await rule.says("bob@example.test") == "reject"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 FROM nowhere WHERE address = :address",
        "SELECT 1 FRM people WHERE address = :address",
        "SELECT surname FROM people WHERE address = :address",
    ],
)
async def test_a_wrong_query_is_a_deferral(
    server: Server, make: MakeRule, query: str
) -> None:
    rule = make(server, query=query)
    assert await rule.says("bob@example.test") == "defer"
    assert any(word in rule.errors[0] for word in ("nowhere", "syntax", "surname"))
    assert PASSWORD not in rule.errors[0]


async def test_down_at_the_start(daemon: Postgres | MariaDB, make: MakeRule) -> None:
    daemon.stop()
    try:
        rule = make(daemon)
        verdict = await rule.verdict("bob@example.test")
        assert verdict is not None
        assert verdict.reply.code == 451
        shown = f"{verdict} {[step.note() for step in verdict.trace]} {rule.errors}"
        assert PASSWORD not in shown
    finally:
        daemon.start()
    assert await rule.says("bob@example.test") == "accept"


async def test_down_later_and_back(daemon: Postgres | MariaDB, make: MakeRule) -> None:
    rule = make(daemon)
    good = make(daemon, last_known_good=60)
    assert await rule.says("bob@example.test") == "accept"
    assert await good.says("bob@example.test") == "accept"
    daemon.stop()
    try:
        for _ in range(2):
            assert await rule.says("bob@example.test") == "defer"
            assert await rule.says("nobody@example.test") == "defer"
            assert await good.says("bob@example.test") == "accept"
            assert await good.says("nobody@example.test") == "defer"
    finally:
        daemon.start()
    assert await rule.says("bob@example.test") == "accept"
    assert await rule.says("nobody@example.test") == "reject"


async def test_a_restart_costs_no_deferral(
    daemon: Postgres | MariaDB, make: MakeRule
) -> None:
    rule = make(daemon, concurrency=3)
    asked = [rule.says("bob@example.test") for _ in range(3)]
    assert await asyncio.gather(*asked) == ["accept"] * 3
    daemon.stop()
    daemon.start()
    asked = [rule.says("bob@example.test") for _ in range(9)]
    assert await asyncio.gather(*asked) == ["accept"] * 9


def sleeping(server: Postgres | MariaDB) -> str:
    """Sleeps for those who are called slow, and for nobody else."""
    kind = "pg_sleep(30)::text" if isinstance(server, Postgres) else "sleep(30)"
    return (
        "SELECT CASE WHEN :local = 'slow' THEN "
        f"{kind} END FROM people WHERE address = :address OR :local = 'slow' LIMIT 1"
    )


async def test_slow(daemon: Postgres | MariaDB, make: MakeRule) -> None:
    rule = make(daemon, query=sleeping(daemon), timeout=0.5)
    assert await rule.says("slow@example.test") == "defer"
    assert rule.answers == ["timeout"]


async def test_who_leaves_spoils_nothing_for_others(
    daemon: Postgres | MariaDB, make: MakeRule
) -> None:
    """A question that is cancelled frees its turn and its place in the pool."""
    rule = make(daemon, query=sleeping(daemon), concurrency=2, timeout=60)
    for _ in range(3):
        asked = [
            asyncio.ensure_future(rule.says("slow@example.test")) for _ in range(2)
        ]
        await asleep(daemon, 2)
        for each in asked:
            each.cancel()
        await asyncio.wait(asked)
        assert await rule.says("bob@example.test") == "accept"
        assert await rule.says("nobody@example.test") == "reject"


async def asleep(server: Postgres | MariaDB, count: int) -> None:
    """Wait until so many questions sleep in the server."""
    look = (
        "select count(*) from pg_stat_activity where state = 'active'"
        " and wait_event = 'PgSleep'"
        if isinstance(server, Postgres)
        else "select count(*) from information_schema.processlist"
        " where state = 'User sleep'"
    )
    async with asyncio.timeout(60):
        while int(await asyncio.to_thread(server.sql, look)) < count:
            pass


async def test_others_are_answered_while_one_waits(
    daemon: Postgres | MariaDB, make: MakeRule
) -> None:
    rule = make(daemon, query=sleeping(daemon), concurrency=2, timeout=60)
    slow = asyncio.ensure_future(rule.says("slow@example.test"))
    await asleep(daemon, 1)
    for _ in range(10):
        assert await rule.says("bob@example.test") == "accept"
    assert not slow.done()
    slow.cancel()
    await asyncio.wait([slow])


async def test_many_at_once_over_one_pool(
    daemon: Postgres | MariaDB, make: MakeRule
) -> None:
    rule = make(daemon, concurrency=4)
    names = [f"u{n}@example.test" if n % 2 else "bob@example.test" for n in range(500)]
    said = await asyncio.gather(*map(rule.says, names))
    assert said == ["reject" if name.startswith("u") else "accept" for name in names]
    look = (
        f"select count(*) from pg_stat_activity where usename = '{USER}'"
        " and application_name <> 'psql'"
        if isinstance(daemon, Postgres)
        else "select count(*) from information_schema.processlist"
        f" where user = '{USER}' and command = 'Sleep'"
    )
    # It keeps them.  The server shows a little later that one has nothing to do,
    # and that those of before are gone.
    async with asyncio.timeout(60):
        while int(await asyncio.to_thread(daemon.sql, look)) != 4:
            pass


async def test_a_locked_file_is_a_deferral(lite: Sqlite, make: MakeRule) -> None:
    lite.sql(PEOPLE)
    rule = make(lite, timeout=0.3)
    with closing(sqlite3.connect(lite.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert await rule.says("bob@example.test") == "defer"
        other.rollback()
    again = make(lite)
    assert await again.says("bob@example.test") == "accept"


async def test_a_file_that_is_missing_is_a_deferral_and_is_not_made(
    lite: Sqlite, make: MakeRule
) -> None:
    rule = make(lite)
    assert await rule.says("bob@example.test") == "defer"
    assert not lite.path.exists()
    lite.sql(PEOPLE)
    assert await rule.says("bob@example.test") == "accept"
    writing = "INSERT INTO people (address) VALUES (:address) RETURNING 1"
    assert await make(lite, query=writing).says("eve@example.test") == "defer"
    assert await rule.says("eve@example.test") == "reject"


async def test_a_file_that_is_replaced_is_asked_at_once(
    lite: Sqlite, make: MakeRule, tmp_path: Path
) -> None:
    """Without HUP.  SQLite itself would go on with what it has opened."""
    lite.sql(PEOPLE)
    rule = make(lite)
    assert await rule.says("bob@example.test") == "accept"
    new = Sqlite(tmp_path / "new.db")
    new.sql(PEOPLE.replace("bob@", "eve@"))
    new.path.replace(lite.path)
    assert await rule.says("eve@example.test") == "accept"
    assert await rule.says("bob@example.test") == "reject"
    lite.path.rename(new.path)
    assert await rule.says("eve@example.test") == "defer"
    new.path.rename(lite.path)
    assert await rule.says("eve@example.test") == "accept"
    await rule.close()


async def test_questions_after_the_end_are_answered(
    server: Server, make: MakeRule
) -> None:
    rule = make(server)
    assert await rule.says("bob@example.test") == "accept"
    await rule.close()
    assert await rule.says("bob@example.test") == "accept"


class TestSecrets:
    async def test_the_url_in_a_file(
        self, pg: Postgres, make: MakeRule, tmp_path: Path
    ) -> None:
        pg.sql(PEOPLE)
        quoted = "it's%20a%20%22secret%22"
        place = tmp_path / "url"
        place.write_text(url_of(pg).replace(f"{USER}@", f"{USER}:{quoted}@"))
        lite = Sqlite(tmp_path / "unused")  # for no password_file
        rule = make(lite, url=None, url_file=str(place))
        assert await rule.says("bob@example.test") == "accept"
        pg.sql("DROP TABLE people")
        place.write_text(f"nonsense://{quoted}")
        rule = make(lite, url=None, url_file=str(place))
        assert await rule.says("bob@example.test") == "defer"
        assert quoted not in rule.errors[0]

    async def test_a_file_that_cannot_be_read(
        self, pg: Postgres, tmp_path: Path
    ) -> None:
        words = tmp_path / "password"
        rule = AskedRule(
            type="sql", url=url_of(pg), query=QUERY, password_file=str(words)
        )
        assert await rule.says("bob@example.test") == "defer"
        assert rule.errors == [f"{words}: No such file or directory"]
        words.write_bytes(b"\n")
        assert await rule.says("bob@example.test") == "defer"
        assert rule.errors[1] == f"{words}: its first line is empty"

    async def test_a_wrong_password_is_not_told(
        self, daemon: Postgres | MariaDB, tmp_path: Path
    ) -> None:
        words = tmp_path / "password"
        words.write_text("wr0ng-secret")
        rule = AskedRule(
            type="sql", url=url_of(daemon), query=QUERY, password_file=str(words)
        )
        verdict = await rule.verdict("bob@example.test")
        assert verdict is not None
        told = f"{verdict} {[step.note() for step in verdict.trace]} {rule.errors}"
        assert verdict.kind.value == "defer"
        assert "wr0ng-secret" not in told


VPOPMAIL = (
    "CREATE TABLE vpopmail (pw_name char(64), pw_domain char(96), pw_gid int);"
    "INSERT INTO vpopmail VALUES ('bob', 'example.test', 0);"
    "INSERT INTO vpopmail VALUES ('locked', 'example.test', 17);"
    "CREATE TABLE a_b_test (pw_name char(64), pw_gid int);"
    "INSERT INTO a_b_test VALUES ('bob', 0);"
    "CREATE TABLE valias (alias char(32), domain char(96), valias_line text);"
    "INSERT INTO valias VALUES ('sales', 'example.test', '&bob@example.test');"
    "INSERT INTO valias VALUES ('a_-b-default', 'example.test', '&bob@example.test');"
)


class TestReadyMade:
    @pytest.fixture
    def vpopmail(self, server: Server) -> Iterator[Server]:
        server.sql(VPOPMAIL)
        yield server
        server.sql("DROP TABLE vpopmail; DROP TABLE a_b_test; DROP TABLE valias")

    async def test_vpopmail(self, vpopmail: Server, make: MakeRule) -> None:
        rule = make(vpopmail, query=None, ready="vpopmail")
        assert await rule.says("Bob@example.test") == "accept"
        assert await rule.says("locked@example.test") == "reject"
        assert await rule.says("bob@other.test") == "reject"
        for name in (b"bob ", b'bob"', b"b\xc3\xb3b", b"", b"bob\0", b"b%b"):
            assert await rule.says(name + b"@example.test") == "reject"
        valias = make(vpopmail, query=None, ready="vpopmail-valias", missing="pass")
        assert await valias.says("sales@example.test") == "accept"
        assert await valias.says("bob@example.test") == "none"
        for like in ("A_-b-x", "a_-b-", "a_-b-x-y", "a_-b-default"):
            assert await valias.says(like + "@example.test") == "accept", valias.errors
        for unlike in ("a_-b", "a_-bx-y", "ax-b-x", "default"):
            assert await valias.says(unlike + "@example.test") == "none"
        assert await valias.says("a_-b-x@other.test") == "none"
        passing = make(vpopmail, query=None, ready="vpopmail", found="pass")
        assert await passing.says("bob@example.test") == "none"

    async def test_a_table_for_each_domain(
        self, vpopmail: Server, make: MakeRule
    ) -> None:
        rule = make(vpopmail, query=None, ready="vpopmail-domain-tables")
        assert await rule.says("bob@a-b.test") == "accept"
        assert await rule.says("bob@A.b.test") == "accept"
        assert await rule.says("nobody@a.b.test") == "reject"
        assert await rule.says("bob@no.table.test") == "defer"
        for domain in (b"a b.test", b"x;drop table people", b"\xe9.test", b""):
            assert await rule.says(b"bob@" + domain) == "defer"

    async def test_postfixadmin(
        self, daemon: Postgres | MariaDB, make: MakeRule
    ) -> None:
        truth = "boolean" if isinstance(daemon, Postgres) else "tinyint(1)"
        daemon.sql(
            f"CREATE TABLE alias (address varchar(255), goto text, active {truth});"
            "CREATE TABLE alias_domain (alias_domain varchar(255),"
            f" target_domain varchar(255), active {truth});"
            "INSERT INTO alias VALUES ('bob@example.test', 'x', TRUE),"
            " ('off@example.test', 'x', FALSE), ('@all.test', 'x', TRUE);"
            "INSERT INTO alias_domain VALUES ('also.test', 'example.test', TRUE),"
            " ('everything.test', 'all.test', TRUE), ('old.test', 'all.test', FALSE);"
        )
        rule = make(daemon, query=None, ready="postfixadmin")
        for name in ("bob@example", "x@all", "bob@also", "x@everything"):
            assert await rule.says(f"{name}.test") == "accept", rule.errors
        for name in ("off@example", "x@example", "off@also", "x@old"):
            assert await rule.says(f"{name}.test") == "reject"
        daemon.sql("DROP TABLE alias; DROP TABLE alias_domain")


GOOD = {"type": "sql", "url": "sqlite:////mail.db", "query": QUERY}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"url": None}, "neither of url and url_file"),
        ({"url_file": "/x"}, "both of url and url_file"),
        ({"query": None}, "neither of query and ready"),
        ({"ready": "vpopmail"}, "both of query and ready"),
        ({"url": "postgresql://u:s3cret@h/d"}, "url has a password in it"),
        ({"url": "mysql://u@h/d?password=s3cret"}, "url has a password in it"),
        ({"url": "oracle://h/d"}, "not the URL of a database"),
        ({"url": "sqlite://"}, "whole path"),
        ({"query": "SELECT 1 WHERE x = :adress"}, "parameter :adress"),
        ({"query": "SELECT 1 WHERE x = '$address'"}, "asks for nothing"),
        ({"query": "SELECT 1 WHERE x = ':address'"}, "has :address in quotes"),
        ({"query": "SELECT 'a''b :local' WHERE x = :address"}, ":local in quotes"),
        ({"ready": "mine", "query": None}, "Input should be"),
        ({"concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_are_refused(keys: dict[str, object], says: str) -> None:
    told = {k: v for k, v in {**GOOD, **keys}.items() if v is not None}
    with pytest.raises(ValidationError) as raised:
        read_rule(told)
    (error,) = raised.value.errors()
    what = error.get("ctx", {}).get("what", error["msg"])
    assert says in what
    assert "s3cret" not in what


async def test_probe_finds_what_is_wrong(server: Server, make: MakeRule) -> None:
    from proxy.rules.source import SourceDown
    from proxy.rules.sql import Settings, SqlSource, connect

    async def probed(rule: AskedRule) -> str:
        source = rule.rule._source
        assert isinstance(source, SqlSource)
        assert isinstance(source._keys, Settings)
        try:
            await source.probe()
        except SourceDown as error:
            return str(error)
        return ""

    assert connect is not None
    assert await probed(make(server)) == ""
    assert await probed(make(server, domains=["example.test"])) == ""
    assert "nowhere" in await probed(
        make(server, query=QUERY.replace("people", "nowhere"))
    )
    tables = {"query": None, "ready": "vpopmail-domain-tables"}
    assert await probed(make(server, **tables)) == ""
    assert await probed(make(server, domains=["a.test"], **tables)) != ""


@pytest.mark.fault("R7")
def test_wal_without_a_writer(tmp_path: Path) -> None:
    """As docs/rules.md says of SQLite's WAL mode."""
    path = tmp_path / "mail.db"
    file = Sqlite(path)
    file.sql("PRAGMA journal_mode=WAL;" + PEOPLE)
    let_all_enter(tmp_path)
    tmp_path.chmod(0o555)

    def ask() -> str:
        async def once() -> str:
            rule = AskedRule(type="sql", url=f"sqlite:///{path}", query=QUERY)
            says = await rule.says("bob@example.test")
            await rule.close()
            return says

        return asyncio.run(once())

    def as_the_service() -> str:
        return with_the_right_to_read(ask) if os.geteuid() == 0 else ask()

    assert as_the_service() == "defer"
    tmp_path.chmod(0o755)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("SELECT * FROM people").fetchall()
        tmp_path.chmod(0o555)
        assert as_the_service() == "accept"
        tmp_path.chmod(0o755)
    file.sql("PRAGMA journal_mode=DELETE")
    tmp_path.chmod(0o555)
    assert as_the_service() == "accept"
    tmp_path.chmod(0o755)
