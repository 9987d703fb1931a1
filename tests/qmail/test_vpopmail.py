"""vdelivermail on files: who is known, what a line leads to, what is not known."""

from __future__ import annotations

import errno

import pytest

from proxy.qmail.decide import Decision, Outcome
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.questions import Mailbox
from proxy.qmail.vpopmail_data import (
    Build,
    mailbox,
    parse_header,
    parse_program,
    parse_vpasswd,
    valid_domain,
    valid_user,
)
from tests.support.files import Files, ask, explain
from tests.support.vpopmail_host import (
    DOMAIN,
    HOME,
    PROGRAM,
    UID,
    account,
    built,
    cdb_accounts,
    dot,
    maildir,
    own,
    owned,
    text_accounts,
    vpopmail_files,
    vpopmail_keys,
)

ACCOUNTS = [account(b"ann"), account(b"sales-dept"), account(b"first.last")]
LOCKED = account(b"locked", 0x10)

DELIVER, FORWARD, BOUNCE = Outcome.DELIVER, Outcome.FORWARD, Outcome.BOUNCE
DEFER = Outcome.DEFER


@pytest.fixture(params=["cdb", "text"])
def files(request: pytest.FixtureRequest) -> Files:
    it = vpopmail_files()
    put = cdb_accounts if request.param == "cdb" else text_accounts
    put(it, [*ACCOUNTS, LOCKED])
    built(it, b"USE_CDB")
    return it


def said(files: Files, recipient: bytes, **keys: object) -> Decision:
    settings = HostSettings(vpopmail=vpopmail_keys(**keys))
    return ask(files, recipient, settings=settings)


@pytest.mark.parametrize(
    ("recipient", "outcome"),
    [
        (b"ann@v.test", DELIVER),
        (b"ANN@V.TEST", DELIVER),
        (b"First.Last@v.test", DELIVER),
        (b"sales-dept@v.test", DELIVER),
        (b"ann@a.test", DELIVER),
        (b"sales@v.test", BOUNCE),
        (b"ann-x@v.test", BOUNCE),
        (b"ann-@v.test", BOUNCE),
        (b"-ann@v.test", BOUNCE),
        (b"nobody@v.test", BOUNCE),
        (b"nobody@a.test", BOUNCE),
        (b"locked@v.test", BOUNCE),
        (b"locked@a.test", BOUNCE),
        # Not in users/cdb under its own name: vpopmail does not know the domain.
        (b"ann@only-virtual.test", BOUNCE),
    ],
)
def test_who_is_known(files: Files, recipient: bytes, outcome: Outcome) -> None:
    decision = said(files, recipient)
    assert decision.outcome is outcome, explain(decision)
    assert not decision.undecided


HOSTILE = [b"an%n", b'a"b', b"a(b", b"a,b", b"a:b", b"a;b", b"a<b", b"a\\b", b"a b"]
HOSTILE += [b"a\xe9b", b"a\x01b", b"a\x7fb", b"a[b", b"a]b", b"a)b", b"a@b"]
HARMLESS = [b"a'b", b"a|b", b"a/b", b"a*b", b"a$b", b"a`b", b"a{b", b"a#b", b"../ann"]


@pytest.mark.parametrize("name", HOSTILE)
def test_characters_that_vpopmail_does_not_allow(files: Files, name: bytes) -> None:
    """Even where an account has them."""
    assert not valid_user(name)
    text_accounts(files, [account(name)])
    cdb_accounts(files, [account(name)])
    decision = said(files, name + b"@v.test")
    assert decision.outcome is BOUNCE


@pytest.mark.parametrize("name", HARMLESS)
def test_hostile_names_are_only_names(files: Files, name: bytes) -> None:
    assert valid_user(name)
    decision = said(files, name + b"@v.test")
    assert decision.outcome is BOUNCE, explain(decision)


def test_what_a_domain_may_have() -> None:
    assert valid_domain(b"a-b.C9")
    assert not valid_domain(b"a_b.test")
    assert not valid_domain(b"a/b.test")


def test_long_names_are_cut_where_vpopmail_cuts_them(files: Files) -> None:
    name = b"x" * 156
    text_accounts(files, [account(name)])
    cdb_accounts(files, [account(name)])
    assert said(files, name + b"@v.test").outcome is DELIVER
    assert said(files, name + b"yyy@v.test").outcome is DELIVER
    assert said(files, b"x" * 155 + b"@v.test").outcome is BOUNCE


class TestExtensions:
    """user-anything: only where vpopmail was built so; else it may not be known."""

    def test_by_the_header(self, files: Files) -> None:
        built(files, b"USE_CDB", b"QMAIL_EXT")
        assert said(files, b"ann-x-y@v.test").outcome is DELIVER
        assert said(files, b"eve-x@v.test").outcome is BOUNCE
        # Of the part before the first dash alone.
        assert said(files, b"sales-dept-x@v.test").outcome is BOUNCE
        assert said(files, b"sales-dept@v.test").outcome is DELIVER
        assert said(files, b"locked-x@v.test").outcome is BOUNCE

    def test_by_the_key(self, files: Files) -> None:
        assert said(files, b"ann-x@v.test", qmail_ext=True).outcome is DELIVER
        built(files, b"USE_CDB", b"QMAIL_EXT")
        assert said(files, b"ann-x@v.test", qmail_ext=False).outcome is BOUNCE

    def test_where_it_is_not_known(self, files: Files) -> None:
        files.remove(HOME + b"/include/vpopmail_config.h")
        decision = said(files, b"ann-x@v.test", source="cdb")
        assert decision.outcome is DELIVER
        assert decision.undecided
        assert "vpopmail.qmail_ext" in explain(decision)
        decision = said(files, b"eve-x@v.test", source="cdb")
        assert decision.outcome is BOUNCE

    def test_a_script_was_built_with_nothing(self, files: Files) -> None:
        files.remove(HOME + b"/include/vpopmail_config.h")
        files.file(PROGRAM, b"#!/bin/sh\n", 0o755)
        assert said(files, b"ann-x@v.test").outcome is BOUNCE

    def test_an_alias_that_is_a_file_has_no_extensions(self, files: Files) -> None:
        """vdelivermail looks for aliases only where it was built for a database:
        such a file is qmail-local's.  So the real one does, of 5.6 with cdb."""
        dot(files, b"list", b"&ann@v.test\n")
        assert said(files, b"list@v.test").outcome is FORWARD
        for extensions in (True, False):
            decision = said(files, b"list-x@v.test", qmail_ext=extensions)
            assert decision.outcome is BOUNCE, explain(decision)

    def test_the_default_file_is_no_alias(self, files: Files) -> None:
        assert said(files, b"default@v.test", qmail_ext=True).outcome is BOUNCE

    def test_a_file_of_the_extension(self, files: Files) -> None:
        own(files, DOMAIN + b"/ann/.qmail-shop", b"&nobody@v.test\n")
        own(files, DOMAIN + b"/ann/.qmail-x-default", b"&sales-dept@v.test\n")
        built(files, b"USE_CDB", b"QMAIL_EXT")
        assert said(files, b"ann-shop@v.test").outcome is BOUNCE
        assert said(files, b"ann-x-1@v.test").outcome is FORWARD
        assert said(files, b"ann-y@v.test").outcome is DELIVER


@pytest.mark.parametrize(
    ("default", "outcome"),
    [
        (b"bounce-no-mailbox", BOUNCE),
        (b"delete", DELIVER),
        (b"'delete'", DELIVER),
        (b"somebody@elsewhere.test", FORWARD),
        (b"'&somebody@elsewhere.test'", FORWARD),
        (b"ann@v.test", FORWARD),
        (b"nobody-either@example.test", BOUNCE),
        (DOMAIN + b"/ann", DELIVER),
        (DOMAIN + b"/ann/", DELIVER),
        (DOMAIN + b"/gone", DEFER),
        (b"./ann/Maildir/", DELIVER),
        (b"./mbox", DEFER),
        (b"'|exit 100'", BOUNCE),
        (b"'|exit 0'", DELIVER),
        (b"'|exit 1'", DEFER),
        # One argument, three: a syntax error, deferred.
        (b"", DEFER),
        (b"delete more", DEFER),
    ],
)
def test_the_default(default: bytes, outcome: Outcome) -> None:
    files = vpopmail_files(default)
    cdb_accounts(files, ACCOUNTS)
    built(files, b"USE_CDB")
    decision = said(files, b"nobody@v.test")
    assert decision.outcome is outcome, explain(decision)
    assert not decision.undecided
    wanted = DEFER if default in (b"", b"delete more") else DELIVER
    assert said(files, b"ann@v.test").outcome is wanted


def test_delete_may_be_refused() -> None:
    files = vpopmail_files(b"delete")
    cdb_accounts(files, ACCOUNTS)
    assert said(files, b"nobody@v.test", refuse_deleted=True).outcome is BOUNCE
    assert said(files, b"ann@v.test", refuse_deleted=True).outcome is DELIVER


def test_behind_a_filter_it_decides_as_ever(files: Files) -> None:
    """README.spamassassin of vpopmail has such a line.  So the real one does."""
    line = b"|/usr/bin/spamc -f | " + PROGRAM + b" '' bounce-no-mailbox\n"
    dot(files, b"default", line)
    assert said(files, b"ann@v.test").outcome is DELIVER
    for name in (b"nobody", b"locked"):
        decision = said(files, name + b"@v.test")
        assert decision.outcome is BOUNCE, explain(decision)
        assert not decision.undecided


def test_whoever_decides_is_named() -> None:
    files = vpopmail_files(b"'|/opt/sort-it'")
    cdb_accounts(files, ACCOUNTS)
    decision = said(files, b"nobody@v.test")
    assert decision.reason == "undecided: the program vdelivermail decides"


def test_the_default_loops() -> None:
    files = vpopmail_files(b"nobody@v.test")
    cdb_accounts(files, ACCOUNTS)
    assert said(files, b"someone@v.test").outcome is BOUNCE


def test_dot_qmail_files_come_first(files: Files) -> None:
    dot(files, b"nobody", b"&bob@example.test\n")
    dot(files, b"dead", b"&nobody@example.test\n")
    dot(files, b"team-default", b"&ann@v.test\n")
    assert said(files, b"nobody@v.test").outcome is FORWARD
    assert said(files, b"dead@v.test").outcome is BOUNCE
    assert said(files, b"team-1@v.test").outcome is FORWARD


@pytest.mark.parametrize(
    ("content", "outcome", "undecided"),
    [
        (b"", DELIVER, False),
        (b"./Maildir/\n", DELIVER, False),
        (b"./Maildir/", DELIVER, False),
        (b"# only a comment\n", DELIVER, False),
        (b"&bob@example.test\n", FORWARD, False),
        (b"bob@example.test\n./Maildir/\n", FORWARD, False),
        (b"nobody@example.test\n", BOUNCE, False),
        (b"nobody@example.test\n./Maildir/\n", FORWARD, False),
        (b"./Mailbox\n", DEFER, False),
        (b"./Gone/\n", DEFER, False),
        (b"|exit 100\n", BOUNCE, False),
        (b"|exit 99\n|exit 100\n", DELIVER, False),
        (b"|exit 0\n|exit 100\n", BOUNCE, False),
        (b"|/usr/bin/something\n", DELIVER, True),
        (b"|/usr/bin/something\n|exit 100\n", DELIVER, True),
        (b"Bob <bob@example.test>\n", DELIVER, True),
        (b"bob\n", DELIVER, True),
        (b"\n", DELIVER, True),
        (b"v.test-ann@v.test\n", BOUNCE, False),
    ],
)
def test_the_own_file_of_a_mailbox(
    files: Files, content: bytes, outcome: Outcome, undecided: bool
) -> None:
    own(files, DOMAIN + b"/ann/.qmail", content)
    decision = said(files, b"ann@v.test")
    assert decision.outcome is outcome, explain(decision)
    assert decision.undecided is undecided
    # With an alias domain DTLINE is another, and the next round is a loop.
    assert said(files, b"ann@a.test").outcome is outcome


def test_a_circle_of_own_files_is_a_loop(files: Files) -> None:
    own(files, DOMAIN + b"/ann/.qmail", b"sales-dept@v.test\n")
    own(files, DOMAIN + b"/sales-dept/.qmail", b"ann@v.test\n")
    assert said(files, b"ann@v.test").outcome is BOUNCE


def test_a_missing_home_is_made_anew(files: Files) -> None:
    cdb_accounts(files, [account(b"gone"), b"new:x:1:0:new::NOQUOTA"])
    assert said(files, b"gone@v.test").outcome is DELIVER
    assert said(files, b"new@v.test").outcome is DELIVER


def test_a_home_without_its_maildir_is_deferred(files: Files) -> None:
    """vmake_maildir() is only called for a missing home."""
    owned(files, DOMAIN + b"/half")
    cdb_accounts(files, [account(b"half")])
    assert said(files, b"half@v.test").outcome is DEFER


def test_a_home_that_we_may_not_see_is_undecided(files: Files) -> None:
    error = PermissionError(errno.EACCES, "Permission denied")
    files.errors[DOMAIN + b"/ann"] = error
    decision = said(files, b"ann@v.test")
    assert (decision.outcome, decision.undecided) == (DELIVER, True)


def test_accounts_that_we_may_not_read_are_a_deferral(files: Files) -> None:
    for name in (b"/vpasswd.cdb", b"/vpasswd"):
        own(files, DOMAIN + name, b"")
        files.errors[DOMAIN + name] = PermissionError(errno.EACCES, "Permission denied")
    for name in (b"ann", b"nobody"):
        assert said(files, name + b"@v.test").outcome is DEFER


@pytest.mark.parametrize("damaged", [b"", b"x" * 100, b"\xff" * 2048])
def test_a_damaged_cdb_is_a_deferral(files: Files, damaged: bytes) -> None:
    own(files, DOMAIN + b"/vpasswd.cdb", damaged)
    assert said(files, b"ann@v.test").outcome is DEFER


def test_the_cdb_counts_where_there_are_both() -> None:
    files = vpopmail_files()
    cdb_accounts(files, ACCOUNTS)
    text_accounts(files, [account(b"new")])
    assert said(files, b"ann@v.test").outcome is DELIVER
    assert said(files, b"new@v.test").outcome is BOUNCE


def test_a_change_counts_at_once(files: Files) -> None:
    files.remove(DOMAIN + b"/vpasswd") if _has(files, b"/vpasswd") else None
    host_files = files
    assert said(host_files, b"new@v.test").outcome is BOUNCE
    host_files.now_ns += 1
    cdb_accounts(host_files, [*ACCOUNTS, account(b"new")])
    assert said(host_files, b"new@v.test").outcome is DELIVER


def _has(files: Files, name: bytes) -> bool:
    try:
        files.lstat(DOMAIN + name)
    except FileNotFoundError:
        return False
    return True


class TestWhichSource:
    """What vpopmail was built with, as far as files tell."""

    def test_nothing_is_known(self) -> None:
        files = vpopmail_files()
        decision = said(files, b"nobody@v.test")
        assert (decision.outcome, decision.undecided) == (DELIVER, True)
        assert "vpopmail.source" in explain(decision)

    def test_two_are_there(self) -> None:
        files = vpopmail_files()
        cdb_accounts(files, ACCOUNTS)
        own(files, HOME + b"/etc/vpopmail.mysql", b"localhost|0|u|p|d\n")
        decision = said(files, b"nobody@v.test")
        assert decision.undecided
        assert "cdb and mysql" in explain(decision)
        assert said(files, b"nobody@v.test", source="cdb").outcome is BOUNCE

    def test_the_program_shows_it(self) -> None:
        files = vpopmail_files()
        cdb_accounts(files, ACCOUNTS)
        own(files, HOME + b"/etc/vpopmail.mysql", b"localhost|0|u|p|d\n")
        files.file(PROGRAM, b"\x7fELF\0..\0vpasswd.cdb\0..", 0o755)
        assert said(files, b"nobody@v.test").outcome is BOUNCE

    def test_a_database_that_cannot_be_asked_here(self) -> None:
        files = vpopmail_files()
        own(files, HOME + b"/etc/vpopmail.pgsql", b"localhost|5432|u|secret|d\n")
        decision = said(files, b"nobody@v.test")
        assert (decision.outcome, decision.undecided) == (DELIVER, True)
        assert "secret" not in explain(decision)

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"#!/bin/sh\nvpasswd.cdb\n", Build(extensions=False)),
            (b"\x7fELF", Build()),
            (
                b"\x7fELF vmysql: can't read settings from %s",
                Build("mysql", None, False, None, False, None, False),
            ),
            (
                b"\x7fELF vmysql: can't read settings from, FROM limits, domain is over"
                b" quota",
                Build("mysql", None, False, None, True, None, True),
            ),
            (
                b"\x7fELF vpgsql: can't read settings from x and pw_domain = '%s'",
                Build("pgsql", None, True, None, False, None, False),
            ),
            (
                b"\x7fELF vldap: can't read settings",
                Build("ldap", None, None, None, False, None, False),
            ),
            (b"\x7fELF vldap: can't read settings vpasswd.cdb", Build()),
        ],
    )
    def test_programs(self, content: bytes, found: Build) -> None:
        assert parse_program(content) == found

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", Build()),
            (b"#define USE_MYSQL 1\n#define QMAIL_EXT 1\n", Build("mysql", True)),
            (
                b"/* #undef QMAIL_EXT */\n#define USE_CDB 1\n/* #undef MANY_DOMAINS */",
                Build("cdb", False, False),
            ),
            (b"#define USE_CDB 1\n#define USE_LDAP 1\n", Build()),
            (b"// #define USE_CDB 1\n", Build()),
        ],
    )
    def test_headers(self, content: bytes, found: Build) -> None:
        assert parse_header(content) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"p:1:16:g:/d:NOQUOTA", Mailbox(16, b"/d", b"NOQUOTA")),
        (b"p:1:16:g:/d:1000S:clear", Mailbox(16, b"/d", b"1000S")),
        (b"p:1:x:g:/d", Mailbox(0, b"/d", b"")),
        (b"p:1: 20z", Mailbox(20, b"", b"")),
        (b"", Mailbox(0, b"", b"")),
        (b"p:1:0:g:/d\0:5", Mailbox(0, b"/d", b"")),
    ],
)
def test_accounts(line: bytes, found: Mailbox) -> None:
    assert mailbox(line) == found


def test_the_text_file() -> None:
    accounts = parse_vpasswd(b"a:1\nno colon\na:2\n:3\nlast:4")
    assert accounts == {b"a": b"1", b"": b"3"}


class TestQuota:
    """Over quota, where a key asks for it and a fresh maildirsize says so."""

    @pytest.fixture
    def full(self, files: Files) -> Files:
        cdb_accounts(files, [account(b"ann", quota=b"1000S,10C"), account(b"bea")])
        maildir(files, b"bea")
        size(files, b"ann", b"1000S,10C\n1000 3\n")
        size(files, b"bea", b"1000S\n5000 3\n")
        return files

    def test_accepted_without_the_key(self, full: Files) -> None:
        assert said(full, b"ann@v.test").outcome is DELIVER

    @pytest.mark.parametrize(
        ("key", "outcome"),
        [("reject", Outcome.OVER_QUOTA), ("defer", Outcome.OVER_QUOTA_NOW)],
    )
    def test_over(self, full: Files, key: str, outcome: Outcome) -> None:
        assert at(full, b"ann", key) is outcome
        # Its account says NOQUOTA, whatever the file says.
        assert at(full, b"bea", key) is DELIVER

    @pytest.mark.parametrize(
        ("content", "outcome"),
        [
            (b"x\n999 3\n", DELIVER),
            (b"x\n1000 3\n", Outcome.OVER_QUOTA),
            (b"x\n1 10\n", Outcome.OVER_QUOTA),
            (b"x\n1 9\n", DELIVER),
            (b"", DELIVER),
            (b"x\n800 3\n100 1\n", DELIVER),
            # Over, and more than one line: vpopmail counts anew.
            (b"x\n900 3\n200 1\n", Outcome.NEEDS),
            (b"x\n900 3\n-1000 -1\n", Outcome.NEEDS),
            (b"x\n" + b"y" * 6000, Outcome.NEEDS),
        ],
    )
    def test_what_the_file_says(
        self, full: Files, content: bytes, outcome: Outcome
    ) -> None:
        size(full, b"ann", content)
        assert at(full, b"ann", "reject") is outcome

    def test_an_old_file_says_nothing(self, full: Files) -> None:
        assert at(full, b"ann", "reject", later=16 * 60) is Outcome.NEEDS
        assert at(full, b"ann", "reject", later=14 * 60) is Outcome.OVER_QUOTA


def size(files: Files, name: bytes, content: bytes) -> None:
    own(files, DOMAIN + b"/" + name + b"/Maildir/maildirsize", content)


def at(files: Files, name: bytes, key: str, later: int = 0) -> Outcome:
    settings = HostSettings(vpopmail=vpopmail_keys(over_quota=key))
    host = QmailHost(files, settings, clock=lambda: files.now_ns + later * 10**9)
    return ask(files, name + b"@v.test", host=host).outcome


def test_nothing_of_another_user_is_opened(files: Files) -> None:
    """Reading stays within what the decision needs."""
    said(files, b"nobody@v.test")
    assert not [path for path in files.opened if b"Maildir" in path]
    assert files.lstat(DOMAIN).st_uid == UID
