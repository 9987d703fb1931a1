"""Mailing lists of ezmlm: who may write to which of a list's addresses."""

from __future__ import annotations

import pytest

from proxy.qmail.decide import Decision, Outcome, decide
from proxy.qmail.host import HostSettings, QmailHost
from tests.support.files import ALICE, Files, mail_host_files

HOME = b"/home/alice/"
DIR = HOME + b"list"
BIN = b"/usr/bin/ezmlm/"
SENDER = b"ann@x.test"
SOME = b"a" * 20  # as long as a cookie

# What ezmlm-make of ezmlm-idx 7 writes.
EDITOR = b"""\
|if test ! -f 'D/sublist'; then B/ezmlm-reject 'D'; fi
|if test ! -f 'D/sublist'; then B/ezmlm-checksub -n 'D' deny; fi
|if test ! -f 'D/subpostonly'; then B/ezmlm-store 'D'; fi
|B/ezmlm-clean 'D' || exit 0
|if test -f 'D/threaded'; then B/ezmlm-archive 'D' || exit 0; fi
|B/ezmlm-warn 'D' || exit 0
|if test -e 'D/digested' && B/ezmlm-tstdig 'D'; then B/ezmlm-get 'D' || exit 0; fi
"""
MANAGER = b"""\
|B/ezmlm-weed
|B/ezmlm-get 'D'
|B/ezmlm-split 'D'
|B/ezmlm-request 'D'
|B/ezmlm-manage 'D'
|B/ezmlm-clean 'D' || exit 0
|B/ezmlm-warn 'D' || exit 0
"""
BOUNCER = b"|B/ezmlm-weed\n|B/ezmlm-return -D 'D'\n"
MODERATOR = b"|B/ezmlm-weed\n|B/ezmlm-moderate 'D'\n"
OLD_EDITOR = b"|B/ezmlm-reject\n|B/ezmlm-send 'D'\n|B/ezmlm-warn 'D' || exit 0\n"
OLD_MANAGER = b"|B/ezmlm-manage 'D'\n|B/ezmlm-warn 'D' || exit 0\n"


def a_list(*, editor: bytes = EDITOR, manager: bytes = MANAGER) -> Files:
    files = mail_host_files()
    files.dir(DIR, uid=ALICE)
    contents = {
        b"editor": editor,
        b"manager": manager,
        b"bouncer": BOUNCER,
        b"moderator": MODERATOR,
        b"owner": b"&alice@example.test\n",
    }
    for name, content in contents.items():
        content = content.replace(b"B/", BIN).replace(b"'D", b"'" + DIR)
        files.file(DIR + b"/" + name, content, uid=ALICE)
    links = {
        b"": b"editor",
        b"-owner": b"owner",
        b"-digest-owner": b"owner",
        b"-return-default": b"bouncer",
        b"-digest-return-default": b"bouncer",
        b"-default": b"manager",
        b"-accept-default": b"moderator",
    }
    for end, name in links.items():
        files.link(HOME + b".qmail-list" + end, DIR + b"/" + name)
    return files


OLD = a_list(editor=OLD_EDITOR, manager=OLD_MANAGER)
NEW = a_list()


def ask(
    files: Files, end: bytes, sender: bytes = SENDER, *, strict: bool = False
) -> Decision:
    host = QmailHost(files, HostSettings(ezmlm_unknown_words=not strict))
    address = b"alice-list" + end + b"@example.test"
    decision = decide(host, address, sender)
    assert decision.outcome is decide(host, address, sender, traced=False).outcome
    return decision


@pytest.mark.parametrize("files", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize(
    "end",
    [b"", b"-subscribe", b"-help", b"-nonsense", b"-subscribe-joe=x.test", b"-get.1"],
)
def test_people_may_write_to_a_list_and_bounces_may_not(
    files: Files, end: bytes
) -> None:
    assert ask(files, end).outcome is Outcome.DELIVER
    assert ask(files, end).undecided
    for sender in (b"", b"#@[]"):
        refused = ask(files, end, sender)
        assert refused.outcome is Outcome.BOUNCE
        assert "bounces" in refused.reason


@pytest.mark.parametrize("sender", [b"", b"#@[]", SENDER])
@pytest.mark.parametrize(
    "end",
    [
        b"-return-12-joe=x.test",
        b"-return-12-",
        b"-digest-return-3-joe=x.test",
        b"-return-warn-123." + SOME + b"-joe=x.test",
        b"-return-probe-123." + SOME + b"-joe=x.test",
        b"-return-m-" + SOME + b"-4-",
        b"-return-receipt-" + SOME + b"-4-",
        b"-return-receipt-g-" + SOME + b"-4-2",
    ],
)
def test_bounces_come_back_to_the_list(end: bytes, sender: bytes) -> None:
    decision = ask(NEW, end, sender)
    assert decision.outcome is Outcome.DELIVER
    assert not decision.undecided


def test_bounces_of_the_managers_own_answers_come_back() -> None:
    for end in (b"-return-", b"-return-receipt-", b"-return-m-"):
        assert ask(NEW, end, b"").outcome is Outcome.DELIVER
        assert not ask(NEW, end, b"").undecided
        assert ask(NEW, end).undecided


@pytest.mark.parametrize("end", [b"-owner", b"-digest-owner"])
def test_the_owner_gets_everything(end: bytes) -> None:
    assert ask(NEW, end, b"").outcome is Outcome.FORWARD
    assert ask(NEW, end).outcome is Outcome.FORWARD


@pytest.mark.parametrize("end", [b"-return-x", b"-return-12", b"-return-m-short-4-"])
def test_what_is_no_return_address_is_refused(end: bytes) -> None:
    assert ask(NEW, end, b"").outcome is Outcome.BOUNCE


def test_moderators_answers_are_no_bounces() -> None:
    end = b"-accept-123.45." + SOME
    assert ask(NEW, end, b"").outcome is Outcome.BOUNCE
    assert ask(NEW, end).undecided


def test_a_command_wants_a_sender_with_a_domain() -> None:
    assert ask(NEW, b"-help", b"joe").outcome is Outcome.BOUNCE
    assert ask(NEW, b"", b"joe").undecided


@pytest.mark.parametrize(
    ("end", "refused"),
    [
        (b"-nonsense", True),
        (b"-sales", True),
        (b"-info", False),
        (b"-INFO", False),
        (b"-subscribe-joe=x.test", False),
        (b"-subscriber", True),
        (b"-sc.123." + SOME + b"-joe=x.test", False),
        (b"-digest-subscribe", False),
        (b"-allow-subscribe-joe=x.test", False),
        (b"-deny-list", False),
        (b"-get.1_20", False),
        (b"-log-x", False),
        (b"-", False),
    ],
)
def test_unknown_words_may_be_refused(end: bytes, refused: bool) -> None:
    expected = Outcome.BOUNCE if refused else Outcome.DELIVER
    assert ask(NEW, end, strict=True).outcome is expected
    assert ask(NEW, end).outcome is Outcome.DELIVER


def test_a_list_whose_directory_is_gone_defers() -> None:
    files = mail_host_files()
    line = b"|" + BIN + b"ezmlm-send '" + DIR + b"'\n"
    files.file(HOME + b".qmail-list", line, uid=ALICE)
    decision = ask(files, b"")
    assert decision.outcome is Outcome.DEFER
    assert "directory of the list" in decision.reason


def test_conditions_of_the_editor_are_looked_up() -> None:
    files = a_list()
    files.file(DIR + b"/sublist", b"main@example.test\n", uid=ALICE)
    files.file(DIR + b"/subpostonly", b"", uid=ALICE)
    # Nothing is asked of the sender: what is left of the file always succeeds.
    decision = ask(files, b"", b"")
    assert decision.outcome is Outcome.DELIVER
    assert not decision.undecided


def test_the_program_that_decides_is_named() -> None:
    assert ask(OLD, b"-help").reason == "undecided: the program ezmlm-manage decides"
    assert ask(OLD, b"").reason == "undecided: the program ezmlm-reject decides"


LISTS = HOME + b"lists"


def dispatching(name: bytes = b"", line: bytes = b"") -> Files:
    """Lists below one directory, and one line for all of them."""
    files = mail_host_files()
    line = line or b"|" + BIN + b"ezmlm-dispatch " + LISTS + name + b"\n"
    files.file(HOME + b".qmail-all-default", line, uid=ALICE)
    files.file(HOME + b".qmail-all", line, uid=ALICE)
    files.dir(LISTS, uid=ALICE)
    for each in (b"one", b"one-more", b"empty"):
        files.dir(LISTS + b"/" + each, uid=ALICE)
    contents = {
        b"one/editor": EDITOR,
        b"one/manager": MANAGER,
        b"one/bouncer": BOUNCER,
        b"one/owner": b"# mine\n &alice@example.test\n\t|true\n",
        b"one-more/editor": EDITOR,
        b"one-more/manager": MANAGER,
        b"one-more/owner": b"/home/alice/Mailbox\n",
    }
    for path, content in contents.items():
        directory = LISTS + b"/" + path.rpartition(b"/")[0]
        content = content.replace(b"B/", BIN).replace(b"'D", b"'" + directory)
        files.file(LISTS + b"/" + path, content, uid=ALICE)
    return files


def dispatched(files: Files, end: bytes, sender: bytes = SENDER) -> Decision:
    return decide(QmailHost(files), b"alice-all" + end + b"@example.test", sender)


@pytest.mark.parametrize(
    ("end", "sender", "outcome", "undecided"),
    [
        (b"-one", SENDER, Outcome.DELIVER, True),
        (b"-one", b"", Outcome.BOUNCE, False),
        (b"-one-help", SENDER, Outcome.DELIVER, True),
        (b"-one-help", b"", Outcome.BOUNCE, False),
        (b"-one-owner", b"", Outcome.FORWARD, False),
        (b"-one-digest-owner", SENDER, Outcome.FORWARD, False),
        (b"-one-return-3-joe=x.test", b"", Outcome.DELIVER, False),
        (b"-one-return-x", b"", Outcome.BOUNCE, False),
        # No digest/bouncer, no moderator: the manager's.
        (b"-one-digest-return-3-joe=x.test", b"", Outcome.BOUNCE, False),
        (b"-one-accept-1." + SOME, SENDER, Outcome.DELIVER, True),
        # The longest name that is a list's.
        (b"-one-more", b"", Outcome.BOUNCE, False),
        (b"-one-more-help", SENDER, Outcome.DELIVER, True),
        (b"-one-more-return-3-joe=x.test", SENDER, Outcome.DELIVER, True),
        # ezmlm-dispatch delivers to no file.
        (b"-one-more-owner", SENDER, Outcome.BOUNCE, False),
        # Names are compared letter by letter.
        (b"-ONE", SENDER, Outcome.BOUNCE, False),
        (b"-two", SENDER, Outcome.BOUNCE, False),
        (b"-two-one", SENDER, Outcome.BOUNCE, False),
        (b"-", SENDER, Outcome.BOUNCE, False),
        (b"-../lists/one", SENDER, Outcome.BOUNCE, False),
        (b"", SENDER, Outcome.BOUNCE, False),
        # Its files are not there.
        (b"-empty", SENDER, Outcome.DEFER, False),
        (b"-empty-x", SENDER, Outcome.DEFER, False),
    ],
)
def test_one_program_for_many_lists(
    end: bytes, sender: bytes, outcome: Outcome, undecided: bool
) -> None:
    """Compared with the real ezmlm-dispatch of ezmlm-idx 7, below qmail-local."""
    decision = dispatched(dispatching(), end, sender)
    assert (decision.outcome, decision.undecided) == (outcome, undecided), decision


@pytest.mark.parametrize(
    ("end", "sender", "outcome"),
    [
        (b"", b"", Outcome.BOUNCE),
        (b"", SENDER, Outcome.DELIVER),
        (b"-owner", b"", Outcome.FORWARD),
        (b"-return-3-joe=x.test", b"", Outcome.DELIVER),
        (b"-one", b"", Outcome.BOUNCE),
    ],
)
def test_one_program_for_one_list(end: bytes, sender: bytes, outcome: Outcome) -> None:
    assert dispatched(dispatching(b" one"), end, sender).outcome is outcome


def test_dispatching_to_a_list_that_is_not_there() -> None:
    assert dispatched(dispatching(b" two"), b"-x").outcome is Outcome.BOUNCE
    assert dispatched(dispatching(line=b"|/b/ezmlm-dispatch\n"), b"-x").outcome is (
        Outcome.BOUNCE
    )


@pytest.mark.parametrize(
    ("owner", "outcome", "undecided"),
    [
        (b"", Outcome.DELIVER, False),
        (b"#\n", Outcome.DELIVER, False),
        (b"|exit 100\n", Outcome.BOUNCE, False),
        (b"|exit 1\n", Outcome.DEFER, False),
        (b"|exit 99\n|exit 100\n", Outcome.DELIVER, False),
        (b"|/opt/robot\n|exit 100\n", Outcome.DELIVER, True),
        (b"|exit 100\n|/opt/robot\n", Outcome.BOUNCE, False),
        (b"&nobody@example.test\n", Outcome.BOUNCE, False),
        (b"|exit 0\n./Maildir/\n", Outcome.BOUNCE, False),
        (b"\n", Outcome.DELIVER, True),
    ],
)
def test_lines_that_ezmlm_dispatch_obeys(
    owner: bytes, outcome: Outcome, undecided: bool
) -> None:
    files = dispatching()
    files.file(LISTS + b"/one/owner", owner, uid=ALICE)
    decision = dispatched(files, b"-one-owner")
    assert (decision.outcome, decision.undecided) == (outcome, undecided), decision


def test_a_pipe_is_not_read_twice() -> None:
    line = b"|preline " + BIN + b"ezmlm-dispatch " + LISTS + b"\n"
    assert dispatched(dispatching(line=line), b"-one").outcome is Outcome.DEFER
