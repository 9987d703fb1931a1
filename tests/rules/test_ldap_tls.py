"""The rule ``ldap`` through TLS, to a real server: whom it believes, whom not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme

pytest.importorskip("ldap")

from tests.support.asked import AskedRule
from tests.support.certificates import write_authority
from tests.support.openldap import PASSWORD, SUFFIX, USER, OpenLDAP, openldap

MakeRule = Callable[..., AskedRule]

WAYS = ["ldaps", "starttls"]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenLDAP]:
    with openldap(encrypts=True) as it:
        bob = "objectClass: account\nuid: bob\n"
        it.add(f"dn: uid=bob,{SUFFIX}\n{bob}")
        yield it


@pytest.fixture
async def make(server: OpenLDAP, tmp_path: Path) -> AsyncIterator[MakeRule]:
    words = tmp_path / "password"
    words.write_text(PASSWORD + "\n")
    made: list[AskedRule] = []

    def rule(way: str, **keys: object) -> AskedRule:
        told = {"type": "ldap", "bind_dn": USER, "password_file": str(words)}
        told |= {"base": SUFFIX, "filter": "(uid={local})"}
        told |= {"url": server.ldaps} if way == "ldaps" else {"url": server.uri}
        starttls = way == "starttls"
        made.append(AskedRule(**{**told, "starttls": starttls, **keys}))
        return made[-1]

    yield rule
    for each in made:
        await each.close()


@pytest.mark.parametrize("way", WAYS)
async def test_the_right_authority(make: MakeRule, tmp_path: Path, way: str) -> None:
    rule = make(way, ca=write_authority(tmp_path))
    assert await rule.says("bob@example.test") == "accept"
    assert await rule.says("nobody@example.test") == "reject"
    assert not rule.errors


@pytest.mark.parametrize("way", WAYS)
async def test_another_authority_is_a_deferral(
    make: MakeRule, tmp_path: Path, way: str
) -> None:
    for keys in ({"ca": write_authority(tmp_path, trustme.CA())}, {}):
        rule = make(way, **keys)
        assert await rule.says("bob@example.test") == "defer"
        assert rule.answers == ["error"]


async def test_another_authority_though_the_host_believes_everybody(
    make: MakeRule, tmp_path: Path
) -> None:
    """``TLS_REQCERT never`` of ldap.conf(5) does not undo the key ``ca``."""
    import ldap

    before = ldap.get_option(ldap.OPT_X_TLS_REQUIRE_CERT)
    ldap.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_NEVER)
    try:
        rule = make("ldaps", ca=write_authority(tmp_path, trustme.CA()))
        assert await rule.says("bob@example.test") == "defer"
    finally:
        ldap.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, before)


@pytest.mark.parametrize("way", WAYS)
async def test_another_name_is_a_deferral(
    make: MakeRule, server: OpenLDAP, tmp_path: Path, way: str
) -> None:
    url = server.ldaps if way == "ldaps" else server.uri
    authority = write_authority(tmp_path)
    rule = make(way, ca=authority, url=url.replace("127.0.0.1", "localhost"))
    assert await rule.says("bob@example.test") == "defer"
    assert rule.answers == ["error"]
