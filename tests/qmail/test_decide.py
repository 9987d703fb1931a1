"""The whole way of a recipient: homes, mailboxes, programs, forwards, damage."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.decide import Decision, Outcome, decide
from proxy.qmail.host import HostSettings, QmailHost
from tests.support.cdbmake import make_cdb, make_users_cdb
from tests.support.files import (
    ALIAS,
    ALICE,
    BOB,
    CONTROL,
    PASSWD,
    Files,
    ask,
    explain,
    mail_host_files,
    same_untraced,
)
from tests.support.fuzz import fuzz

ALIAS_HOME = b"/var/qmail/alias/"
ALICE_HOME = b"/home/alice/"


def host_with(**dotqmail: bytes) -> Files:
    """``~alias/.qmail-name`` for every ``name``."""
    files = mail_host_files()
    for name, content in dotqmail.items():
        path = ALIAS_HOME + b".qmail-" + name.replace("_", "-").encode()
        files.file(path, content, uid=ALIAS)
    return files


def outcome(files: Files, local: bytes, sender: bytes = b"ann@x.test") -> Outcome:
    return ask(files, local + b"@example.test", sender).outcome


def alices(line: bytes) -> Files:
    files = mail_host_files()
    files.file(ALICE_HOME + b".qmail", line, uid=ALICE)
    return files


class TestHomes:
    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            (0o755, Outcome.DELIVER),
            (0o775, Outcome.DELIVER),
            (0o700, Outcome.BOUNCE),  # qmail-getpw's user only needs to see it
            (0o757, Outcome.DEFER),
            (0o1755, Outcome.DEFER),
            (0o055, Outcome.DEFER),
        ],
    )
    def test_modes(self, mode: int, expected: Outcome) -> None:
        files = mail_host_files()
        files.change(b"/home/alice", st_mode=stat.S_IFDIR | mode)
        if expected is Outcome.BOUNCE:
            files.remove(ALICE_HOME + b".qmail")
            assert outcome(files, b"alice-x") is expected
        else:
            assert outcome(files, b"alice") is expected

    def test_a_home_that_is_gone_leaves_the_name_to_alias(self) -> None:
        files = mail_host_files()
        files.remove(b"/home/alice")
        assert outcome(files, b"alice") is Outcome.BOUNCE
        files.file(ALIAS_HOME + b".qmail-default", b"&bob\n", uid=ALIAS)
        assert outcome(files, b"alice") is Outcome.FORWARD

    def test_an_alias_home_that_is_gone(self) -> None:
        files = mail_host_files()
        files.remove(b"/var/qmail/alias")
        assert outcome(files, b"nobody") is Outcome.DEFER
        assert outcome(files, b"alice") is Outcome.DELIVER

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            (b"joe:1001:1:/home/alice:::", Outcome.DELIVER),
            (b"joe:0:1:/home/alice:::", Outcome.DEFER),
            (b"joe:4294967295:1:/home/alice:::", Outcome.DEFER),
            (b"joe:1001:4294967295:/home/alice:::", Outcome.DEFER),
            (b"joe:1001:1::::", Outcome.BOUNCE),
            (b"joe:1001:1:home/alice:::", Outcome.BOUNCE),
            (b"joe:1001:1:/absent:::", Outcome.DEFER),
            (b"joe:1001:1:/home/alice/.qmail:::", Outcome.DEFER),
            (b"joe:1001:1:/home/alice:-:x:", Outcome.BOUNCE),
            (b"joe:1001:1:/home/alice::x:", Outcome.DELIVER),
            (b"joe:1001:1:/home/alice", Outcome.DEFER),
        ],
    )
    def test_what_users_cdb_says(self, fields: bytes, expected: Outcome) -> None:
        files = mail_host_files()
        files.file(b"/var/qmail/users/cdb", make_users_cdb([(b"=joe", fields)]))
        assert outcome(files, b"joe") is expected

    @pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFIFO])
    def test_a_users_cdb_that_is_no_file(self, kind: int) -> None:
        files = mail_host_files()
        files.special(b"/var/qmail/users/cdb", kind)
        assert outcome(files, b"alice") is Outcome.DEFER

    def test_a_users_cdb_behind_a_loop(self) -> None:
        files = mail_host_files()
        files.link(b"/var/qmail/users/cdb", b"cdb")
        assert outcome(files, b"alice") is Outcome.DEFER
        assert ask(files, b"x@virt.test").outcome is Outcome.REMOTE

    def test_without_an_alias_user(self) -> None:
        files = mail_host_files()
        files.file(b"/etc/passwd", PASSWD.replace(b"alias:", b"other:"))
        assert outcome(files, b"nobody") is Outcome.DEFER
        assert outcome(files, b"alice") is Outcome.DELIVER


class TestMailboxes:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b"./Mailbox", Outcome.DELIVER),
            (b"./new/box", Outcome.DEFER),
            (b"./.", Outcome.DEFER),
            (b"/var/box", Outcome.DEFER),
            (b"./sub/box", Outcome.DELIVER),
            (b"./theirs", Outcome.DEFER),
            (b"./fifo", Outcome.DEFER),
            (b"./null", Outcome.DEFER),
            (b"./link", Outcome.DELIVER),
            (b"./dangling", Outcome.DELIVER),
            (b"./loop", Outcome.DEFER),
            (b"./" + b"n" * 256, Outcome.DEFER),
            (b"./Maildir/", Outcome.DELIVER),
            (b"./Maildir", Outcome.DEFER),
            (b"./absent/", Outcome.DEFER),
            (b"./half/", Outcome.DEFER),
            (b"./readonly/", Outcome.DEFER),
            (b"./split/", Outcome.DEFER),
            (b"./same/", Outcome.DEFER),
            (b"./Mailbox/", Outcome.DEFER),
        ],
    )
    def test_where_a_line_delivers(self, line: bytes, expected: Outcome) -> None:
        files = alices(line + b"\n")
        for name in (b"Maildir", b"readonly", b"split", b"same"):
            for part in (b"/tmp", b"/new", b"/cur"):
                files.dir(ALICE_HOME + name + part, 0o700, ALICE)
        files.change(ALICE_HOME + b"readonly/new", st_mode=stat.S_IFDIR | 0o500)
        files.change(ALICE_HOME + b"split/new", st_dev=2)
        files.remove(ALICE_HOME + b"same/tmp")
        files.link(ALICE_HOME + b"same/tmp", b"./new")
        files.dir(ALICE_HOME + b"half/tmp", 0o700, ALICE)
        files.dir(ALICE_HOME + b"sub", 0o700, ALICE)
        files.file(ALICE_HOME + b"theirs", b"", 0o644, BOB)
        files.special(ALICE_HOME + b"fifo", stat.S_IFIFO)
        files.special(ALICE_HOME + b"null", stat.S_IFCHR)
        files.link(ALICE_HOME + b"link", b"sub/../Mailbox")
        files.link(ALICE_HOME + b"dangling", b"sub/absent")
        files.link(ALICE_HOME + b"loop", b"loop")
        assert outcome(files, b"alice") is expected

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", Outcome.DELIVER),
            (b"\n", Outcome.DEFER),
            (b"#\n", Outcome.DELIVER),
            (b"./Mailbox\n./absent/\n", Outcome.DEFER),
            (b"./Mailbox\n|exit 100\n", Outcome.BOUNCE),
            (b"|exit 99\n|exit 100\n", Outcome.DELIVER),
            (b"|exit 99\n./absent/\n", Outcome.DELIVER),
            (b"|exit 0\n|exit 111\n", Outcome.DEFER),
            (b"|exit 1\n|exit 100\n", Outcome.DEFER),
            (b"+list\n./Mailbox\n", Outcome.DEFER),
            (b"+list\n|exit 100\n", Outcome.DEFER),
            (b"+list\n&bob\n", Outcome.FORWARD),
            (b"&nobody\n|exit 100\n", Outcome.BOUNCE),
            (b"&nobody\n|exit 111\n", Outcome.DEFER),
            (b"&nobody\n./Mailbox\n", Outcome.FORWARD),
            (b"&bob\n|exit 99\n&nobody\n", Outcome.FORWARD),
            (b"&nobody\n|exit 99\n&bob\n", Outcome.BOUNCE),
            (b"&nobody\n|thing\n", Outcome.FORWARD),
            (b"|forward nobody@example.test\n", Outcome.BOUNCE),
            (b"|bouncesaying no false\n&nobody\n", Outcome.BOUNCE),
            (b"|except false\n&nobody\n", Outcome.BOUNCE),
            (b"|condredirect bob false\n&nobody\n", Outcome.BOUNCE),
            (b'|[ "$EXT" = x ] || exit 0\n&nobody\n', Outcome.BOUNCE),
            (b"|bouncesaying no false\n", Outcome.DELIVER),
            (b"|bouncesaying no false\n&bob\n", Outcome.FORWARD),
            (b"|exit 0\n&nobody\n", Outcome.BOUNCE),
            (b"|\n&nobody\n", Outcome.BOUNCE),
            (b"|condredirect bob true\n|exit 100\n", Outcome.FORWARD),
            (b"|condredirect bob false\n|exit 100\n", Outcome.BOUNCE),
        ],
    )
    def test_lines_in_order(self, content: bytes, expected: Outcome) -> None:
        files = alices(content)
        files.control(b"envnoathost", b"example.test\n")
        assert outcome(files, b"alice") is expected

    def test_the_execute_bit_allows_forwards_only(self) -> None:
        for content, expected in (
            (b"./Mailbox\n", Outcome.DEFER),
            (b"|exit 0\n", Outcome.DEFER),
            (b"&bob@example.test\n", Outcome.FORWARD),
            (b"", Outcome.DELIVER),  # the default delivery is obeyed
        ):
            files = alices(content)
            path = ALICE_HOME + b".qmail"
            files.change(path, st_mode=stat.S_IFREG | 0o744)
            assert outcome(files, b"alice") is expected

    @pytest.mark.parametrize(
        ("default", "expected"),
        [
            (b"./Mailbox", Outcome.DELIVER),
            (b"./absent/", Outcome.DEFER),
            (b"", Outcome.DEFER),
            (b"#", Outcome.DELIVER),
            (b"&nobody@example.test", Outcome.BOUNCE),
            (b"&nobody@example.test\n./Mailbox", Outcome.FORWARD),
            (b"|exit 100", Outcome.BOUNCE),
        ],
    )
    def test_the_default_delivery(self, default: bytes, expected: Outcome) -> None:
        files = mail_host_files()
        files.remove(ALICE_HOME + b".qmail")
        settings = HostSettings(default_delivery=default)
        decision = ask(files, b"alice@example.test", settings=settings)
        assert decision.outcome is expected
        assert "is not there: the default delivery" in explain(decision)

    def test_an_unknown_program_is_given_the_benefit_of_the_doubt(self) -> None:
        for later in (b"", b"|exit 100\n", b"./absent/\n", b"&" + b"x" * 2000 + b"\n"):
            decision = ask(alices(b"|/bin/thing\n" + later), b"alice@example.test")
            assert decision.outcome in (Outcome.DELIVER, Outcome.FORWARD)
            assert decision.undecided
        decision = ask(alices(b"|exit 100\n|/bin/thing\n"), b"alice@example.test")
        assert decision.outcome is Outcome.BOUNCE


class TestForwards:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"&alice@example.test\n", Outcome.FORWARD),
            (b"&x@elsewhere.test\n", Outcome.FORWARD),
            (b"&nobody@example.test\n", Outcome.BOUNCE),
            (b"&nobody@example.test\n&alice@example.test\n", Outcome.FORWARD),
            (b"&broken@example.test\n", Outcome.FORWARD),
            (b"&broken@example.test\n&nobody@example.test\n", Outcome.DEFER),
            (b"&a@example.test\n", Outcome.BOUNCE),
            (b"&A@example.test\n", Outcome.BOUNCE),
            (b"&@example.test\n&nobody@example.test\n", Outcome.FORWARD),
            (b"&" + b"x" * 1002 + b"\n", Outcome.FORWARD),
            (b"&" + b"x" * 1003 + b"\n", Outcome.BOUNCE),
            (b"& alice@example.test\n", Outcome.BOUNCE),
        ],
    )
    def test_where_copies_go(self, content: bytes, expected: Outcome) -> None:
        files = host_with(a=content, broken=b"\n")
        assert outcome(files, b"a") is expected

    def test_a_circle(self) -> None:
        files = host_with(
            a=b"&b@example.test\n", b=b"&c@example.test\n", c=b"&a@example.test\n"
        )
        decision = ask(files, b"a@example.test")
        assert decision.outcome is Outcome.BOUNCE
        assert not decision.undecided
        assert "a@example.test again: it loops" in explain(decision)

    def test_a_circle_through_the_percent_hack_and_case(self) -> None:
        files = host_with(a=b"&A%Example.test@HACK.test\n")
        files.control(b"percenthack", b"hack.test\n")
        assert outcome(files, b"a") is Outcome.BOUNCE

    def test_a_circle_whose_names_grow(self) -> None:
        """Every turn has another Delivered-To line: qmail would go on for long."""
        files = host_with(a_default=b'|forward "a-x$DEFAULT@example.test"\n')
        decision = ask(files, b"a-@example.test")
        assert decision.outcome is Outcome.FORWARD
        assert decision.undecided

    @pytest.mark.parametrize("width", [2, 3, 50])
    def test_forwards_that_fork_at_every_step_end(self, width: int) -> None:
        files = mail_host_files()
        for number in range(30):
            lines = [
                b"&l%d-%d@example.test\n" % (number + 1, copy) for copy in range(width)
            ]
            path = ALIAS_HOME + b".qmail-l%d-default" % number
            files.file(path, b"".join(lines), uid=ALIAS)
        decision = ask(files, b"l0-x@example.test")
        assert decision.undecided
        assert decision.outcome is Outcome.FORWARD
        assert len(decision.trail) < 100_000

    def test_a_list_of_very_many_is_not_followed_to_its_end(self) -> None:
        files = host_with(a=b"&nobody@example.test\n" * 20_000)
        decision = ask(files, b"a@example.test")
        assert (decision.outcome, decision.undecided) == (Outcome.FORWARD, True)
        notes = [step.note() for step in decision.trail]
        assert sum(note.startswith("too many forwards") for note in notes) == 1

    def test_a_copy_has_a_sender_of_its_own(self) -> None:
        """-owner-default makes the sender of each copy name its recipient."""
        test = b'|bouncesaying no [ "$SENDER" != list-owner-bob=example.test@h ]\n'
        files = host_with(
            list=b"&bob@example.test\n", list_owner=b"", list_owner_default=b""
        )
        files.file(b"/home/bob/.qmail", test.replace(b"@h", b"@example.test"), uid=BOB)
        assert outcome(files, b"list") is Outcome.FORWARD
        assert outcome(files, b"list", sender=b"") is Outcome.BOUNCE

    @pytest.mark.parametrize(
        ("host", "name", "value"),
        [
            (b"a.b.test", b"EXT2", b"x-y"),
            (b"a.b.test", b"EXT3", b"y"),
            (b"a.b.test", b"EXT4", b""),
            (b"a.b.test", b"HOST2", b"a.b"),
            (b"a.b.test", b"HOST3", b"a"),
            (b"a.b.test", b"HOST4", b"a"),
            (b"test", b"HOST2", b"test"),
        ],
    )
    def test_parts_of_extension_and_host(
        self, host: bytes, name: bytes, value: bytes
    ) -> None:
        """qmail-command.8; qmail-local.c."""
        files = mail_host_files()
        for list_file in (b"locals", b"rcpthosts"):
            files.control(list_file, host + b"\n")
        line = b'|[ "$%s" = "%s" ] || exit 100\n' % (name, value)
        files.file(b"/home/alice/.qmail-default", line, uid=ALICE)
        assert ask(files, b"alice-ext-x-y@" + host).outcome is Outcome.DELIVER
        assert ask(files, b"alice-q-z-z-y.z@" + host).outcome is (
            Outcome.DELIVER if name.startswith(b"HOST") else Outcome.BOUNCE
        )


class TestRemoteAndNobody:
    def test_other_ends(self) -> None:
        files = mail_host_files()
        assert ask(files, b"x@virt.test").outcome is Outcome.REMOTE
        assert ask(files, b"@example.test").outcome is Outcome.DISCARD
        assert ask(files, b"").outcome is Outcome.REMOTE  # @mx.example.test
        assert ask(files, b"x@other.test").outcome is Outcome.NOT_RELAYED

    def test_what_follows_a_nul_is_not_seen(self) -> None:
        files = mail_host_files()
        assert ask(files, b"alice@example.test\0x").outcome is Outcome.DELIVER
        assert ask(files, b"nobody\0@example.test").outcome is Outcome.REMOTE

    def test_the_trail_names_file_and_line(self) -> None:
        files = mail_host_files()
        files.control(b"virtualdomains", b"#\n#\nvirt.test:alice-virt\n")
        files.file(ALICE_HOME + b".qmail-virt-default", b"#\n./Mailbox\n", uid=ALICE)
        text = explain(ask(files, b"Sales@Virt.test"))
        assert "control/rcpthosts:2: virt.test is listed" in text
        assert "control/virtualdomains:3: virt.test is handled by alice-virt" in text
        assert "/home/alice/.qmail-virt-default:2: delivered to mbox" in text


class TestTrouble:
    """What cannot be found out is a deferral and never a refusal."""

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            (b"/", Outcome.BROKEN),
            (b"/etc/passwd", Outcome.BROKEN),
            (CONTROL + b"me", Outcome.BROKEN),
            (CONTROL + b"locals", Outcome.DEFER),
            (b"/var/qmail/users", Outcome.DEFER),
            (b"/home/alice", Outcome.DEFER),
            (ALICE_HOME + b".qmail", Outcome.DEFER),
            (ALICE_HOME + b"Mailbox", Outcome.DEFER),
        ],
    )
    @pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
    def test_a_place_we_cannot_see(
        self, path: bytes, expected: Outcome, code: int
    ) -> None:
        files = mail_host_files()
        files.errors[path] = OSError(code, "trouble")
        decision = ask(files, b"alice@example.test")
        assert decision.outcome is expected
        assert "trouble" in explain(decision)

    def test_a_dot_qmail_that_is_too_large(self) -> None:
        files = alices(b"#" * (5 << 20))
        assert outcome(files, b"alice") is Outcome.DEFER

    def test_a_passwd_that_is_a_fifo(self) -> None:
        files = mail_host_files()
        files.special(b"/etc/passwd", stat.S_IFIFO)
        files.errors[b"/etc/passwd"] = OSError(errno.EINVAL, "not a regular file")
        assert outcome(files, b"alice") is Outcome.BROKEN

    def test_a_host_without_accounts(self) -> None:
        files = mail_host_files()
        files.remove(b"/etc/passwd")
        assert outcome(files, b"alice") is Outcome.DEFER

    def test_control_files_qmail_send_cannot_read(self) -> None:
        files = mail_host_files()
        files.file(CONTROL + b"virtualdomains", b"", 0o600)
        decision = ask(files, b"alice@example.test")
        assert decision.outcome is Outcome.DEFER
        assert "control/virtualdomains: qmail cannot read it" in explain(decision)


NAMES = st.sampled_from([b"alice", b"bob", b"a", b"a-b", b"-", b"x@y", b"", b"root"])
LINES = st.lists(
    st.sampled_from(
        b"""./Mailbox ./Maildir/ /etc/passwd &alice a@example.test |exit~99 |exit~100
        |forward~"$EXT"@v.test |thing +list # &@ example.test .v.test:a v.test: :alice
        % alice@v.test:bob-x""".split()
    ).map(lambda line: line.replace(b"~", b" "))
    | st.binary(max_size=12),
    max_size=6,
).map(b"\n".join)
CONTENT = st.one_of(LINES, st.binary(max_size=60))
CDB = st.lists(st.tuples(st.sampled_from([b"", b"!", b"!a", b"!a-b\0"]), CONTENT)).map(
    make_cdb
) | st.binary(max_size=2100)
CONTROLS = b"""me locals rcpthosts virtualdomains percenthack envnoathost localiphost
badmailfrom smtpgreeting""".split()
PLACES = {
    **{CONTROL + name: CONTENT for name in CONTROLS},
    CONTROL + b"morercpthosts.cdb": CDB,
    b"/var/qmail/users/cdb": CDB,
    b"/etc/passwd": CONTENT.map(lambda content: PASSWD + content),
    b"/etc/group": CONTENT,
    ALICE_HOME + b".qmail": CONTENT,
    ALICE_HOME + b".qmail-default": CONTENT,
    ALIAS_HOME + b".qmail-default": CONTENT,
    ALIAS_HOME + b".qmail-a-default": CONTENT,
}
RECIPIENTS = st.one_of(
    st.binary(max_size=40),
    st.tuples(
        NAMES | st.text(alphabet="aA-.%/\0", max_size=8).map(str.encode),
        st.sampled_from(
            [b"", b"@", b"@example.test", b"@v.test", b"@sub.v.test", b"@[127.0.0.1]"]
        ),
    ).map(b"".join),
)


@fuzz
@given(st.data())
def test_any_files_and_any_recipient_have_an_answer(data: st.DataObject) -> None:
    files = mail_host_files()
    changed = data.draw(st.sets(st.sampled_from(sorted(PLACES)), max_size=6))
    for path in sorted(changed):
        files.file(path, data.draw(PLACES[path]), uid=ALICE if b"alice/" in path else 0)
    host = QmailHost(files)
    for _ in range(3):
        recipient = data.draw(RECIPIENTS)
        sender = data.draw(RECIPIENTS)
        trusted = data.draw(st.sampled_from([None, b"", b"@v.test"]))
        decision = decide(host, recipient, sender, trusted)
        assert isinstance(decision, Decision)
        assert decision.reason
        assert explain(decision) or not decision.trail
        same_untraced(host, decision, recipient, sender, trusted)
        again = decide(host, recipient, sender, trusted)
        assert (again.outcome, again.trail) == (decision.outcome, decision.trail)
