"""A MariaDB of its own, on a unix socket in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.daemon import Daemon, answers, client, wanted

USER, PASSWORD, NAME = "vpopmail", 'it\'s a "secret"', "vpopmail"


class MariaDB(Daemon):
    """A running server with one user and one database, both :data:`NAME`."""

    name = "my"

    def __init__(self) -> None:
        install = wanted("mariadb-install-db")
        self._server = wanted("mariadbd")
        self._client = wanted("mariadb")
        self._admin = wanted("mariadb-admin")
        super().__init__("mysql")
        # A server that starts removes what it finds of temporary tables, other
        # servers' too: in /tmp, as by default, two would spoil each other's.
        self._tmpdir = f"--tmpdir={self.directory}"
        self.prepare(
            install,
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            self._tmpdir,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=5M",
        )
        self.start()
        quoted = PASSWORD.replace("'", "''")
        self.sql(
            f"CREATE DATABASE {NAME};"
            f"CREATE USER {USER}@localhost IDENTIFIED BY '{quoted}';"
            f"GRANT ALL ON {NAME}.* TO {USER}@localhost;",
            "mysql",
            "root",
        )

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return str(self.directory / "sock")

    def start(self) -> None:
        """Start it, at first or again."""
        command = [self._server, "--no-defaults", "--skip-networking", self._tmpdir]
        command += [f"--datadir={self.directory / 'data'}", f"--socket={self.socket}"]
        command += [f"--pid-file={self.directory / 'pid'}", "--innodb-log-file-size=5M"]
        command += ["--innodb-flush-log-at-trx-commit=0", "--max-connections=30"]
        ready = [self._admin, "--no-defaults", f"--socket={self.socket}", "ping"]
        self.run(command, lambda: answers(ready))

    def sql(self, text: str, database: str = NAME, user: str = USER) -> str:
        """What the client says to ``text``."""
        command = [self._client, "--no-defaults", f"--socket={self.socket}"]
        command += ["-N", "-B", f"--user={user}", database]
        return client(command, text, secret=PASSWORD if user == USER else "")


@contextmanager
def mariadb() -> Iterator[MariaDB]:
    """A server, for as long as it is wanted."""
    server = MariaDB()
    try:
        yield server
    finally:
        server.remove()
