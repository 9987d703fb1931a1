"""The rule ``list``: which entry wins, what is no entry, files that change."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.rules.entries import WILDCARDS_MAX, BadEntry, Entries
from proxy.rules.trouble import RuleError
from proxy.rules.verdict import Question
from proxy.rules.whole import AT_ONCE, OLD_DATA, REMIND_SECONDS
from tests.rules.filehost import FileHost, said, until_read, verdict

PATH = "/etc/list"
GOOD = b"""\
# who gets mail
Bob@Example.test

postmaster@            # in any domain
info-*@example.test
*@*.sub.test
@second.test
.below.test
example.org
!info-spam@example.test
!trap@second.test
a#b@example.test
"""


class TestEntries:
    @pytest.mark.parametrize(
        ("mailbox", "entry"),
        [
            (b"bob@example.test", b"bob@example.test"),
            (b"bobby@example.test", None),
            (b"postmaster@nowhere.test", b"postmaster@"),
            (b"info-@example.test", b"info-*@example.test"),
            (b"info-x-y@example.test", b"info-*@example.test"),
            (b"info@example.test", None),
            (b"xinfo-a@example.test", None),
            (b"info-a@example.test.org", None),
            (b"x@a.sub.test", b"*@*.sub.test"),
            (b"x@sub.test", None),
            (b"x@second.test", b"@second.test"),
            (b"x@a.second.test", None),
            (b"x@a.b.below.test", b"@.below.test"),
            (b"x@below.test", None),
            (b"x@example.org", b"@example.org"),
            (b"a#b@example.test", b"a#b@example.test"),
            # The local part may have an @ of its own.
            (b"x@second.test@example.test", None),
            (b"info-@@example.test", b"info-*@example.test"),
        ],
    )
    def test_found_by(self, mailbox: bytes, entry: bytes | None) -> None:
        entries = Entries()
        for text in (
            b"Bob@Example.test",
            b"postmaster@",
            b"info-*@example.test",
            b"*@*.sub.test",
            b"@second.test",
            b".below.test",
            b"example.org",
            b"a#b@example.test",
        ):
            entries.add(text)
        found = entries.find(mailbox)
        assert (found.entry if found else None) == entry

    def test_the_order(self) -> None:
        texts = [b"example.test", b"b*@example.test", b"bob@", b"bob@example.test"]
        entries = Entries()
        for number, text in enumerate(texts, start=1):
            entries.add(text, number)
            found = entries.find(b"bob@example.test")
            assert found is not None
            assert found.line == number

    def test_exceptions_are_of_every_kind(self) -> None:
        entries = Entries()
        for text in (b"!a@x.test", b"!b@", b"!c*@x.test", b"!@y.test"):
            entries.add(text)
        for excepted in (b"a@x.test", b"b@z.test", b"cc@x.test", b"a@y.test"):
            found = entries.exception(excepted)
            assert found is not None
            assert found.entry.startswith(b"!")
        assert entries.exception(b"a@z.test") is None
        assert entries.find(b"a@x.test") is None

    @pytest.mark.parametrize(
        ("pattern", "user", "matches"),
        [
            ("a*b*c", b"abc", True),
            ("a*b*c", b"a--b--c", True),
            ("a*b*c", b"acb", False),
            ("a*a", b"a", False),
            ("a*a", b"aa", True),
            ("**", b"", True),
            ("*x*x*", b"axa", False),
        ],
    )
    def test_stars(self, pattern: str, user: bytes, matches: bool) -> None:
        entries = Entries()
        entries.add(pattern.encode() + b"@x.test")
        assert (entries.find(user + b"@x.test") is not None) is matches

    def test_no_pattern_takes_long(self) -> None:
        entries = Entries()
        entries.add(b"*".join([b"a"] * 400) + b"@x.test")
        assert entries.find(b"a" * 399 + b"b" + b"a" * 500 + b"c@x.test") is None

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            (b"bob", "neither an address nor a domain"),
            (b"!", "names nobody"),
            (b"*", "names nobody, or everybody"),
            (b"*@*", "names nobody, or everybody"),
            (b"@", "names nobody"),
            (b"info-*", "no @"),
            (b"bob@x.test OK", "more than one word"),
            (b"bo\0b@x.test", "more than one word"),
            (b"<bob@x.test>", "brackets"),
            (b"x" * 1000 + b"@x.test", "longer than"),
        ],
    )
    def test_no_entries(self, text: bytes, what: str) -> None:
        with pytest.raises(BadEntry, match=what) as caught:
            Entries().add(text)
        assert caught.value.remedy

    def test_not_too_many_stars(self) -> None:
        entries = Entries()
        for number in range(WILDCARDS_MAX):
            entries.add(b"a*%d@x.test" % number)
        with pytest.raises(BadEntry, match="with a star"):
            entries.add(b"one-*@more.test")


class TestMeaning:
    def test_an_allow_list(self) -> None:
        rule = FileHost(list=GOOD).rule("list", file=PATH)
        assert said(rule, b"BOB@example.TEST") == "accept"
        assert said(rule, b"alice@example.test") == "pass"
        assert said(rule, b"info-spam@example.test") == "pass"
        strict = FileHost(list=GOOD).rule("list", file=PATH, missing="reject")
        assert said(strict, b"trap@second.test") == "reject"

    def test_a_reject_list_in_a_catchall(self) -> None:
        rule = FileHost(list=b"trap@x.test\n@old.test\n!good@old.test\n").rule(
            "list", file=PATH, found="reject"
        )
        assert said(rule, b"trap@x.test") == "reject"
        assert said(rule, b"any@old.test") == "reject"
        assert said(rule, b"good@old.test") == "pass"
        assert said(rule, b"anybody@x.test") == "pass"

    def test_in_the_configuration_and_in_the_file(self) -> None:
        host = FileHost(list=b"bob@x.test\neve@x.test\n")
        both = host.rule("list", file=PATH, addresses=["al@x.test", "!eve@x.test"])
        assert said(both, b"bob@x.test") == said(both, b"al@x.test") == "accept"
        assert said(both, b"eve@x.test") == "pass"
        alone = FileHost().rule("list", addresses="al@x.test, Jos\u00e9@x.test")
        assert said(alone, b"al@x.test") == "accept"
        assert said(alone, "Jos\u00e9@x.test".encode()) == "accept"
        assert said(alone, b"bob@x.test") == "pass"

    def test_explain(self) -> None:
        answer = verdict(
            FileHost(list=GOOD).rule("list", file=PATH), b"Bob@Example.test"
        )
        assert answer is not None
        (step,) = answer.trace
        assert step.where() == "rule staff"
        assert step.note() == (
            "bob@example.test in /etc/list: line 2: bob@example.test"
        )

    @pytest.mark.parametrize(
        "mailbox",
        [
            b"'; drop table x@x.test",
            b'"bob"@x.test',
            b"bob\0@x.test",
            b"b\xf6b@x.test",
            b"bob\n@x.test",
            b"bob@x.test\n",
            b"*@x.test",
            b"!bob@x.test",
            b"bob" * 3000 + b"@x.test",
            b"bob@" + b"x." * 450 + b"test",
            b"@",
            b"",
        ],
    )
    def test_hostile_keys(self, mailbox: bytes) -> None:
        rule = FileHost(list=b"bob@x.test\ninfo-*@x.test\n.y.test\n").rule(
            "list", file=PATH, missing="reject"
        )
        assert said(rule, mailbox) == "reject"

    def test_eight_bits(self) -> None:
        rule = FileHost(list=b"b\xf6b@x.test\n").rule("list", file=PATH)
        assert said(rule, b"B\xf6b@x.test") == "accept"
        assert said(rule, b"b\xd6b@x.test") == "pass"  # qmail folds ASCII only

    def test_as_editors_leave_it(self) -> None:
        content = b"\xef\xbb\xbfbob@x.test\r\n  al@x.test \r\n\r\n# end"
        rule = FileHost(list=content).rule("list", file=PATH)
        assert said(rule, b"bob@x.test") == said(rule, b"al@x.test") == "accept"

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"addresses": ["bob"]},
            {"file": "relative"},
            {"file": PATH, "guard": 2},
            {"file": PATH, "guard": True},
        ],
    )
    def test_bad_keys(self, keys: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            FileHost().rule("list", **keys)


class TestStart:
    def test_bad_lines_are_named(self) -> None:
        with pytest.raises(RuleError) as caught:
            FileHost(list=b"bob@x.test\nnobody\n\nx y@z.test\n").rule("list", file=PATH)
        assert [(t.path, t.line) for t in caught.value.troubles] == [
            (b"/etc/list", 2),
            (b"/etc/list", 4),
        ]
        assert str(caught.value).startswith(
            "/etc/list:2: nobody is neither an address nor a domain: write "
        )

    def test_a_missing_file(self) -> None:
        with pytest.raises(RuleError, match="No such file"):
            FileHost().rule("list", file=PATH)

    def test_no_regular_file(self) -> None:
        host = FileHost()
        host.files.dir(b"/etc/list")
        with pytest.raises(RuleError, match="not a regular file"):
            host.rule("list", file=PATH)


class TestChange:
    def test_counts_at_once(self) -> None:
        host = FileHost(list=b"bob@x.test\n")
        rule = host.rule("list", file=PATH, missing="reject")
        host.write(PATH, b"eve@x.test\n")  # as long as before
        assert said(rule, b"eve@x.test") == "accept"
        assert said(rule, b"bob@x.test") == "reject"
        host.replace(PATH, b"bob@x.test\n")
        assert said(rule, b"bob@x.test") == "accept"
        assert not host.errors

    def test_is_read_once(self) -> None:
        host = FileHost(list=b"bob@x.test\n")
        rule = host.rule("list", file=PATH)
        for _ in range(10):
            assert said(rule, b"bob@x.test") == "accept"
        assert host.files.opened == [b"/etc/list"]

    def test_a_file_that_has_only_just_changed_is_not_trusted(self) -> None:
        host = FileHost(list=b"bob@x.test\n")
        context = host.context()
        rule = host.rule("list", file=PATH)
        host.files.now_ns = context.host.clock()
        host.files.file(b"/etc/list", b"eve@x.test\n")
        assert said(rule, b"eve@x.test") == "accept"
        changed = host.files._files[b"/etc/list"][0]
        host.files._files[b"/etc/list"] = changed, b"joe@x.test\n"  # no mark left
        assert said(rule, b"joe@x.test") == "accept"

    @pytest.mark.parametrize("large", [False, True])
    async def test_bad_lines_change_nothing(self, large: bool) -> None:
        host = FileHost(list=b"bob@x.test\n")
        rule = host.rule("list", file=PATH, guard=0, missing="reject")
        fill = b"# comment\n" * AT_ONCE if large else b""
        host.write(PATH, fill + b"eve@x.test\nwhat?\n")
        if large:
            assert said(rule, b"eve@x.test") == "defer"
            await until_read(rule, b"eve@x.test", "reject")
        assert said(rule, b"bob@x.test") == "accept"
        assert said(rule, b"eve@x.test") == "reject"
        (error,) = host.errors
        line = AT_ONCE + 2 if large else 2
        assert error.startswith(f"/etc/list:{line}: what? is neither")
        assert error.endswith("until then the data of before count")
        host.write(PATH, b"eve@x.test\n")
        assert said(rule, b"eve@x.test") == "accept"
        assert len(host.errors) == 1

    def test_a_file_that_is_gone_changes_nothing(self) -> None:
        host = FileHost(list=b"bob@x.test\n")
        rule = host.rule("list", file=PATH)
        status, content = host.files._files[b"/etc/list"]
        host.files.remove(b"/etc/list")
        for _ in range(3):
            assert said(rule, b"bob@x.test") == "accept"
        assert len(host.errors) == 1
        assert host.answers.count(OLD_DATA) == 3
        host.now += REMIND_SECONDS
        assert said(rule, b"bob@x.test") == "accept"
        assert len(host.errors) == 2
        host.files._files[b"/etc/list"] = status, content
        assert said(rule, b"bob@x.test") == "accept"
        assert host.answers.count(OLD_DATA) == 4

    async def test_a_large_file_is_read_beside_other_work(self) -> None:
        def lines(extra: bytes) -> bytes:
            users = [b"user%d@x.test" % number for number in range(100_000)]
            return b"\n".join([*users, extra, b""])

        host = FileHost(list=lines(b"bob@x.test"))
        rule = host.rule("list", file=PATH, missing="reject")
        host.write(PATH, lines(b"eve@x.test"))
        # Old data serve; what is not in them may be in the new.
        assert said(rule, b"bob@x.test") == "accept"
        assert said(rule, b"eve@x.test") == "defer"
        turns = await until_read(rule, b"eve@x.test", "accept")
        assert turns > 2
        assert said(rule, b"bob@x.test") == "reject"
        assert said(rule, b"user99999@x.test") == "accept"
        await rule.close()

    @pytest.mark.parametrize("found", ["accept", "pass"])
    async def test_nobody_is_refused_while_a_large_file_is_read(
        self, found: str
    ) -> None:
        """Neither who is not in it yet, nor who is an exception no more."""
        long = b"# nobody\n" * AT_ONCE
        host = FileHost(list=long + b"@x.test\n!eve@x.test\n")
        rule = host.rule("list", file=PATH, found=found, missing="reject")
        assert said(rule, b"eve@x.test") == "reject"
        host.write(PATH, long + b"@x.test\nbob@y.test\n")
        assert said(rule, b"bob@y.test") == said(rule, b"eve@x.test") == "defer"
        await until_read(rule, b"eve@x.test", found)
        assert said(rule, b"bob@y.test") == found

    async def test_closed_while_it_is_read(self) -> None:
        host = FileHost(list=b"bob@x.test\n")
        rule = host.rule("list", file=PATH, guard=0)
        host.write(PATH, b"# x\n" * AT_ONCE)
        assert said(rule, b"bob@x.test") == "accept"
        await rule.close()
        # Questions may still come: they are answered, by and by with the new data.
        await until_read(rule, b"bob@x.test", "pass")

    def test_a_reject_list_does_not_wait(self) -> None:
        """While it is read, who was not in it may have mail."""
        host = FileHost(list=b"bob@x.test\n")
        rule = host.rule("list", file=PATH, found="reject", guard=0)
        host.write(PATH, b"eve@x.test\n" + b"# x\n" * AT_ONCE)
        # Without a loop all is read at once.
        assert rule.ask(Question(b"", mailbox=b"bob@x.test")) is None
        assert said(rule, b"eve@x.test") == "reject"
