"""The room in a whole domain of vpopmail: limits, what counts, and vusaged.

What a real vdelivermail, and a real vusaged, did in such cases is what is wanted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.qmail.decide import Decision, Outcome, decide
from proxy.qmail.errors import CannotTell
from proxy.qmail.questions import (
    NOTHING,
    Answer,
    AskAccounts,
    AskCount,
    AskDaemon,
    AskLimits,
    Daemon,
    Found,
    Kind,
    Mailbox,
    NoAnswer,
    Question,
    Quota,
    Stored,
)
from proxy.qmail.usage import Count, Counted, is_trashed, told_size
from proxy.qmail.vpopmail_quota import email_of, parse_limits
from proxy.qmail.vusaged import NOT_WATCHED, domain_is_full, mailbox_is_full, parse
from proxy.qmail.walk import Identity
from tests.support.files import Files, explain
from tests.support.vpopmail_host import (
    DOMAIN,
    HOME,
    UID,
    account,
    built,
    cdb_accounts,
    dot,
    maildir,
    own,
    owned,
    vpopmail_files,
    vpopmail_host,
)

DELIVER, FULL, FULL_NOW = Outcome.DELIVER, Outcome.OVER_QUOTA, Outcome.OVER_QUOTA_NOW
MEGABYTE = 1 << 20
LIMITS = DOMAIN + b"/.qmailadmin-limits"
DEFAULTS = HOME + b"/etc/vlimits.default"
CLIENT = HOME + b"/etc/vusagec.conf"
VPOPMAIL = Identity(UID, UID)


@pytest.fixture
def files() -> Files:
    """ann and bea; bea has two messages of a megabyte in all."""
    it = vpopmail_files()
    cdb_accounts(it, [account(b"ann"), account(b"bea", quota=b"1000S")])
    built(it, b"USE_CDB", b"DOMAIN_QUOTAS", b"USERS_BIG_DIR")
    maildir(it, b"bea")
    message(it, b"bea/Maildir/new/1.a.host", MEGABYTE - 24)
    message(it, b"bea/Maildir/cur/2.a.host,S=24:2,S", 0)
    return it


def message(files: Files, path: bytes, size: int) -> None:
    own(files, DOMAIN + b"/" + path, b"x" * size)


def count(files: Files, kind: Kind = Kind.HASHED, where: bytes = DOMAIN) -> Stored:
    return Count(files, VPOPMAIL, {}, lambda: None).all_of(where, kind)


def decided(
    files: Files,
    recipient: bytes = b"ann@v.test",
    answer: Callable[[Question], Answer] | None = None,
    **keys: object,
) -> Decision:
    """With every question answered, by default by a count."""
    host = vpopmail_host(files, over_quota="reject", **keys)
    host.clock = lambda: files.now_ns
    answers: dict[Question, Answer] = {}
    while True:
        decision = decide(host, recipient, b"s@elsewhere.test", answers=answers)
        need = decision.need
        if need is None:
            return decision
        assert need not in answers
        if answer is not None:
            answers[need] = answer(need)
        else:
            assert isinstance(need, AskCount)
            answers[need] = count(files, need.kind, need.directory)


class TestLimits:
    """Where they are, and that they are held against all there is."""

    @pytest.mark.parametrize(
        ("limits", "outcome"),
        [
            (b"quota: 1\n", FULL),
            (b"quota: 2\n", DELIVER),
            (b"maxmsgcount: 2\n", FULL),
            (b"maxmsgcount: 3\n", DELIVER),
            (b"quota 5\nmaxmsgcount 1\n", FULL),
            (b"quota: 0\nmaxmsgcount: 0\n", DELIVER),
            (b"", DELIVER),
        ],
    )
    def test_of_the_domain(self, files: Files, limits: bytes, outcome: Outcome) -> None:
        own(files, LIMITS, limits)
        decision = decided(files)
        assert decision.outcome is outcome, explain(decision)

    def test_without_any_nothing_is_asked(self, files: Files) -> None:
        assert decided(files, answer=_nobody).outcome is DELIVER

    def test_the_defaults_count_without_a_file_of_the_domain(
        self, files: Files
    ) -> None:
        own(files, DEFAULTS, b"quota 1\n")
        assert decided(files).outcome is FULL
        own(files, LIMITS, b"")
        assert decided(files).outcome is DELIVER

    def test_a_file_that_vpopmail_may_not_read_is_none(self, files: Files) -> None:
        own(files, DEFAULTS, b"quota 1\n")
        files.file(LIMITS, b"quota 9\n", 0o600)
        assert decided(files).outcome is FULL

    def test_a_file_that_only_we_may_not_read(self, files: Files) -> None:
        own(files, LIMITS, b"quota 1\n")
        files.errors[LIMITS] = PermissionError(13, "Permission denied")
        assert decided(files).outcome is Outcome.DEFER

    def test_a_build_without_them(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        built(files, b"USE_CDB")
        assert decided(files, answer=_nobody).outcome is DELIVER

    def test_without_the_key(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        decision = decide(vpopmail_host(files), b"ann@v.test")
        assert decision.outcome is DELIVER

    def test_an_alias_domain_is_the_real_one(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        assert decided(files, b"ann@a.test").outcome is FULL

    def test_the_mailbox_comes_first(self, files: Files) -> None:
        own(files, DOMAIN + b"/bea/Maildir/maildirsize", b"1000S\n1000 3\n")
        own(files, LIMITS, b"quota: 9\n")
        decision = decided(files, b"bea@v.test", _nobody)
        assert decision.reason == "the mailbox is over its quota"

    def test_only_a_delivery_to_a_maildir_is_held_against_it(
        self, files: Files
    ) -> None:
        own(files, LIMITS, b"quota: 1\n")
        own(files, DOMAIN + b"/ann/.qmail", b"&bob@example.test\n")
        assert decided(files, answer=_nobody).outcome is Outcome.FORWARD

    def test_the_reason_names_the_file_and_the_figures(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        decision = decided(files)
        assert decision.reason == "the domain is over its quota"
        said = explain(decision)
        assert f"{LIMITS.decode()}: limits of the domain: 1048576 bytes" in said
        assert "v.test has 1048576 bytes in 2 messages" in said

    def test_defer(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        host = vpopmail_host(files, over_quota="defer")
        answers: dict[Question, Answer] = {}
        while need := decide(host, b"ann@v.test", answers=answers).need:
            answers[need] = count(files)
        assert decide(host, b"ann@v.test", answers=answers).outcome is FULL_NOW


def _nobody(question: Question) -> Answer:
    raise AssertionError(f"asked: {question}")


class TestTheFile:
    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"quota 10\nmaxmsgcount 5\n", Quota(10 * MEGABYTE, 5)),
            (b"quota : \t10MB\r\nmaxmsgcount:5", Quota(10 * MEGABYTE, 5)),
            (b"quota 1\nquota 2\n", Quota(2 * MEGABYTE)),
            (b"#quota 1\n quota 1\nQuota 1\ndefault_quota 1\nquota\n", Quota()),
            (b"quota x\nmaxmsgcount \n", Quota()),
            # So much that it is no limit.
            (b"maxmsgcount -1\n", Quota(0, (1 << 64) - 1)),
            # Of a long file, the whole lines of its first 2048 bytes.
            (b"quota 1\n" + b"x" * 2040 + b"\nquota 2\n", Quota(MEGABYTE)),
            (b"x" * 2041 + b"\nquota 2\n", Quota()),
            (b"x" * 2030 + b"\nquota 2\n", Quota(2 * MEGABYTE)),
        ],
    )
    def test_lines(self, content: bytes, found: Quota) -> None:
        assert parse_limits(content) == found

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            (b"/home/vpopmail/domains/v.test/ann/Maildir/", b"ann@v.test"),
            (b"/home/vpopmail/domains/3/v.test/A/ann/Maildir/", b"ann@v.test"),
            (b"./Maildir/", b"there@b.test"),
            (b"/x/v.test/ann/Maildir/.Sent/", b"ann@v.test"),
            (b"/x/v.test/ann/Maildir/b.c/d/Maildir/", b"d@b.c"),
            (b"/v.test/ann/Maildir/", b""),  # at the top
            (b"/x/y/ann/Maildir/", b""),
            (b"/ann/Maildir/", b""),
            (b"/x/v.test/ann/Mail/", b""),
            (b".x/v.test/ann/Maildir/", b"ann@v.test"),
            (b"v.test/ann/Maildir/", b""),
        ],
    )
    def test_whose_a_maildir_is(self, path: bytes, found: bytes) -> None:
        assert email_of(path, b"/a/b.test/there") == found


class TestCount:
    """Which messages count, and for how much."""

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            (b"1.a.h,S=12", 12),
            (b"1.a.h,S=12,W=13:2,S", 12),
            (b"1.a.h,S=12,S=7", 7),
            (b"1.a.h,S=12x", 12),
            (b"1.a.h,S=", 0),
            (b"1.a.h:2,S=12", None),
            (b"1.a.h:,S=12", None),
            (b"S=12", None),
        ],
    )
    def test_sizes_in_names(self, name: bytes, size: int | None) -> None:
        assert told_size(name) == size

    @pytest.mark.parametrize(
        ("name", "trashed"),
        [
            (b"1.a.h:2,T", True),
            (b"1.a.h:2,FST", True),
            (b"1.a.h:2,STX", True),
            (b"1.a.h:2,S", False),
            (b"1.a.h:2,sT", False),
            (b"1.a.h:1,T", False),
            (b"1.a.h:2,a:2,T", False),
            (b"T", False),
        ],
    )
    def test_deleted_ones(self, name: bytes, trashed: bool) -> None:
        assert is_trashed(name) is trashed

    def test_folders_count_but_for_the_trash(self, files: Files) -> None:
        before = count(files)
        for folder in (b".Sent", b".Trash", b"Sent"):
            for part in (b"", b"/new", b"/cur", b"/tmp"):
                owned(files, DOMAIN + b"/ann/Maildir/" + folder + part)
                if part:
                    message(files, b"ann/Maildir/" + folder + part + b"/1.a.h", 10)
        assert count(files) == Stored(before.size + 20, before.messages + 2)

    def test_what_does_not_count(self, files: Files) -> None:
        before = count(files)
        message(files, b"ann/Maildir/tmp/1.a.h", 10)
        message(files, b"ann/Maildir/new/.1.a.h", 10)
        message(files, b"ann/Maildir/cur/1.a.h:2,T", 10)
        message(files, b"ann/1.a.h", 10)
        files.link(DOMAIN + b"/ann/Maildir/cur/3.a.h", b"nowhere")
        assert count(files) == before

    def test_links_are_followed(self, files: Files) -> None:
        before = count(files)
        files.file(b"/elsewhere", b"x" * 7)
        files.link(DOMAIN + b"/ann/Maildir/cur/3.a.h", b"/elsewhere")
        assert count(files) == Stored(before.size + 7, before.messages + 1)

    def test_what_vpopmail_may_not_list_has_nothing(self, files: Files) -> None:
        owned(files, DOMAIN + b"/bea/Maildir/new", 0o300)
        assert count(files) == Stored(24, 1)

    def test_what_only_we_may_not_list_is_not_counted(self, files: Files) -> None:
        class Closed(Files):
            def listing(self, path: bytes) -> Iterator[bytes]:
                raise PermissionError(13, "Permission denied")

        closed = Closed()
        closed.__dict__.update(files.__dict__)
        with pytest.raises(CannotTell, match="Permission denied"):
            count(closed)

    def test_a_hashed_directory_begins_anew(self, files: Files) -> None:
        """As vpopmail has it, which forgets what it has counted so far."""
        owned(files, DOMAIN + b"/0")
        owned(files, DOMAIN + b"/0/cay")
        for part in (b"", b"/new", b"/cur"):
            owned(files, DOMAIN + b"/0/cay/Maildir" + part)
        message(files, b"0/cay/Maildir/new/1.a.h", 5)
        maildir(files, b"dee")
        message(files, b"dee/Maildir/new/1.a.h", 8)
        assert count(files) == Stored(13, 2)
        assert count(files, Kind.DOMAIN).messages == 3

    def test_directories_without_end(self, files: Files) -> None:
        deep = DOMAIN
        while len(deep) < 260:
            deep += b"/0"
            owned(files, deep)
        with pytest.raises(CannotTell):
            count(files)

    def test_unchanged_mailboxes_are_not_listed_again(self, files: Files) -> None:
        files.now_ns = 10**18 + 1
        message(files, b"ann/Maildir/new/1.a.h", 5)
        seen: list[bytes] = []

        class Watched(Files):
            def listing(self, path: bytes) -> Iterator[bytes]:
                seen.append(path)
                return Files.listing(self, path)

        watched = Watched()
        watched.__dict__.update(files.__dict__)

        def counted(before: dict[bytes, Counted], now: int) -> Count:
            seen.clear()
            return Count(watched, VPOPMAIL, before, lambda: None, lambda: now)

        first = counted({}, (10**18 + 1) + 10**7)
        stored = first.all_of(DOMAIN, Kind.HASHED)
        # ann's was changed just now: what comes next may leave no mark.
        assert [key for key in first.kept if b"/ann/" in key] == []
        second = counted(first.kept, (10**18 + 1) + 10**9)
        assert second.all_of(DOMAIN, Kind.HASHED) == stored
        assert DOMAIN + b"/ann/Maildir/new" in seen
        assert DOMAIN + b"/bea/Maildir/new" not in seen
        third = counted(second.kept, (10**18 + 1) + 2 * 10**9)
        assert third.all_of(DOMAIN, Kind.HASHED) == stored
        assert DOMAIN + b"/ann/Maildir/new" not in seen
        watched.now_ns += 10**9
        message(watched, b"bea/Maildir/new/9.a.h", 5)
        fourth = counted(third.kept, (10**18 + 1) + 4 * 10**9)
        assert fourth.all_of(DOMAIN, Kind.HASHED).messages == stored.messages + 1
        assert DOMAIN + b"/ann/Maildir/new" not in seen

    def test_giving_up(self, files: Files) -> None:
        def pause() -> None:
            raise KeyError("enough")

        with pytest.raises(KeyError, match="enough"):
            Count(files, VPOPMAIL, {}, pause).all_of(DOMAIN, Kind.HASHED)


class TestMailboxes:
    """Where no file tells, the one Maildir is counted; bea's quota is 1000 bytes."""

    @pytest.fixture
    def files(self, files: Files) -> Files:
        files.remove(DOMAIN + b"/bea/Maildir/new/1.a.host")
        own(files, DOMAIN + b"/bea/Maildir/maildirsize", b"1000S\n1000 3\n0 0\n")
        message(files, b"bea/Maildir/new/1.a.host", 900)
        return files

    def test_room(self, files: Files) -> None:
        assert decided(files, b"bea@v.test").outcome is DELIVER

    def test_full(self, files: Files) -> None:
        message(files, b"bea/Maildir/new/3.a.host,S=76", 0)
        decision = decided(files, b"bea@v.test")
        assert decision.reason == "the mailbox is over its quota"
        assert "Maildir/ has 1000 bytes in 3 messages; allowed are 1000 bytes" in (
            explain(decision).replace("\n", " ")
        )

    def test_no_file(self, files: Files) -> None:
        files.remove(DOMAIN + b"/bea/Maildir/maildirsize")
        assert decided(files, b"bea@v.test").outcome is DELIVER
        message(files, b"bea/Maildir/new/3.a.host,S=76", 0)
        assert decided(files, b"bea@v.test").outcome is FULL

    def test_a_file_that_vpopmail_may_not_write_is_none(self, files: Files) -> None:
        own(files, DOMAIN + b"/bea/Maildir/maildirsize", b"1000S\n1000 3\n")
        assert decided(files, b"bea@v.test", _nobody).outcome is FULL
        files.file(DOMAIN + b"/bea/Maildir/maildirsize", b"1000S\n1000 3\n")
        assert decided(files, b"bea@v.test").outcome is DELIVER

    def test_an_account_without_a_quota_is_not_counted(self, files: Files) -> None:
        assert decided(files, answer=_nobody).outcome is DELIVER

    def test_no_count(self, files: Files) -> None:
        decision = decided(files, b"bea@v.test", lambda _: NoAnswer("not yet"))
        assert (decision.outcome, decision.undecided) == (DELIVER, False)


class TestDoubt:
    """Nobody is refused on an old count, nor for want of one."""

    def test_a_refusal_wants_a_fresh_count(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        asked: list[bool] = []

        def answer(question: Question) -> Answer:
            assert isinstance(question, AskCount)
            assert question.directory == DOMAIN
            assert question.identity == VPOPMAIL
            asked.append(question.sure)
            return Stored(0 if question.sure else MEGABYTE, 1)

        assert decided(files, answer=answer).outcome is DELIVER
        assert asked == [False, True]

    def test_no_fresh_count_is_a_deferral(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")

        def answer(question: Question) -> Answer:
            assert isinstance(question, AskCount)
            return NoAnswer("busy") if question.sure else Stored(MEGABYTE, 1)

        decision = decided(files, answer=answer)
        assert decision.outcome is FULL_NOW
        assert "busy" in explain(decision)

    def test_no_count_at_all_is_no_reason_to_refuse(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        """And not in doubt either, which ``qmail.undecided`` might refuse."""
        decision = decided(files, answer=lambda _: NoAnswer("not yet"))
        assert (decision.outcome, decision.undecided) == (DELIVER, False)
        assert "not yet" in explain(decision)


class TestDaemon:
    """What vusaged says counts, in its own way, where vpopmail would ask it."""

    @pytest.fixture
    def client(self, files: Files) -> Files:
        own(files, LIMITS, b"quota: 1\n")
        own(files, CLIENT, b"Server:\n  Disable = False;\n  Filename = /run/v.sock;\n")
        return files

    @pytest.mark.parametrize(
        ("stored", "outcome"),
        [
            (Stored(MEGABYTE - 1, 9), DELIVER),
            (Stored(MEGABYTE, 9), FULL),
            # A domain that it does not watch: the sum wraps.
            (Stored(NOT_WATCHED, NOT_WATCHED), DELIVER),
        ],
    )
    def test_domains(self, client: Files, stored: Stored, outcome: Outcome) -> None:
        def answer(question: Question) -> Answer:
            assert isinstance(question, AskDaemon)
            assert question.daemon == Daemon(CLIENT, b"/run/v.sock")
            assert question.name == b"@v.test"
            return stored

        decision = decided(client, answer=answer)
        assert decision.outcome is outcome, explain(decision)

    @pytest.mark.parametrize(
        ("stored", "outcome"),
        [
            (Stored(1000, 1), FULL),
            (Stored(999, 10**6), DELIVER),
            (Stored(NOT_WATCHED, NOT_WATCHED), DELIVER),
        ],
    )
    def test_mailboxes(self, client: Files, stored: Stored, outcome: Outcome) -> None:
        own(client, DOMAIN + b"/bea/Maildir/maildirsize", b"1000S\n5000 3\n")

        def answer(question: Question) -> Answer:
            assert isinstance(question, AskDaemon)
            return stored if question.name == b"bea@v.test" else Stored(0, 0)

        decision = decided(client, b"bea@v.test", answer)
        assert decision.outcome is outcome, explain(decision)

    def test_silence_leaves_it_to_vpopmail_itself(self, client: Files) -> None:
        def answer(question: Question) -> Answer:
            if isinstance(question, AskDaemon):
                return NoAnswer("connection refused")
            assert isinstance(question, AskCount)
            return count(client, question.kind, question.directory)

        decision = decided(client, answer=answer)
        assert decision.outcome is FULL
        assert "connection refused: vpopmail counts itself" in explain(decision)

    @pytest.mark.parametrize(
        "client",
        [
            b"Server:\n Disable = True;\n Filename = /run/v.sock;\n",
            b"Server:\n // Filename = /run/v.sock;\n",
            b"Other:\n Filename = /run/v.sock;\n",
            b"Server:\n Remote = localhost:189;\n",
            b"",
        ],
    )
    def test_where_it_is_not_asked(self, files: Files, client: bytes) -> None:
        own(files, LIMITS, b"quota: 1\n")
        own(files, CLIENT, client)
        assert decided(files).outcome is FULL  # asserts that only a count is asked

    def test_a_domain_without_a_limit_of_bytes_is_full(self) -> None:
        """So vpopmail has it, once it has asked the daemon."""
        assert domain_is_full(Stored(0, 0), 0, 1000)
        assert not domain_is_full(Stored(5, 0), 6, 1000)
        assert domain_is_full(Stored(0, 1000), 5, 1000)
        assert not mailbox_is_full(Stored(5, 5), 0)

    def test_the_file(self) -> None:
        content = (
            b"/* Server: x = y; */\nServer:\n  /*\n   True or False\n  */\n"
            b"  Disable = False; // no\n  Remote = 127.0.0.1:189;Timeout=3;\n"
            b"  Filename = /a; Filename = /b;\n  unfinished = 1\n"
        )
        assert parse(content) == {
            b"disable": b"False",
            b"remote": b"127.0.0.1:189",
            b"timeout": b"3",
            b"filename": b"/a",
        }

    def test_over_the_network(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        own(files, CLIENT, b"Server: Remote = 127.0.0.1:189; Timeout = 3;\n")

        def answer(question: Question) -> Answer:
            assert isinstance(question, AskDaemon)
            wanted = Daemon(CLIENT, host="127.0.0.1", port=189, timeout=3.0)
            assert question.daemon == wanted
            return Stored(0, 0)

        assert decided(files, answer=answer).outcome is DELIVER


class TestLimitsInMysql:
    """ENABLE_MYSQL_LIMITS: a row counts, and without one the defaults."""

    @pytest.fixture
    def files(self, files: Files) -> Files:
        built(files, b"USE_MYSQL", b"DOMAIN_QUOTAS", b"ENABLE_MYSQL_LIMITS")
        own(files, HOME + b"/etc/vpopmail.mysql", b"localhost|0|u|secret|d\n")
        return files

    def said(self, files: Files, limits: Answer) -> Decision:
        def answer(question: Question) -> Answer:
            if isinstance(question, AskAccounts):
                return Found({}, {b"ann": Mailbox(0, DOMAIN + b"/ann", b"NOQUOTA")})
            if isinstance(question, AskLimits):
                assert question.domain == b"v.test"
                return limits
            return count(files)

        usable = frozenset({"mysql"})
        return decided(files, answer=answer, usable=usable, qmail_ext=False)

    def test_a_row(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 1\n")
        assert self.said(files, Quota(2 * MEGABYTE)).outcome is DELIVER
        assert self.said(files, Quota(MEGABYTE)).outcome is FULL

    def test_no_row(self, files: Files) -> None:
        own(files, LIMITS, b"quota: 9\n")
        assert self.said(files, NOTHING).outcome is DELIVER
        own(files, DEFAULTS, b"quota: 1\n")
        assert self.said(files, NOTHING).outcome is FULL

    def test_a_database_that_is_down(self, files: Files) -> None:
        decision = self.said(files, NoAnswer("it is down"))
        assert decision.outcome is Outcome.DEFER
        assert "secret" not in explain(decision)


def test_an_address_that_is_a_maildir(files: Files) -> None:
    """A default that is a directory belongs to the domain that its path names."""
    own(files, LIMITS, b"quota: 1\n")
    dot(files, b"default", b"| " + HOME + b"/bin/vdelivermail '' " + DOMAIN + b"/bea\n")
    assert decided(files, b"nobody@v.test").outcome is FULL
