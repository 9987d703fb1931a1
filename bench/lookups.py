"""What the rule ``sql`` adds to a round trip: ``python -m bench.lookups``.

Starts a PostgreSQL (Debian: ``postgresql``; run by the tests' own helper), asks it
the same question by the bare driver and by the rule, one at a time and ten at a
time, interleaved in rounds, and prints p50, p99 and the processor time of this
side, which says more where the machine is not quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from proxy.config.rules import read_rule, rule_module
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context
from proxy.rules.verdict import Question, Verdict
from tests.support.files import Files
from tests.support.postgres import NAME, PASSWORD, USER, Postgres, postgres

PEOPLE = 10_000
ROUNDS = 5

Ask = Callable[[str], Awaitable[None]]


async def _took(ask: Ask, names: list[str], at_once: int) -> list[float]:
    """Seconds of each question."""
    times: list[float] = []
    waiting = iter(names)

    async def client() -> None:
        for name in waiting:
            began = time.perf_counter()
            await ask(name)
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return times


async def _compare(server: Postgres, words: Path, lookups: int) -> None:
    text = "SELECT 1 FROM people WHERE address = {}"
    keys = {
        "type": "sql",
        "url": f"postgresql://{USER}@/{NAME}?host={server.socket}",
        "password_file": str(words),
        "query": text.format(":address"),
    }
    settings = read_rule(keys)
    rule = rule_module("sql").build(settings, Context("sql", QmailHost(Files())))
    pool = await asyncpg.create_pool(
        user=USER, password=PASSWORD, database=NAME, host=server.socket, max_size=10
    )

    async def bare(name: str) -> None:
        async with pool.acquire() as connection:
            await connection.fetch(text.format("$1"), name)

    # Without the pool's own reset between two users: the round trip and no more.
    alone: asyncpg.Connection = await asyncpg.connect(
        user=USER, password=PASSWORD, database=NAME, host=server.socket
    )
    statement = await alone.prepare(text.format("$1"))

    async def trip(name: str) -> None:
        await statement.fetch(name)

    async def asked(name: str) -> None:
        address = name.encode()
        answer = rule.ask(Question(address, mailbox=address, traced=False))
        verdict = await answer if inspect.isawaitable(answer) else answer
        assert isinstance(verdict, Verdict)

    ways: dict[tuple[str, int], Ask] = {
        ("round trip, prepared statement", 1): trip,
        ("asyncpg's pool", 1): bare,
        ("rule sql", 1): asked,
        ("asyncpg's pool", 10): bare,
        ("rule sql", 10): asked,
    }
    times: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    worked = dict.fromkeys(ways, 0.0)
    for each in range(ROUNDS + 1):
        for (what, at_once), ask in ways.items():
            names = [
                f"u{random.randrange(2 * PEOPLE)}@example.test"
                for _ in range(lookups // ROUNDS)
            ]
            before = time.process_time()
            took = await _took(ask, names, at_once)
            if each:  # the first one warms up
                times[what, at_once] += took
                worked[what, at_once] += time.process_time() - before
    for (what, at_once), took in times.items():
        took.sort()
        work = worked[what, at_once] / len(took) * 1e6
        p50, p99 = (took[int(len(took) * share)] * 1e6 for share in (0.5, 0.99))
        print(
            f"{what}, {at_once} at a time: {len(took)} lookups,"
            f" p50 {p50:.0f} us, p99 {p99:.0f} us, work {work:.0f} us"
        )
    await rule.close()
    await alone.close()
    await pool.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lookups", type=int, default=10_000)
    arguments = parser.parse_args()
    with postgres() as server, TemporaryDirectory() as directory:
        words = Path(directory) / "password"
        words.write_text(PASSWORD)
        server.sql(
            "CREATE TABLE people (address text PRIMARY KEY); INSERT INTO people"
            f" SELECT 'u' || n || '@example.test' FROM generate_series(1, {PEOPLE}) n;"
        )
        server.sql("ANALYZE people")
        try:
            import uvloop

            uvloop.run(_compare(server, words, arguments.lookups))
        except ImportError:
            asyncio.run(_compare(server, words, arguments.lookups))


if __name__ == "__main__":
    main()
