"""PgBouncer before a PostgreSQL, on a unix socket of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.daemon import Daemon, answers, wanted
from tests.support.postgres import NAME, PASSWORD, USER, Postgres

PORT = 6432  # a part of the socket's name, and nothing else


class PgBouncer(Daemon):
    """Which takes everybody for :data:`USER`, and gives out the same three connections
    to the server in turn, but in mode session."""

    name = "pgbouncer"

    def __init__(self, server: Postgres, mode: str) -> None:
        program = wanted("pgbouncer")
        ready = wanted(
            "pg_isready", *[f"/usr/lib/postgresql/{n}/bin" for n in range(20)]
        )
        super().__init__("postgres")
        password = PASSWORD.replace("'", "''")
        settings = self.directory / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"{NAME} = host={server.socket} user={USER} password='{password}'\n"
            "[pgbouncer]\n"
            f"unix_socket_dir = {self.directory}\n"
            f"listen_port = {PORT}\n"
            "auth_type = any\n"
            f"pool_mode = {mode}\n"
            f"default_pool_size = {20 if mode == 'session' else 3}\n"
            "min_pool_size = 3\n"
            "server_round_robin = 1\n"
        )
        command = [ready, "-q", "-h", str(self.directory), "-p", str(PORT)]
        self.run([program, str(settings)], lambda: answers(command))

    @property
    def socket(self) -> str:
        """The directory of the socket, which stands for the host."""
        return str(self.directory)


@contextmanager
def pgbouncer(server: Postgres, mode: str) -> Iterator[PgBouncer]:
    """One, for as long as it is wanted."""
    it = PgBouncer(server, mode)
    try:
        yield it
    finally:
        it.remove()
