"""A PostgreSQL of its own, on a unix socket in a temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.daemon import PATIENCE, Daemon, answers, client, wanted
from tests.support.ports import own_port

USER, PASSWORD, NAME = "vpopmail", 'it\'s a "secret"', "vpopmail"
STRICT = "strict"

# Where Debian keeps the server's programs.
PLACES = [f"/usr/lib/postgresql/{number}/bin" for number in range(20, 12, -1)]


class Postgres(Daemon):
    """A running server with one user and one database, both :data:`NAME`.

    With ``network`` it listens on a port of 127.0.0.1, too, with TLS while
    ``encrypts`` is set; its user :data:`STRICT` has to show a certificate."""

    name = "pg"

    def __init__(self, *, network: bool = False) -> None:
        self.port = own_port() if network else 0
        self.encrypts = network
        programs = ["initdb", "postgres", "pg_isready", "psql"]
        self._programs = {each: wanted(each, *PLACES) for each in programs}
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
        if network:
            self._certificates = self.certificates()
            rules = data / "pg_hba.conf"
            strict = f"hostssl all {STRICT} all scram-sha-256 clientcert=verify-ca\n"
            rules.write_text(strict + rules.read_text())
        self.start()
        quoted = PASSWORD.replace("'", "''")
        for user in (USER, STRICT):
            self.sql(f"CREATE USER {user} PASSWORD '{quoted}'", "postgres", "postgres")
        self.sql(f"CREATE DATABASE {NAME} OWNER {USER}", "postgres", "postgres")

    @property
    def socket(self) -> str:
        """The directory of the socket, which stands for the host."""
        return str(self.directory)

    def start(self) -> None:
        """Start it, at first or again."""
        command = [self._programs["postgres"], "-D", str(self.directory / "data")]
        command += ["-k", self.socket, "-c", "fsync=off"]
        ready = [self._programs["pg_isready"], "-q", "-h", self.socket]
        if self.port:
            command += ["-c", "listen_addresses=127.0.0.1", "-p", str(self.port)]
            ready += ["-p", str(self.port)]
        else:
            command += ["-c", "listen_addresses="]
        if self.encrypts:
            names = ("ssl_cert_file", "ssl_key_file", "ssl_ca_file")
            for name, path in zip(names, self._certificates, strict=True):
                command += ["-c", f"{name}={path}"]
            command += ["-c", "ssl=on"]
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
        command += ["-p", str(self.port)] if self.port else []
        return [*command, "-h", self.socket, "-U", user, "-d", database]


@contextmanager
def postgres(*, network: bool = False) -> Iterator[Postgres]:
    """A server, for as long as it is wanted."""
    server = Postgres(network=network)
    try:
        yield server
    finally:
        server.remove()
