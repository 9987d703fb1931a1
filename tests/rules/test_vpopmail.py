"""vpopmail's users in real databases: PostgreSQL and MariaDB with both layouts of
tables, and OpenLDAP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest

from proxy.rules.needs import Needs
from proxy.rules.qmail import QmailRule
from proxy.rules.verdict import Kind, Question, Verdict
from proxy.rules.vpopmail import usable
from tests.support import mariadb, openldap, postgres
from tests.support.daemon import Daemon
from tests.support.files import Files
from tests.support.vpopmail_host import (
    DOMAIN,
    HOME,
    own,
    vpopmail_files,
    vpopmail_host,
)

ACCEPT, REJECT, DEFER = Kind.ACCEPT, Kind.REJECT, Kind.DEFER

# Name and flags; their homes are in vpopmail_files(), but for that of gone.
ACCOUNTS = [("ann", 0), ("sales-dept", 0), ("first.last", 0), ("locked", 16)]
ACCOUNTS += [("gone", 0)]
ALIASES = [("info", "&ann@v.test"), ("dead", "&nobody@v.test")]
ALIASES += [("two", "&nobody@v.test"), ("two", "bob@example.test")]
ALIASES += [("team-default", "&bob@example.test"), ("run", "|exit 100")]
ALIASES += [("box", f"{DOMAIN.decode()}/ann/Maildir/")]


@dataclass
class Site:
    """A host whose users are in ``server``; ``slow`` keeps it from answering."""

    server: Daemon
    files: Files
    kind: str
    slow: Callable[[], Callable[[], None]]
    has_aliases: bool = True

    def rule(self, **settings: object) -> QmailRule:
        keys = {"usable": usable(), "timeout": 5.0, **settings}
        host = vpopmail_host(self.files, **keys)
        return QmailRule(host, needs=Needs(host))


def _fill(server: postgres.Postgres | mariadb.MariaDB, layout: str) -> None:
    columns = (
        "pw_passwd varchar(128), pw_uid int, pw_gid int, pw_gecos varchar(64),"
        " pw_dir varchar(160), pw_shell varchar(20)"
    )
    quote = "`" if isinstance(server, mariadb.MariaDB) else '"'
    many = layout == "many"
    table = "vpopmail" if many else f"{quote}v_test{quote}"
    domain = "pw_domain varchar(96) not null, " if many else ""
    key = "pw_name, pw_domain" if many else "pw_name"
    server.sql(
        f"create table {table} (pw_name varchar(64) not null, {domain}{columns},"
        f" primary key ({key}))"
    )
    for name, flags in ACCOUNTS:
        of_domain = "'v.test', " if many else ""
        home = f"{DOMAIN.decode()}/{name}"
        server.sql(
            f"insert into {table} values ('{name}', {of_domain}'x', 1, {flags}, '',"
            f" '{home}', 'NOQUOTA')"
        )
    if many:  # another domain's users are nobody's here
        server.sql(
            "insert into vpopmail values"
            " ('other', 'w.test', 'x', 1, 0, '', '/nowhere', 'NOQUOTA')"
        )
    server.sql(
        "create table valias (alias varchar(32) not null, domain varchar(96) not null,"
        " valias_line varchar(160) not null)"
    )
    for alias, line in ALIASES:
        server.sql(f"insert into valias values ('{alias}', 'v.test', '{line}')")


def _drop(server: postgres.Postgres | mariadb.MariaDB) -> None:
    server.sql("drop table if exists vpopmail; drop table if exists valias")
    server.sql("drop table if exists v_test")


@pytest.fixture(params=["pg-many", "pg-table", "maria-many", "maria-table", "ldap"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    which, _, layout = request.param.partition("-")
    files = vpopmail_files()
    if which == "ldap":
        yield _directory(request.getfixturevalue("slapd"), files)
        return
    server = request.getfixturevalue(which)
    _fill(server, layout)
    if which == "pg":
        kind, place = "pgsql", f"{server.socket}|5432"
        user, password, name = postgres.USER, postgres.PASSWORD, postgres.NAME
    else:
        kind, place = "mysql", f"localhost|{server.socket}"
        user, password, name = mariadb.USER, mariadb.PASSWORD, mariadb.NAME
    line = f"# settings\n{place}|{user}|{password}|{name}\n"
    own(files, HOME + b"/etc/vpopmail." + kind.encode(), line.encode())

    def slow() -> Callable[[], None]:
        if which == "pg":
            return server.lock("valias")  # type: ignore[no-any-return]
        server.freeze()
        return lambda: server.freeze(frozen=False)

    yield Site(server, files, kind, slow)
    _drop(server)


def _directory(server: openldap.OpenLDAP, files: Files) -> Site:
    base = openldap.SUFFIX
    if not getattr(server, "filled", False):
        entries = [
            f"dn: ou={ou},{base}\nobjectClass: organizationalUnit\nou: {ou}\n"
            for ou in ("v.test", "valias")
        ]
        for name, flags in ACCOUNTS:
            entries.append(
                f"dn: uid={name},ou=v.test,{base}\nobjectClass: qmailUser\n"
                f"uid: {name}\nqmailGID: {flags}\nmailQuota: NOQUOTA\n"
                f"mailMessageStore: {DOMAIN.decode()}/{name}\n"
            )
        for alias in dict.fromkeys(alias for alias, _ in ALIASES):
            lines = "".join(f"di: {line}\n" for name, line in ALIASES if name == alias)
            entries.append(
                f"dn: aa={alias}@v.test,ou=valias,{base}\nobjectClass: valias\n"
                f"aa: {alias}@v.test\n{lines}"
            )
        server.add(*entries)
        server.filled = True  # type: ignore[attr-defined]
    line = f"127.0.0.1|{server.port}|{openldap.USER}|{openldap.PASSWORD}|{base}\n"
    own(files, HOME + b"/etc/vpopmail.ldap", line.encode())

    def slow() -> Callable[[], None]:
        server.freeze()
        return lambda: server.freeze(frozen=False)

    return Site(server, files, "ldap", slow)


@pytest.fixture
async def rule(site: Site) -> AsyncIterator[QmailRule]:
    it = site.rule(qmail_ext=False)
    yield it
    await it.close()


async def asked(rule: QmailRule, name: bytes, domain: bytes = b"v.test") -> Verdict:
    """The verdict; that of the serving way is the same."""
    question = Question(name + b"@" + domain)
    answer = rule.ask(question)
    verdict = answer if isinstance(answer, Verdict) else await answer
    other = rule.ask(question._replace(traced=False))
    if not isinstance(other, Verdict):
        other = await other
    assert (other.kind, other.reply) == (verdict.kind, verdict.reply)
    return verdict


def told(verdict: Verdict) -> str:
    return "\n".join(f"{step.where()}: {step.note()}" for step in verdict.trace)


WHO = [
    (b"ann", ACCEPT),
    (b"ANN", ACCEPT),
    (b"sales-dept", ACCEPT),
    (b"First.Last", ACCEPT),
    (b"gone", ACCEPT),
    (b"info", ACCEPT),
    (b"two", ACCEPT),
    (b"box", ACCEPT),
    (b"team-1", ACCEPT),
    (b"team-1-2", ACCEPT),
    (b"nobody", REJECT),
    (b"ann-x", REJECT),
    (b"locked", REJECT),
    (b"dead", REJECT),
    (b"run", REJECT),
    (b"other", REJECT),
]


async def test_found_and_not_found(rule: QmailRule) -> None:
    for name, kind in WHO:
        for domain in (b"v.test", b"a.test"):
            verdict = await asked(rule, name, domain)
            assert verdict.kind is kind, (name, told(verdict))
            assert not verdict.undecided


HOSTILE = [b"o'brien", b"x'or'1'='1", b"a`b", b"a|b", b"*", b"a*", b"$1", b"a/../b"]
HOSTILE += [b"ann'--", b"{}", b"?", b"ann#", b"a\xe9", b'a"b', b"a%", b"*)(uid=*"]


async def test_a_hostile_key_is_only_a_key(rule: QmailRule) -> None:
    for name in HOSTILE:
        verdict = await asked(rule, name)
        assert verdict.kind is REJECT, (name, told(verdict))
    assert (await asked(rule, b"ann")).kind is ACCEPT


async def test_extensions(site: Site) -> None:
    rule = site.rule(qmail_ext=True)
    for name, kind in [(b"ann-x", ACCEPT), (b"info-x", ACCEPT), (b"eve-x", REJECT)]:
        assert (await asked(rule, name)).kind is kind
    await rule.close()
    rule = site.rule()
    verdict = await asked(rule, b"ann-x")
    assert (verdict.kind, verdict.undecided) == (ACCEPT, True)
    assert (await asked(rule, b"eve-x")).kind is REJECT
    await rule.close()


async def test_explain_names_the_file_and_the_queries(
    site: Site, rule: QmailRule
) -> None:
    text = told(await asked(rule, b"ann"))
    assert f"/home/vpopmail/etc/vpopmail.{site.kind}" in text
    assert "ann" in text
    assert "secret" not in text
    assert ("pw_name in (ann)" if site.kind != "ldap" else "uid in (ann)") in text
    assert "valias" in text


async def test_a_database_that_is_down_is_a_deferral(
    site: Site, rule: QmailRule
) -> None:
    assert (await asked(rule, b"nobody")).kind is REJECT
    site.server.stop()
    try:
        for name in (b"ann", b"nobody", b"info"):
            verdict = await asked(rule, name)
            assert verdict.kind is DEFER, told(verdict)
            assert "secret" not in verdict.reason + told(verdict)
    finally:
        site.server.start()  # type: ignore[attr-defined]
    assert (await asked(rule, b"nobody")).kind is REJECT
    assert (await asked(rule, b"ann")).kind is ACCEPT


async def test_a_restart_costs_nobody_anything(site: Site, rule: QmailRule) -> None:
    assert (await asked(rule, b"ann")).kind is ACCEPT
    site.server.stop()
    site.server.start()  # type: ignore[attr-defined]
    for name, kind in WHO:
        assert (await asked(rule, name)).kind is kind


async def test_a_silent_database_is_a_deferral_and_holds_nobody_up(site: Site) -> None:
    rule = site.rule(timeout=0.4, connections=2)
    assert await in_time(rule, b"ann") is ACCEPT
    go_on = site.slow()
    try:
        waiting = [asyncio.create_task(asked(rule, b"nobody")) for _ in range(8)]
        # What files alone tell is told meanwhile.
        answer = rule.ask(Question(b"alice@example.test"))
        assert isinstance(answer, Verdict)
        # And none of them waits until it is not silent any more.
        async with asyncio.timeout(60):
            for verdict in await asyncio.gather(*waiting):
                assert verdict.kind is DEFER
    finally:
        go_on()
    assert await in_time(rule, b"nobody") is REJECT
    await rule.close()


async def in_time(rule: QmailRule, name: bytes) -> Kind:
    """What is said of it when the server is quick enough, as a busy one may not be."""
    async with asyncio.timeout(60):
        while True:
            # Not asked(): while it gets quicker, two answers may differ.
            answer = rule.ask(Question(name + b"@v.test"))
            verdict = answer if isinstance(answer, Verdict) else await answer
            if verdict.kind is not DEFER:
                return verdict.kind


async def test_stopping_and_starting_under_load_refuses_nobody(
    site: Site, rule: QmailRule
) -> None:
    """Only 250, 550 and 451, and the 550 are all true."""
    going = True
    seen: set[Kind] = set()

    async def load(name: bytes, allowed: set[Kind]) -> None:
        while going:
            answer = rule.ask(Question(name + b"@v.test", traced=False))
            verdict = answer if isinstance(answer, Verdict) else await answer
            assert verdict.kind in allowed
            seen.add(verdict.kind)

    clients = [
        asyncio.create_task(load(name, {kind, DEFER}))
        for name, kind in WHO
        for _ in "ab"
    ]
    for _ in range(2):
        await asyncio.to_thread(site.server.stop)
        async with asyncio.timeout(60):
            while DEFER not in seen:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(site.server.start)  # type: ignore[attr-defined]
        seen.clear()
        async with asyncio.timeout(60):
            while not {ACCEPT, REJECT} <= seen:
                await asyncio.sleep(0.01)
    going = False
    await asyncio.gather(*clients)


async def test_what_is_heard_of_it(site: Site) -> None:
    heard: list[str] = []
    failed: list[str] = []
    host = vpopmail_host(site.files, usable=usable(), qmail_ext=False)
    needs = Needs(
        host,
        b"/",
        lambda name, answer, _: heard.append(f"{name} {answer}"),
        lambda name, error: failed.append(f"{name}: {error}"),
    )
    rule = QmailRule(host, needs=needs)
    await asked(rule, b"ann")
    await asked(rule, b"nobody")
    assert heard == ["vpopmail found"] * 2 + ["vpopmail missing"] * 2
    assert not failed
    site.server.stop()
    try:
        await asked(rule, b"nobody")
    finally:
        site.server.start()  # type: ignore[attr-defined]
    assert heard[4:] == ["vpopmail error"] * 2
    assert len(failed) == 2
    assert "secret" not in failed[0]
    await rule.close()


class TestLayouts:
    """Which tables there are, where the build does not tell."""

    async def test_without_aliases(self, pg: postgres.Postgres) -> None:
        _fill(pg, "many")
        pg.sql("drop table valias")
        try:
            rule = _pg_site(pg).rule(qmail_ext=False)
            assert (await asked(rule, b"ann")).kind is ACCEPT
            assert (await asked(rule, b"info")).kind is REJECT
            await rule.close()
        finally:
            _drop(pg)

    async def test_no_table_at_all_is_a_deferral(self, pg: postgres.Postgres) -> None:
        rule = _pg_site(pg).rule()
        assert (await asked(rule, b"ann")).kind is DEFER
        await rule.close()

    async def test_the_layout_that_is_set_is_not_guessed_at(
        self, pg: postgres.Postgres
    ) -> None:
        _fill(pg, "table")
        try:
            rule = _pg_site(pg).rule(layout="many-domains")
            assert (await asked(rule, b"ann")).kind is DEFER
            await rule.close()
            rule = _pg_site(pg).rule(layout="table-per-domain")
            assert (await asked(rule, b"ann")).kind is ACCEPT
            await rule.close()
        finally:
            _drop(pg)

    async def test_a_file_without_a_connection_is_a_deferral(
        self, pg: postgres.Postgres
    ) -> None:
        site = _pg_site(pg)
        own(site.files, HOME + b"/etc/vpopmail.pgsql", b"# nothing yet\n")
        rule = site.rule()
        assert (await asked(rule, b"ann")).kind is DEFER
        await rule.close()

    async def test_a_forward_into_the_domain_is_followed(
        self, pg: postgres.Postgres
    ) -> None:
        _fill(pg, "many")
        try:
            site = _pg_site(pg)
            for name, to in ((b"bob", b"ann"), (b"alice", b"nobody")):
                path = b"/home/" + name + b"/.qmail"
                site.files.file(path, b"&" + to + b"@v.test\n", uid=1001)
            rule = site.rule(qmail_ext=False)
            assert (await asked(rule, b"bob", b"example.test")).kind is ACCEPT
            assert (await asked(rule, b"alice", b"example.test")).kind is REJECT
            await rule.close()
        finally:
            _drop(pg)


def _pg_site(server: postgres.Postgres) -> Site:
    files = vpopmail_files()
    line = f"{server.socket}|5432|{postgres.USER}|{postgres.PASSWORD}|{postgres.NAME}\n"
    own(files, HOME + b"/etc/vpopmail.pgsql", line.encode())
    return Site(server, files, "pgsql", lambda: lambda: None)
