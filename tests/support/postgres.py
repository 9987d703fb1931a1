"""A PostgreSQL of its own, on a unix socket in a temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.daemon import PATIENCE, Daemon, answers, client, wanted

USER, PASSWORD, NAME = "vpopmail", 'it\'s a "secret"', "vpopmail"

# Where Debian keeps the server's programs.
_PLACES = [f"/usr/lib/postgresql/{number}/bin" for number in range(20, 12, -1)]


class Postgres(Daemon):
    """A running server with one user and one database, both :data:`NAME`."""

    name = "pg"

    def __init__(self) -> None:
        programs = ["initdb", "postgres", "pg_isready", "psql"]
        self._programs = {each: wanted(each, *_PLACES) for each in programs}
        super().__init__("postgres")
        data = self.directory / "data"
        words = self.directory / "words"
        words.write_text(PASSWORD + "\n")
        self.prepare(
            self._programs["initdb"],
            f"--pgdata={data}",
            "--username=postgres",
            f"--pwfile={words}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        self.start()
        quoted = PASSWORD.replace("'", "''")
        self.sql(f"CREATE USER {USER} PASSWORD '{quoted}'", "postgres", "postgres")
        self.sql(f"CREATE DATABASE {NAME} OWNER {USER}", "postgres", "postgres")

    @property
    def socket(self) -> str:
        """The directory of the socket, which stands for the host."""
        return str(self.directory)

    def start(self) -> None:
        """Start it, at first or again."""
        command = [self._programs["postgres"], "-D", str(self.directory / "data")]
        command += ["-k", self.socket, "-c", "listen_addresses=", "-c", "fsync=off"]
        ready = [self._programs["pg_isready"], "-q", "-h", self.socket]
        self.run(command, lambda: answers(ready))

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it at once, and all its connections."""
        super().stop(number)

    def sql(self, text: str, database: str = NAME, user: str = USER) -> str:
        """What psql says to ``text``."""
        return client(self._psql(user, database), text, secret=PASSWORD)

    def lock(self, table: str) -> Callable[[], None]:
        """Keep everybody who reads ``table`` waiting, until the answer is called.

        (Each connection has a process of its own: to freeze the server would not
        keep those from answering.)"""
        psql = subprocess.Popen(
            self._psql(USER, NAME),
            env={**os.environ, "PGPASSWORD": PASSWORD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert psql.stdin is not None
        assert psql.stdout is not None
        psql.stdin.write(f"begin; lock table {table}; select 'locked';\n".encode())
        psql.stdin.flush()
        assert psql.stdout.readline() == b"locked\n"

        def release() -> None:
            psql.communicate(timeout=PATIENCE)

        return release

    def _psql(self, user: str, database: str) -> list[str]:
        command = [self._programs["psql"], "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"]
        return [*command, "-h", self.socket, "-U", user, "-d", database]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server, for as long as it is wanted."""
    server = Postgres()
    try:
        yield server
    finally:
        server.remove()
