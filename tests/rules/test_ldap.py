"""The rule ``ldap`` on a real OpenLDAP: found, not found, trouble, hostile keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

pytest.importorskip("ldap")

from proxy.config.rules import read_rule
from proxy.rules.ldap import LdapSource, qmail_ldap_addresses
from proxy.rules.source import SourceDown
from tests.support.asked import AskedRule
from tests.support.openldap import PASSWORD, SUFFIX, USER, OpenLDAP

MakeRule = Callable[..., AskedRule]

HOSTILE = [
    b"b\x01ob@example.test",
    b"bob@example.test\x7f",
    b"*)(uid=*@example.test",
    b"*@example.test",
    b"b*b@example.test",
    b"bob@example.test)(mail=*",
    b"bob@example.test))(|(mail=*",
    b"bob)(|(mail=*)@example.test",
    b"bob@example.test\0",
    b"bob\0@example.test",
    b"bob\\2a@example.test",
    b"\\2a@example.test",
    b"\\@example.test",
    b"&(mail=bob@example.test)",
    b"!(mail=x)@example.test",
    b"bob@example.test\n",
    b"bob\r\n@example.test",
    b"\xe9@example.test",
    b"bob\xff@example.test",
    b"{local}@example.test",
    b"{0}@example.test",
    b"'@example.test",
    b'"@example.test',
    b";@example.test",
    b"@example.test",
    b"@",
    b"bob@example.test" + b"x" * 800,
]


def person(name: str, *lines: str, domain: str = "example.test") -> str:
    head = f"dn: uid={name},{SUFFIX}\nobjectClass: mailUser\nuid: {name}\n"
    return head + f"mail: {name}@{domain}\n" + "".join(f"{line}\n" for line in lines)


@pytest.fixture(scope="module")
def people(slapd: OpenLDAP) -> OpenLDAP:
    slapd.add(
        person("bob", "accountStatus: active", "mailAlternateAddress: b@example.test"),
        person("plain"),
        person("noaccess", "accountStatus: noaccess"),
        person("disabled", "accountStatus: Disabled"),
        person("deleted", "accountStatus: deleted"),
        person("list-catchall"),
        person("a-b-c-d-catchall"),
        person("catchall", domain="all.test"),
        person("twin1", "mailAlternateAddress: twin@example.test"),
        person("twin2", "mailAlternateAddress: twin@example.test"),
    )
    return slapd


@pytest.fixture
async def make(people: OpenLDAP, tmp_path: Path) -> AsyncIterator[MakeRule]:
    """Makes rules for the directory, and closes them."""
    words = tmp_path / "password"
    words.write_text(PASSWORD + "\n")
    made: list[AskedRule] = []

    def rule(**keys: object) -> AskedRule:
        told = {
            "type": "ldap",
            "url": people.uri,
            "base": SUFFIX,
            "bind_dn": USER,
            "password_file": str(words),
            "filter": "(mail={address})",
            **keys,
        }
        made.append(AskedRule(**{k: v for k, v in told.items() if v is not None}))
        return made[-1]

    yield rule
    for each in made:
        await each.close()


async def test_found_and_not_found(make: MakeRule) -> None:
    rule = make()
    verdict = await rule.verdict("Bob@Example.TEST")
    assert verdict is not None
    assert verdict.kind.value == "accept"
    (step,) = verdict.trace
    assert step.where() == "rule ldap"
    found = f"uid=bob,{SUFFIX}"
    assert step.note() == f"{SUFFIX}: (mail=bob@example.test): {found}"
    assert await rule.says("nobody@example.test") == "reject"
    assert await make(missing="pass").says("nobody@example.test") == "none"
    assert rule.answers == ["found", "missing"]


@pytest.mark.parametrize("address", HOSTILE)
async def test_hostile_keys_never_match(make: MakeRule, address: bytes) -> None:
    """I-ldap-filter: whatever stands in an address is a value and nothing else."""
    whole = "(|(mail={address})(&(uid={local})(mail={sender}))(mail={domain}))"
    for text in ("(mail={address})", whole):
        rule = make(filter=text)
        assert await rule.says(address, address) == "reject"
        assert not rule.errors
    ready = make(filter=None, ready="qmail-ldap")
    assert await ready.says(address) == "reject"
    assert await ready.says("bob@example.test") == "accept"


async def test_all_that_can_be_asked_for(make: MakeRule) -> None:
    each = (
        "(&(uid={local})(mail={local}{at_domain})(!(mail={client}))(!(uid={sender})))"
    )
    rule = make(filter=each)
    assert await rule.says("BOB@example.test", b"you@there.test") == "accept"
    assert await rule.says("BOB@example.test", b"Bob") == "reject"


async def test_scope(make: MakeRule) -> None:
    assert await make(scope="one").says("bob@example.test") == "accept"
    assert await make(scope="base").says("bob@example.test") == "reject"
    place = f"uid=bob,{SUFFIX}"
    assert await make(scope="base", base=place).says("bob@example.test") == "accept"


async def test_an_attribute_decides(make: MakeRule) -> None:
    rule = make(
        attribute="AccountStatus",
        disabled=["disabled"],
        deleted=["DELETED"],
        deferred=["noaccess"],
    )
    said = {}
    for name in ("bob", "plain", "noaccess", "disabled", "deleted", "nobody"):
        verdict = await rule.verdict(f"{name}@example.test")
        assert verdict is not None
        said[name] = verdict.reply.text[:9]
    assert said == {
        "bob": "250 2.1.5",
        "plain": "250 2.1.5",
        "noaccess": "451 4.3.0",
        "disabled": "550 5.2.1",
        "deleted": "550 5.1.1",
        "nobody": "550 5.1.1",
    }


class TestQmailLdap:
    async def test_status_and_alternate_addresses(self, make: MakeRule) -> None:
        rule = make(filter=None, ready="qmail-ldap")
        said = {}
        for name in ("bob", "b", "plain", "noaccess", "disabled", "deleted", "nobody"):
            verdict = await rule.verdict(f"{name}@example.test")
            assert verdict is not None
            said[name] = verdict.reply.text[:9]
        assert said == {
            "bob": "250 2.1.5",
            "b": "250 2.1.5",
            "plain": "250 2.1.5",
            "noaccess": "250 2.1.5",
            "disabled": "550 5.2.1",
            "deleted": "550 5.1.1",
            "nobody": "550 5.1.1",
        }

    async def test_catch_alls(self, make: MakeRule) -> None:
        rule = make(filter=None, ready="qmail-ldap")
        for name in ("list-x", "list-x-y", "a-b-c-d-e", "a-b-c-d-e-f"):
            assert await rule.says(f"{name}@example.test") == "accept"
        for name in ("lists-x", "list", "a-b-c-e", "catchall"):
            assert await rule.says(f"{name}@example.test") == "reject"
        assert await rule.says("any-body@all.test") == "accept"
        # Who is disabled is found, and no catch-all is looked for.
        assert await rule.says("disabled@example.test") == "reject"

    def test_what_is_looked_up(self) -> None:
        def looked_up(local: bytes) -> list[bytes]:
            return [a.removesuffix(b"@d") for a in qmail_ldap_addresses(local, b"d")]

        assert looked_up(b"bob") == [b"bob", b"catchall"]
        # filter.c's own comment has this one.
        assert looked_up(b"a-b-c-d-e-f-g") == [
            b"a-b-c-d-e-f-g",
            b"a-b-c-d-catchall",
            b"a-b-c-catchall",
            b"a-b-catchall",
            b"a-catchall",
            b"catchall",
        ]

    async def test_several_entries(self, make: MakeRule) -> None:
        rule = make(filter=None, ready="qmail-ldap")
        assert await rule.says("twin@example.test") == "defer"
        assert f"2 entries for one address: uid=twin1,{SUFFIX}" in rule.errors[0]
        fine = make(filter=None, ready="qmail-ldap", several="accept")
        assert await fine.says("twin@example.test") == "accept"


@pytest.mark.parametrize(
    "keys",
    [
        {"base": "o=elsewhere"},
        {"base": "not a name"},
        {"filter": "(mail={address}"},
        {"bind_dn": "cn=stranger,o=vpopmail"},
        {"bind_dn": None, "password_file": None},
        {"url": "ldapi://%2Fnowhere%2Fldapi"},
        {"starttls": True},
        {"ca": "/nowhere.pem", "starttls": True},
    ],
)
async def test_what_is_wrong_is_a_deferral(
    make: MakeRule, keys: dict[str, object]
) -> None:
    """A base that is not there, too: it may be there and not for us."""
    if keys.get("filter"):
        with pytest.raises(ValidationError):
            make(**keys)
        return
    rule = make(**keys)
    verdict = await rule.verdict("bob@example.test")
    assert verdict is not None
    assert verdict.reply.code == 451
    assert PASSWORD not in f"{verdict} {rule.errors}"
    assert rule.answers == ["error"]
    source = rule.rule._source
    assert isinstance(source, LdapSource)
    with pytest.raises(SourceDown):
        await source.probe()


async def test_probe(make: MakeRule) -> None:
    source = make().rule._source
    assert isinstance(source, LdapSource)
    await source.probe()


async def test_the_second_of_two_servers(make: MakeRule, people: OpenLDAP) -> None:
    rule = make(url=f"ldapi://%2Fnowhere%2Fldapi {people.uri}")
    assert await rule.says("bob@example.test") == "accept"


async def test_a_wrong_password_is_not_told(make: MakeRule, tmp_path: Path) -> None:
    words = tmp_path / "other"
    words.write_text("wr0ng-secret")
    rule = make(password_file=str(words))
    verdict = await rule.verdict("bob@example.test")
    assert verdict is not None
    told = f"{verdict} {[step.note() for step in verdict.trace]} {rule.errors}"
    assert "INVALID_CREDENTIALS" in told
    assert "wr0ng-secret" not in told
    gone = make(password_file=str(tmp_path / "gone"))
    assert await gone.says("bob@example.test") == "defer"


async def test_down_at_the_start_down_later_and_back(
    make: MakeRule, people: OpenLDAP
) -> None:
    before, rule, good = make(), make(), make(last_known_good=60)
    assert await rule.says("bob@example.test") == "accept"
    assert await good.says("bob@example.test") == "accept"
    people.stop()
    try:
        for _ in range(2):
            assert await before.says("bob@example.test") == "defer"
            assert await rule.says("bob@example.test") == "defer"
            assert await rule.says("nobody@example.test") == "defer"
            assert await good.says("bob@example.test") == "accept"
            assert await good.says("nobody@example.test") == "defer"
    finally:
        people.start()
    for each in (before, rule, good):
        assert await each.says("bob@example.test") == "accept"
        assert await each.says("nobody@example.test") == "reject"


async def test_slow_and_left_alone(make: MakeRule, people: OpenLDAP) -> None:
    """Nobody waits longer than is granted; who leaves spoils nothing."""
    rule = make(timeout=0.5, concurrency=2)
    patient = make(timeout=60, concurrency=1)
    people.freeze()
    try:
        names = ["bob@example.test", "nobody@example.test"] * 2
        assert await asyncio.gather(*map(rule.says, names)) == ["defer"] * 4
        assert set(rule.answers) <= {"timeout", "error"}
        asked = asyncio.ensure_future(patient.says("bob@example.test"))
        await asyncio.sleep(0)
        assert not asked.done()
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()
    finally:
        people.freeze(frozen=False)
    assert await patient.says("bob@example.test") == "accept"
    assert await patient.says("nobody@example.test") == "reject"


async def test_many_at_once_over_one_pool(make: MakeRule) -> None:
    rule = make(concurrency=3, timeout=60)
    names = [f"u{n}@example.test" if n % 2 else "bob@example.test" for n in range(300)]
    said = await asyncio.gather(*map(rule.says, names))
    assert said == ["reject" if name.startswith("u") else "accept" for name in names]


async def test_questions_after_the_end_are_answered(make: MakeRule) -> None:
    rule = make()
    assert await rule.says("bob@example.test") == "accept"
    await rule.close()
    assert await rule.says("bob@example.test") == "accept"


GOOD = {"type": "ldap", "url": "ldap://h", "base": "o=x", "filter": "(mail={address})"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"url": "http://h"}, "not the URL of a directory"),
        ({"url": ""}, "not the URL of a directory"),
        ({"filter": None}, "neither of filter and ready"),
        ({"ready": "qmail-ldap"}, "both of filter and ready"),
        ({"filter": "(mail={adress})"}, "has {adress}"),
        ({"filter": "(mail=$address)"}, "asks for nothing"),
        ({"filter": "mail={address}"}, "is not a filter"),
        ({"filter": "((mail={address})"}, "odd parenthesis"),
        ({"bind_dn": "cn=x"}, "has no password_file"),
        ({"password_file": "/x"}, "has no bind_dn"),
        ({"starttls": True, "url": "ldaps://h"}, "starttls is for ldap://"),
        ({"disabled": ["x"]}, "without attribute"),
        (
            {"filter": None, "ready": "qmail-ldap", "attribute": "x"},
            "decides by accountStatus",
        ),
    ],
)
def test_settings_that_are_refused(keys: dict[str, object], says: str) -> None:
    told = {k: v for k, v in {**GOOD, **keys}.items() if v is not None}
    with pytest.raises(ValidationError) as raised:
        read_rule(told)
    (error,) = raised.value.errors()
    assert says in error["ctx"]["what"]
