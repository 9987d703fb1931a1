"""The rule ``sql`` through TLS, to real servers: whom it believes, whom it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from pydantic import ValidationError

pytest.importorskip("sqlalchemy")

from proxy.config.rules import read_rule
from tests.support.asked import AskedRule
from tests.support.certificates import issued, write, write_authority
from tests.support.mariadb import MariaDB, mariadb
from tests.support.postgres import NAME, PASSWORD, STRICT, USER, Postgres, postgres

Server = Postgres | MariaDB
MakeRule = Callable[..., AskedRule]


@pytest.fixture(scope="module", params=["pg", "maria"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with (postgres if request.param == "pg" else mariadb)(network=True) as it:
        yield it


def encrypted(server: Server) -> str:
    """A row for those whose connection is."""
    if isinstance(server, Postgres):
        look = "pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl"
    else:
        look = (
            "information_schema.session_status"
            " WHERE variable_name = 'Ssl_cipher' AND variable_value <> ''"
        )
    return f"SELECT 1 FROM {look} AND :address <> ''"


@pytest.fixture
async def make(server: Server, tmp_path: Path) -> AsyncIterator[MakeRule]:
    """Makes rules for the server; :data:`PASSWORD` is its users'."""
    words = tmp_path / "password"
    words.write_text(PASSWORD + "\n")
    kind = "postgresql" if isinstance(server, Postgres) else "mysql"
    made: list[AskedRule] = []

    def rule(user: str = USER, host: str = "127.0.0.1", **keys: object) -> AskedRule:
        url = f"{kind}://{user}@{host}:{server.port}/{NAME}"
        told = {"type": "sql", "url": url, "password_file": str(words)}
        made.append(AskedRule(**{**told, "query": encrypted(server), **keys}))
        return made[-1]

    yield rule
    for each in made:
        await each.close()


async def test_encrypted_or_not(make: MakeRule) -> None:
    assert await make(tls="none").says("bob@example.test") == "reject"
    assert await make(tls="require").says("bob@example.test") == "accept"


async def test_the_right_authority(make: MakeRule, tmp_path: Path) -> None:
    rule = make(tls="verify", tls_ca=write_authority(tmp_path))
    assert await rule.says("bob@example.test") == "accept"


async def test_another_authority_is_a_deferral(make: MakeRule, tmp_path: Path) -> None:
    for keys in ({"tls_ca": write_authority(tmp_path, trustme.CA())}, {}):
        rule = make(tls="verify", **keys)
        assert await rule.says("bob@example.test") == "defer"
        assert "certificate verify failed" in rule.errors[0].lower()


async def test_another_name_is_a_deferral(make: MakeRule, tmp_path: Path) -> None:
    rule = make(host="localhost", tls="verify", tls_ca=write_authority(tmp_path))
    assert await rule.says("bob@example.test") == "defer"
    assert "localhost" in rule.errors[0]


@pytest.fixture
def plain(server: Server) -> Iterator[Server]:
    """The server, which speaks no TLS for a while."""
    server.stop()
    server.encrypts = False
    server.start()
    yield server
    server.stop()
    server.encrypts = True
    server.start()


async def test_a_server_without_tls_is_never_asked_in_the_clear(
    plain: Server, make: MakeRule, tmp_path: Path
) -> None:
    assert await make(tls="none").says("bob@example.test") == "reject"
    for keys in ({"tls": "require"}, {"tls": "verify"}):
        rule = make(**keys)
        assert await rule.says("bob@example.test") == "defer"
        assert rule.answers == ["error"]


async def test_a_certificate_of_our_own(make: MakeRule, tmp_path: Path) -> None:
    assert await make(STRICT, tls="require").says("bob@example.test") == "defer"
    certificate, key = write(tmp_path, "ours", issued("front.example.test"))
    keys = {"tls": "require", "tls_certificate": certificate, "tls_key": key}
    assert await make(STRICT, **keys).says("bob@example.test") == "accept"


async def test_files_that_cannot_be_used(make: MakeRule, tmp_path: Path) -> None:
    certificate, _ = write(tmp_path, "ours", issued("front.example.test"))
    none = tmp_path / "none"
    none.write_text("no PEM")
    other = write(tmp_path, "other", trustme.CA().issue_cert("x.test"))[1]
    for keys, why in (
        ({"tls_ca": "/nowhere"}, "/nowhere: No such file"),
        ({"tls_ca": str(none)}, f"{none}: "),
        ({"tls_certificate": "/nowhere"}, "/nowhere: No such file"),
        ({"tls_certificate": certificate, "tls_key": other}, "key values mismatch"),
    ):
        rule = make(tls="verify", **keys)
        assert await rule.says("bob@example.test") == "defer"
        assert why in rule.errors[0]


async def test_a_url_in_a_file_leads_to_no_socket(
    make: MakeRule, server: Server, tmp_path: Path
) -> None:
    place = tmp_path / "url"
    place.write_text(f"mysql://{USER}@localhost/{NAME}?unix_socket=/run/x")
    rule = make(url=None, url_file=str(place), password_file=None, tls="require")
    assert await rule.says("bob@example.test") == "defer"
    assert "no TLS to a file or a Unix socket" in rule.errors[0]


GOOD = {"type": "sql", "url": "mysql://u@db.test/d", "query": "SELECT :address"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"tls": "maybe"}, "Input should be"),
        ({"tls_ca": "/ca.pem"}, "tls_ca is for verifying"),
        ({"tls": "require", "tls_ca": "/ca.pem"}, "tls_ca is for verifying"),
        ({"tls": "none", "tls_certificate": "/c.pem"}, "tls_certificate is for TLS"),
        ({"tls": "verify", "tls_key": "/c.key"}, "tls_key has no certificate"),
        ({"tls": "verify", "url": "sqlite:////mail.db"}, "no TLS to a file"),
        ({"tls": "require", "url": "postgresql://u@/d?host=/run"}, "a Unix socket"),
        ({"tls": "require", "url": "postgresql://u@/d"}, "a Unix socket"),
        ({"tls": "require", "url": "mysql://h/d?unix_socket=/s"}, "a Unix socket"),
    ],
)
def test_settings_that_are_refused(keys: dict[str, object], says: str) -> None:
    read_rule(GOOD)
    with pytest.raises(ValidationError) as raised:
        read_rule({**GOOD, **keys})
    (error,) = raised.value.errors()
    assert says in error.get("ctx", {}).get("what", error["msg"])
