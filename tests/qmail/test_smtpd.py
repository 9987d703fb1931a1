"""What qmail-smtpd itself says to a recipient."""

from __future__ import annotations

import stat
import struct

import pytest

from proxy.qmail.control import ControlError
from proxy.qmail.decide import Outcome
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.smtpd import read_settings
from tests.support.cdbmake import make_cdb
from tests.support.files import CONTROL, Files, ask, mail_host_files


def allowed(files: Files, recipient: bytes) -> bool:
    outcome = ask(files, recipient).outcome
    assert outcome is not Outcome.BROKEN
    return outcome is not Outcome.NOT_RELAYED


@pytest.mark.parametrize(
    ("recipient", "yes"),
    [
        (b"x@example.test", True),
        (b"x@EXAMPLE.Test", True),
        (b"x@sub.example.test", False),
        (b"x@example.test.", False),
        (b"x@.example.test", False),
        (b"x@wild.test", False),
        (b"x@a.wild.test", True),
        (b"x@a.b.WILD.test", True),
        (b"x@.wild.test", True),
        (b"x@y@example.test", True),
        (b"x@example.test@other.test", False),
        (b"x%other.test@example.test", True),
        (b"x@", False),
        (b"x", True),
        (b"", True),
        (b"x@#comment.test", False),
        (b"x@spaced.test", True),
    ],
)
def test_rcpthosts(recipient: bytes, yes: bool) -> None:
    files = mail_host_files()
    names = b"example.test\n.Wild.test\n#comment.test\nspaced.test \t\n"
    files.control(b"rcpthosts", names)
    assert allowed(files, recipient) is yes


def test_rcpthosts_empty_and_missing() -> None:
    files = mail_host_files()
    files.control(b"rcpthosts", b"")
    assert not allowed(files, b"x@example.test")
    assert allowed(files, b"x")
    files.remove(CONTROL + b"rcpthosts")
    assert allowed(files, b"x@anywhere.test")


def test_a_single_dot_is_no_catch_all() -> None:
    files = mail_host_files()
    files.control(b"rcpthosts", b".\n")
    assert not allowed(files, b"x@example.test")
    assert allowed(files, b"x@example.")


def test_morercpthosts() -> None:
    files = mail_host_files()
    more = make_cdb([(b"more.test", b""), (b".dot.test", b"")])
    files.control(b"morercpthosts.cdb", more)
    assert allowed(files, b"x@MORE.test")
    assert allowed(files, b"x@a.dot.test")
    assert not allowed(files, b"x@dot.test")
    assert not allowed(files, b"x@a.more.test")
    # What is stored under a domain is not looked at.
    cut = make_cdb([(b"more.test", b"")]).replace(
        struct.pack("<II", 9, 0) + b"more.test",
        struct.pack("<II", 9, 1 << 30) + b"more.test",
    )
    files.control(b"morercpthosts.cdb", cut)
    assert allowed(files, b"x@more.test")
    # Without rcpthosts the cdb is not even opened.
    files.remove(CONTROL + b"rcpthosts")
    files.file(CONTROL + b"morercpthosts.cdb", more, 0o600)
    assert allowed(files, b"x@anywhere.test")


def _damaged(files: Files) -> None:
    files.control(b"morercpthosts.cdb", b"short")


def _directory(files: Files) -> None:
    files.dir(CONTROL + b"morercpthosts.cdb")


def _fifo(files: Files) -> None:
    files.special(CONTROL + b"morercpthosts.cdb", stat.S_IFIFO)


@pytest.mark.parametrize("spoil", [_damaged, _directory, _fifo])
def test_a_broken_morercpthosts_is_met_only_by_who_needs_it(spoil: object) -> None:
    files = mail_host_files()
    assert callable(spoil)
    spoil(files)
    assert ask(files, b"alice@example.test").outcome is Outcome.DELIVER
    assert ask(files, b"x@other.test").outcome is Outcome.BROKEN
    assert ask(files, b"x@other.test", relayclient=b"").outcome is Outcome.REMOTE


@pytest.mark.parametrize(
    "name",
    [
        b"me",
        b"smtpgreeting",
        b"localiphost",
        b"timeoutsmtpd",
        b"databytes",
        b"rcpthosts",
        b"morercpthosts.cdb",
        b"badmailfrom",
    ],
)
def test_a_file_that_qmail_smtpd_cannot_read(name: bytes) -> None:
    files = mail_host_files()
    for other in (b"smtpgreeting", b"localiphost"):  # me is read all the same
        files.control(other, b"hello")
    files.file(CONTROL + name, b"x", 0o600)
    for recipient in (b"alice@example.test", b"x@other.test"):
        assert ask(files, recipient).outcome is Outcome.BROKEN


def test_it_needs_a_greeting() -> None:
    files = mail_host_files()
    files.remove(CONTROL + b"me")
    control = QmailHost(files).moment().control()
    with pytest.raises(ControlError, match="smtpgreeting"):
        read_settings(control)
    files.control(b"smtpgreeting", b"hello")
    assert read_settings(control).localiphost is None


def test_a_host_without_control_directory() -> None:
    files = Files()
    assert ask(files, b"x@example.test").outcome is Outcome.BROKEN


@pytest.mark.parametrize(
    ("sender", "listed"),
    [
        (b"Bad@x.test", True),
        (b"anyone@EVIL.test", True),
        (b"good@x.test", False),
        (b"x@sub.evil.test", False),
        (b"x@y@evil.test", True),
        (b"bad", True),
        (b"", False),
    ],
)
def test_badmailfrom(sender: bytes, listed: bool) -> None:
    files = mail_host_files()
    files.control(b"badmailfrom", b"bad@x.test\n@evil.test\nbad\n")
    decision = ask(files, b"nobody@other.test", sender)
    expected = Outcome.BAD_SENDER if listed else Outcome.NOT_RELAYED
    assert decision.outcome is expected


def test_an_address_too_long_is_met_first() -> None:
    files = mail_host_files()
    files.control(b"badmailfrom", b"bad\n")
    host = b"@example.test"
    longest = b"x" * (899 - len(host)) + host
    assert ask(files, longest).outcome is Outcome.BOUNCE
    assert ask(files, b"x" + longest).outcome is Outcome.SYNTAX
    assert ask(files, b"x" + longest, b"bad").outcome is Outcome.SYNTAX


OURS = HostSettings(local_ips=frozenset({b"0.0.0.0", b"192.0.2.1"}))


@pytest.mark.parametrize(
    ("recipient", "outcome"),
    [
        (b"alice@[192.0.2.1]", Outcome.DELIVER),
        (b"nobody@[192.0.2.1]", Outcome.BOUNCE),
        (b"alice@[0.0.0.0]", Outcome.DELIVER),
        (b"alice@[448.256.258.001]", Outcome.DELIVER),
        (b"alice@[192.0.2.2]", Outcome.NOT_RELAYED),
        (b"alice@192.0.2.1", Outcome.NOT_RELAYED),
        (b"alice@[192.0.2.1", Outcome.NOT_RELAYED),
    ],
)
def test_localiphost(recipient: bytes, outcome: Outcome) -> None:
    files = mail_host_files()
    files.control(b"localiphost", b"example.test\n")
    assert ask(files, recipient, settings=OURS).outcome is outcome


def test_localiphost_counts_for_the_length() -> None:
    files = mail_host_files()
    files.control(b"localiphost", b"example.test" + b"x" * 900 + b"\n")
    assert ask(files, b"a@[192.0.2.1]", settings=OURS).outcome is Outcome.SYNTAX
    files.control(b"localiphost", b"example.test\0 more\n")
    decision = ask(files, b"alice@[192.0.2.1]", settings=OURS)
    assert decision.outcome is Outcome.DELIVER


def test_a_trusted_client() -> None:
    files = mail_host_files()
    assert ask(files, b"x@other.test").outcome is Outcome.NOT_RELAYED
    assert ask(files, b"x@other.test", relayclient=b"").outcome is Outcome.REMOTE
    assert ask(files, b"alice", relayclient=b"@example.test").outcome is Outcome.DELIVER
    decision = ask(files, b"alice@example.test", relayclient=b".suffix")
    assert decision.outcome is Outcome.REMOTE
