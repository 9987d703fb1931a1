"""The way to a directory, against a real OpenLDAP: answers, trouble, restarts."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("ldap")

from proxy.rules.directory import (
    Directory,
    DirectorySettings,
    Scope,
    filter_value,
    name_value,
)
from proxy.rules.source import SourceDown
from tests.support.openldap import PASSWORD, SUFFIX, USER, OpenLDAP

HOSTILE = [
    b"*",
    b"*)(uid=*",
    b"a\\b",
    b"(",
    b")",
    b"a\nb",
    b"\0",
    b"\xe9",
    b"o'b",
    b"&|",
]


def directory(server: OpenLDAP, **settings: object) -> Directory:
    known = DirectorySettings(server.uri, USER, PASSWORD)
    return Directory(DirectorySettings(**{**_fields(known), **settings}))  # type: ignore[arg-type]


def _fields(settings: DirectorySettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in DirectorySettings.__slots__}


@pytest.fixture(scope="module")
def people(slapd: OpenLDAP) -> OpenLDAP:
    slapd.add(
        f"dn: uid=alice,{SUFFIX}\nobjectClass: qmailUser\nuid: alice\nqmailGID: 1\n"
    )
    return slapd


async def found(it: Directory, who: bytes) -> int | None:
    entries = await it.search(
        SUFFIX, Scope.SUBTREE, f"(uid={filter_value(who)})", ["uid", "qmailGID"]
    )
    assert entries is not None
    return len(entries)


async def test_found_and_not_found(people: OpenLDAP) -> None:
    it = directory(people)
    assert await found(it, b"alice") == 1
    assert await found(it, b"nobody") == 0
    one = await it.search(SUFFIX, Scope.SUBTREE, "(uid=alice)", ["qmailgid"])
    assert one is not None
    assert one[0].first("QmailGid") == b"1"
    assert one[0].first("uid") is None
    assert await it.search("o=elsewhere", Scope.SUBTREE, "(uid=*)", ["uid"]) is None
    await it.close()
    with pytest.raises(SourceDown, match="closed"):
        await found(it, b"alice")


@pytest.mark.parametrize("who", HOSTILE)
async def test_a_hostile_key_is_only_a_key(people: OpenLDAP, who: bytes) -> None:
    it = directory(people)
    assert await found(it, who) == 0
    base = f"ou={name_value(who)},{SUFFIX}"
    assert await it.search(base, Scope.SUBTREE, "(uid=*)", ["uid"]) is None
    await it.close()


async def test_a_restart_costs_nobody_an_answer(people: OpenLDAP) -> None:
    it = directory(people)
    assert set(await asyncio.gather(*(found(it, b"alice") for _ in range(6)))) == {1}
    people.stop()
    people.start()
    assert set(await asyncio.gather(*(found(it, b"alice") for _ in range(6)))) == {1}
    await it.close()


async def test_a_server_that_is_down_is_no_answer(people: OpenLDAP) -> None:
    it = directory(people)
    assert await found(it, b"alice") == 1
    people.stop()
    try:
        for _ in range(3):
            with pytest.raises(SourceDown) as raised:
                await found(it, b"alice")
            assert PASSWORD not in str(raised.value)
    finally:
        people.start()
    assert await found(it, b"alice") == 1
    await it.close()


async def test_a_server_that_is_silent_is_no_answer(people: OpenLDAP) -> None:
    it = directory(people, connections=2, query_timeout=0.3, connect_timeout=0.3)
    people.freeze()
    try:
        asked = [found(it, b"alice") for _ in range(6)]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, SourceDown)
    finally:
        people.freeze(frozen=False)
    async with asyncio.timeout(60):
        while True:
            try:
                assert await found(it, b"alice") == 1
            except SourceDown:
                continue
            break
    await it.close()


async def test_a_wrong_password_is_no_answer_and_not_told(people: OpenLDAP) -> None:
    it = directory(people, password="wr0ng-secret")
    with pytest.raises(SourceDown) as raised:
        await found(it, b"alice")
    assert "wr0ng-secret" not in f"{raised.value!r} {it.settings!r}"
    await it.close()


def test_how_values_are_written() -> None:
    assert filter_value(b"a*b") == "a\\2ab"
    assert filter_value(b"x@y-z.w+v=u") == "x@y-z.w+v=u"
    assert name_value(b"a,b=c+d") == "a\\2cb\\3dc\\2bd"
