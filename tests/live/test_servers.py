"""Databases, directories and services behind ``serve``, stopped and started under
load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.live.process import Served, Settings, serving
from tests.support.mariadb import MariaDB, mariadb
from tests.support.openldap import PASSWORD, SUFFIX, USER, OpenLDAP, openldap
from tests.support.ports import own_port
from tests.support.postgres import Postgres, postgres
from tests.support.services import MAKE, served
from tests.support.smtp_client import RawClient

CLIENTS = 4
KNOWN, UNKNOWN = b"bob@example.test", b"nobody@example.test"

TABLE = (
    "CREATE TABLE people (address varchar(64) PRIMARY KEY);"
    "INSERT INTO people VALUES ('bob@example.test');"
)
QUERY = "SELECT 1 FROM people WHERE address = :address"

Server = Postgres | MariaDB | OpenLDAP


def a_postgres() -> Iterator[tuple[Server, dict[str, Any]]]:
    pytest.importorskip("asyncpg")
    with postgres() as server:
        server.sql(TABLE)
        url = f"postgresql://vpopmail@/vpopmail?host={server.socket}"
        yield server, {"type": "sql", "url": url, "query": QUERY}


def a_mariadb() -> Iterator[tuple[Server, dict[str, Any]]]:
    pytest.importorskip("asyncmy")
    with mariadb() as server:
        server.sql(TABLE)
        url = f"mysql://vpopmail@localhost/vpopmail?unix_socket={server.socket}"
        yield server, {"type": "sql", "url": url, "query": QUERY}


def an_openldap() -> Iterator[tuple[Server, dict[str, Any]]]:
    pytest.importorskip("ldap")
    with openldap() as server:
        server.add(
            f"dn: uid=bob,{SUFFIX}\nobjectClass: account\n"
            "objectClass: simpleSecurityObject\nuserPassword: x\nuid: bob\n"
            "description: bob@example.test\n"
        )
        keys = {"base": SUFFIX, "bind_dn": USER, "filter": "(description={address})"}
        yield server, {"type": "ldap", "url": server.uri, **keys}


@pytest.fixture(params=[a_postgres, a_mariadb, an_openldap])
def server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server, and the rule that asks it."""
    make: Callable[[], Iterator[tuple[Server, dict[str, Any]]]] = request.param
    words = tmp_path / "password"
    words.write_text(PASSWORD)
    for it, keys in make():
        yield it, {**keys, "password_file": str(words), "timeout": 5}


PATIENT: Settings = {
    "limits.harvest_defence": False,
    "limits.unknown_per_session": 0,
    "limits.errors_per_session": 0,
    "limits.commands_per_session": 0,
}


async def stopped_and_started(
    tmp_path: Path,
    settings: Settings,
    rule: dict[str, Any],
    stop: Callable[[], Awaitable[None]],
    start: Callable[[], Awaitable[None]],
    refused: int = 550,
) -> str:
    """Nobody hears anything but 250, 550 and 451, and every 550 is true; the log.
    ``refused``: what the server itself says instead of 550."""
    env = {"BACKSTOP_RULES": json.dumps([rule])}
    async with serving(tmp_path, {**settings, **PATIENT}, env) as served:
        load = Load(served)
        clients = [asyncio.ensure_future(load.client()) for _ in range(CLIENTS)]
        for _ in range(2):
            await load.until(250, refused)
            await stop()
            await load.until(451, 451)
            await start()
        await load.until(250, refused)
        load.over = True
        await asyncio.gather(*clients)
        assert load.heard == {KNOWN: {250, 451}, UNKNOWN: {refused, 451}}
    return served.log


class Load:
    """Clients that ask for both recipients in turn, and what they hear."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.heard: dict[bytes, set[int]] = {KNOWN: set(), UNKNOWN: set()}
        self.last: dict[bytes, int] = {}
        self.over = False

    async def client(self) -> None:
        async with await RawClient.connect(self.served.port) as client:
            assert await client.code() == 220
            while not self.over:
                assert (await client.command(b"MAIL FROM:<me@there.test>"))[
                    :3
                ] == b"250"
                for recipient in (KNOWN, UNKNOWN):
                    reply = await client.command(b"RCPT TO:<%s>" % recipient)
                    self.heard[recipient].add(int(reply[:3]))
                    self.last[recipient] = int(reply[:3])
                assert (await client.command(b"RSET"))[:3] == b"250"

    async def until(self, known: int, unknown: int) -> None:
        """Wait until somebody hears these."""
        wanted = {KNOWN: known, UNKNOWN: unknown}
        async with asyncio.timeout(60):
            while self.last != wanted:
                await asyncio.sleep(0.01)


async def test_stopped_and_started_under_load(
    tmp_path: Path, settings: Settings, server: tuple[Server, dict[str, Any]]
) -> None:
    it, rule = server

    async def stop() -> None:
        await asyncio.to_thread(it.stop)

    async def start() -> None:
        await asyncio.to_thread(it.start)

    log = await stopped_and_started(tmp_path, settings, rule, stop, start)
    assert PASSWORD not in log


@pytest.mark.parametrize("kind", sorted(MAKE))
async def test_a_service_is_stopped_and_started_under_load(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    async with served(kind, MAKE[kind]([KNOWN])) as it:
        rule = {"type": kind, "address": f"127.0.0.1:{it.port}", "timeout": 5}
        if kind == "socketmap":
            rule["map"] = "users"
        refused = 554 if kind == "policy" else 550  # Postfix's, of REJECT
        args = settings, rule, it.stop, it.start, refused
        await stopped_and_started(tmp_path, *args)


@pytest.mark.parametrize("kind", ["http", "deliverabled"])
async def test_a_site_is_stopped_and_started_under_load(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    port = own_port()
    runner: web.ServerRunner | None = None

    async def answer(request: web.BaseRequest) -> web.Response:
        knows = "bob" in request.query_string
        if kind == "http":
            return web.Response(status=200 if knows else 404)
        return web.Response(text="241" if knows else "0")

    async def start() -> None:
        nonlocal runner
        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    async def stop() -> None:
        assert runner is not None
        await runner.cleanup()

    await start()
    rule = {"type": kind, "url": f"http://127.0.0.1:{port}", "timeout": 5}
    try:
        await stopped_and_started(tmp_path, settings, rule, stop, start)
    finally:
        await stop()


async def test_others_do_not_wait_for_a_slow_database(
    tmp_path: Path, settings: Settings
) -> None:
    """While one session waits, as long as the test likes, another is served."""
    pytest.importorskip("asyncpg")
    words = tmp_path / "password"
    words.write_text(PASSWORD)
    with postgres() as server:
        rule = {
            "type": "sql",
            "url": f"postgresql://vpopmail@/vpopmail?host={server.socket}",
            "password_file": str(words),
            "query": "SELECT 1 WHERE CASE WHEN :local = 'slow' THEN"
            " pg_sleep(60) IS NOT NULL ELSE TRUE END",
            "timeout": 60,
        }
        env = {"BACKSTOP_RULES": json.dumps([rule])}
        async with (
            serving(tmp_path, settings, env) as served,
            await RawClient.connect(served.port) as slow,
            await RawClient.connect(served.port) as quick,
        ):
            await slow.reply()
            await quick.reply()
            await slow.command(b"MAIL FROM:<>")
            asked = asyncio.ensure_future(slow.command(b"RCPT TO:<slow@example.test>"))
            look = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            async with asyncio.timeout(60):
                while await asyncio.to_thread(server.sql, look) != "1\n":
                    pass
            got = await quick.deliver(b"", [b"alice@example.test"], b"x\r\n")
            assert got == [250, 250, 354, 250]
            assert not asked.done()
            await asyncio.to_thread(server.stop)
            assert (await asked)[:3] == b"451"
