"""The guard against files that have lost most of what was in them."""

from __future__ import annotations

import pytest

from proxy.rules.whole import MANY, OLD_DATA, REMIND_SECONDS, too_many
from tests.rules.filehost import FileHost, said, until_read
from tests.support.cdbmake import make_cdb

PATH = "/etc/list"


def users(count: int, domain: str = "x.test", first: int = 0) -> bytes:
    names = [f"u{number}@{domain}\n" for number in range(first, first + count)]
    return "".join(names).encode()


@pytest.mark.parametrize(
    ("before", "lost", "share", "expected"),
    [
        (MANY, MANY // 2, 0.5, False),
        (MANY, MANY // 2 + 1, 0.5, True),
        (MANY - 1, MANY - 1, 0.5, False),
        (100, 99, 1.0, False),
        (100, 100, 1.0, True),
        (0, 0, 0.5, False),
    ],
)
def test_too_many(before: int, lost: int, share: float, expected: bool) -> None:
    assert too_many(before, lost, share) is expected


@pytest.mark.parametrize(
    ("new", "taken"),
    [
        (users(100) + users(11, "y.test"), True),
        (users(50) + users(11, "y.test"), True),
        (users(49) + users(11, "y.test"), False),
        (users(100), False),  # a domain is gone
        (users(100) + users(6, "y.test"), True),
        (users(100, first=51) + users(11, "y.test"), False),  # others, as many
        (b"", False),
    ],
)
def test_of_a_domain(new: bytes, taken: bool) -> None:
    host = FileHost(list=users(100) + users(11, "y.test"))
    rule = host.rule("list", file=PATH, missing="reject")
    host.write(PATH, new + b"new@x.test\n")
    assert said(rule, b"u99@x.test") == (
        "accept" if not taken or b"u99@x.test" in new else "reject"
    )
    assert said(rule, b"new@x.test") == ("accept" if taken else "reject")
    assert bool(host.errors) is not taken


def test_of_many_small_domains() -> None:
    small = b"".join(b"info@d%d.test\n" % number for number in range(20))
    host = FileHost(list=small)
    rule = host.rule("list", file=PATH)
    host.write(PATH, b"info@d0.test\n")
    assert said(rule, b"info@d9.test") == "accept"
    assert "lost 19 of its 20 addresses (guard = 0.5)" in host.errors[0]


def test_it_is_told_while_it_lasts() -> None:
    host = FileHost(list=users(100))
    rule = host.rule("list", file=PATH, missing="reject")
    host.write(PATH, users(3))
    for _ in range(5):
        assert said(rule, b"u50@x.test") == "accept"
    assert host.errors == [
        "/etc/list: not taken: it has lost 97 of the 100 addresses of x.test"
        " (guard = 0.5): if it is meant, send HUP: then it is taken; until then the"
        " data of before count"
    ]
    assert host.answers.count(OLD_DATA) == 5
    assert len(host.files.opened) == 2  # it is not read again and again
    host.now += REMIND_SECONDS
    assert said(rule, b"u50@x.test") == "accept"
    assert len(host.errors) == 2
    host.write(PATH, users(99))
    assert said(rule, b"u50@x.test") == "accept"
    assert host.answers.count(OLD_DATA) == 6


def test_hup_takes_it() -> None:
    host = FileHost(list=users(100))
    rule = host.rule("list", file=PATH, missing="reject")
    host.write(PATH, users(3))
    assert said(rule, b"u50@x.test") == "accept"
    anew = host.rule("list", file=PATH, missing="reject")
    assert said(anew, b"u50@x.test") == "reject"


def test_without_a_guard() -> None:
    host = FileHost(list=users(100))
    rule = host.rule("list", file=PATH, missing="reject", guard=0)
    host.write(PATH, b"")
    assert said(rule, b"u50@x.test") == "reject"


async def test_of_a_large_file() -> None:
    host = FileHost(list=users(50_000))
    rule = host.rule("list", file=PATH, missing="reject")
    host.write(PATH, users(20_000))
    assert said(rule, b"new@x.test") == "defer"
    await until_read(rule, b"new@x.test", "reject")
    assert said(rule, b"u40000@x.test") == "accept"
    assert "lost 30000 of the 50000" in host.errors[0]


def cdb_of(count: int) -> bytes:
    return make_cdb([(b"u%d@x.test" % number, b"") for number in range(count)])


class TestCdb:
    def test_replaced_by_a_small_one(self) -> None:
        host = FileHost(cdb=cdb_of(100))
        rule = host.rule("cdb", file="/etc/cdb")
        host.replace("/etc/cdb", cdb_of(3))
        assert said(rule, b"u50@x.test") == "reject"  # not open before
        host.replace("/etc/cdb", cdb_of(100))
        assert said(rule, b"u50@x.test") == "accept"
        host.replace("/etc/cdb", cdb_of(49))
        assert said(rule, b"u50@x.test") == "accept"
        assert said(rule, b"u50@x.test") == "accept"
        (error,) = host.errors
        assert "not taken: it has lost 51 of its 100 records" in error
        assert host.answers.count(OLD_DATA) >= 1
        anew = host.rule("cdb", file="/etc/cdb")
        assert said(anew, b"u50@x.test") == "reject"
        host.replace("/etc/cdb", cdb_of(60))
        assert said(rule, b"u55@x.test") == "accept"
        assert said(rule, b"u70@x.test") == "reject"

    def test_one_domain_of_many(self) -> None:
        """Though of all records few are gone."""
        keys = [b"u%d@d%d.test" % (n, d) for d in range(9) for n in range(20)]
        keys += [b"@all.test", b"no domain"]
        host = FileHost(cdb=make_cdb([(key, b"x" * 99) for key in keys]))
        rule = host.rule("cdb", file="/etc/cdb")
        assert said(rule, b"u1@d3.test") == "accept"
        kept = [key for key in keys if not key.endswith(b"@d3.test")]
        host.replace("/etc/cdb", make_cdb([(key, b"") for key in kept]))
        assert said(rule, b"u1@d3.test") == "accept"
        (error,) = host.errors
        assert "not taken: it has lost 20 of the 20 addresses of d3.test" in error
        rest = [*kept, *keys[60:71], b"new@d1.test"]
        host.replace("/etc/cdb", make_cdb([(key, b"") for key in rest]))
        assert said(rule, b"u10@d3.test") == "accept"
        assert said(rule, b"u15@d3.test") == "reject"
        assert said(rule, b"new@d1.test") == "accept"

    async def test_of_a_large_one(self) -> None:
        """Sessions go on meanwhile, and nobody is refused by the one or the other."""
        host = FileHost(cdb=cdb_of(5_000))
        rule = host.rule("cdb", file="/etc/cdb")
        assert said(rule, b"u4000@x.test") == "accept"
        host.replace("/etc/cdb", cdb_of(4_990))
        assert said(rule, b"u4995@x.test") == "accept"
        assert said(rule, b"nobody@x.test") == "defer"
        await until_read(rule, b"nobody@x.test", "reject")
        assert said(rule, b"u4995@x.test") == "reject"
        assert not host.errors

    async def test_closed_while_it_is_compared(self) -> None:
        host = FileHost(cdb=cdb_of(5_000))
        rule = host.rule("cdb", file="/etc/cdb")
        assert said(rule, b"u1@x.test") == "accept"
        host.replace("/etc/cdb", cdb_of(4_990))
        assert said(rule, b"nobody@x.test") == "defer"
        await rule.close()
        assert said(rule, b"nobody@x.test") == "reject"

    def test_records_that_end_behind_the_file(self) -> None:
        content = bytearray(cdb_of(50))
        content[2048:2052] = b"\xff\xff\xff\x7f"  # the length of the first key
        host = FileHost(cdb=bytes(content))
        rule = host.rule("cdb", file="/etc/cdb")
        assert said(rule, b"u20@x.test") == "accept"
        host.replace("/etc/cdb", cdb_of(51))
        assert said(rule, b"u20@x.test") == "accept"
        assert said(rule, b"u50@x.test") == "accept"

    def test_written_over(self) -> None:
        host = FileHost(cdb=cdb_of(100))
        rule = host.rule("cdb", file="/etc/cdb")
        assert said(rule, b"u50@x.test") == "accept"
        host.write("/etc/cdb", cdb_of(3))
        assert said(rule, b"u50@x.test") == "defer"
        assert said(rule, b"u1@x.test") == "defer"
        anew = host.rule("cdb", file="/etc/cdb")
        assert said(anew, b"u50@x.test") == "reject"

    def test_text_beside_it(self) -> None:
        host = FileHost(text=users(100))
        rule = host.rule("cdb", format="goodrcptto", text="/etc/text")
        host.write("/etc/text", users(3))
        assert said(rule, b"u50@x.test") == "accept"
        assert "lost 97" in host.errors[0]
