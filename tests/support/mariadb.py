"""A MariaDB of its own, on a unix socket in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.daemon import Daemon, answers, client, wanted
from tests.support.ports import own_port

USER, PASSWORD, NAME = "vpopmail", 'it\'s a "secret"', "vpopmail"
STRICT = "strict"


class MariaDB(Daemon):
    """A running server with one user and one database, both :data:`NAME`.

    With ``network`` it listens on a port of 127.0.0.1, too, with TLS while
    ``encrypts`` is set; its user :data:`STRICT` has to show a certificate."""

    name = "my"

    def __init__(self, *, network: bool = False) -> None:
        self.port = own_port() if network else 0
        self.encrypts = network
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
        if network:
            self._certificates = self.certificates()
        self.start()
        quoted = PASSWORD.replace("'", "''")
        self.sql(
            f"CREATE DATABASE {NAME};"
            f"CREATE USER {USER}@localhost IDENTIFIED BY '{quoted}';"
            f"GRANT ALL ON {NAME}.* TO {USER}@localhost;",
            "mysql",
            "root",
        )
        for user, wants in ((USER, ""), (STRICT, "REQUIRE X509")) if network else ():
            self.sql(
                f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{quoted}' {wants};"
                f"GRANT ALL ON {NAME}.* TO {user}@'127.0.0.1';",
                "mysql",
                "root",
            )

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return str(self.directory / "sock")

    def start(self) -> None:
        """Start it, at first or again."""
        command = [self._server, "--no-defaults", self._tmpdir]
        if self.port:
            command += ["--bind-address=127.0.0.1", f"--port={self.port}"]
            command += ["--skip-name-resolve"]
        else:
            command += ["--skip-networking"]
        if self.encrypts:
            names = ("--ssl-cert", "--ssl-key", "--ssl-ca")
            for name, path in zip(names, self._certificates, strict=True):
                command.append(f"{name}={path}")
        else:
            command.append("--skip-ssl")
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
def mariadb(*, network: bool = False) -> Iterator[MariaDB]:
    """A server, for as long as it is wanted."""
    server = MariaDB(network=network)
    try:
        yield server
    finally:
        server.remove()
