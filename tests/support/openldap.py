"""An OpenLDAP of its own, on a free port, with its files in a temporary directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.daemon import Daemon, client, wanted
from tests.support.ports import own_port

SUFFIX = "o=vpopmail"
USER, PASSWORD = f"cn=reader,{SUFFIX}", 'it\'s a "secret"'

_SCHEMAS = ("/etc/ldap/schema", "/etc/openldap/schema")
_MODULES = ("/usr/lib/ldap", "/usr/lib64/openldap", "/usr/libexec/openldap")


class OpenLDAP(Daemon):
    """A running slapd that holds :data:`SUFFIX`; only :data:`USER` may look.

    ``schema`` are lines of slapd.conf(5) with attributes and classes beyond
    those of core and cosine.  With ``encrypts`` it knows StartTLS, and :attr:`ldaps`
    is another place where it listens."""

    name = "ldap"

    def __init__(self, schema: str = "", *, encrypts: bool = False) -> None:
        self._server = wanted("slapd")
        self._add = wanted("ldapadd")
        super().__init__()
        self.port = own_port()
        self.ldaps = f"ldaps://127.0.0.1:{own_port()}" if encrypts else ""
        (self.directory / "data").mkdir()
        found = next(place for place in _SCHEMAS if os.path.isdir(place))
        lines = [f"include {found}/{name}.schema" for name in ("core", "cosine")]
        lines.append(schema)
        if encrypts:
            certificate, key, authority = self.certificates()
            lines += [f"TLSCertificateFile {certificate}"]
            lines += [
                f"TLSCertificateKeyFile {key}",
                f"TLSCACertificateFile {authority}",
            ]
        modules = next((m for m in _MODULES if os.path.isdir(m)), None)
        if modules is not None:
            lines += [f"modulepath {modules}", "moduleload back_mdb"]
        quoted = PASSWORD.replace('"', '\\"')
        lines += [
            "disallow bind_anon",
            "database mdb",
            f'suffix "{SUFFIX}"',
            f'rootdn "{USER}"',
            f'rootpw "{quoted}"',
            f"directory {self.directory / 'data'}",
            "dbnosync",
            "access to * by * none",
        ]
        (self.directory / "slapd.conf").write_text("\n".join(lines) + "\n")
        self.start()
        self.add(f"dn: {SUFFIX}\nobjectClass: organization\no: vpopmail\n")

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"ldap://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, at first or again, on the same port."""
        configuration = str(self.directory / "slapd.conf")
        command = [self._server, "-f", configuration, "-d", "0"]
        command += ["-h", f"{self.uri} {self.ldaps}".strip()]
        self.run(command, self._listens)

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def add(self, *entries: str) -> None:
        """Add entries in LDIF."""
        words = self.directory / "words"
        words.write_text(PASSWORD)
        command: Sequence[str] = [self._add, "-x", "-H", self.uri]
        command = [*command, "-D", USER, "-y", str(words)]
        client(command, "\n".join(entries))


@contextmanager
def openldap(schema: str = "", *, encrypts: bool = False) -> Iterator[OpenLDAP]:
    """A server, for as long as it is wanted."""
    server = OpenLDAP(schema, encrypts=encrypts)
    try:
        yield server
    finally:
        server.remove()
