"""Whole ways that lead through fastforward and dot-forward."""

from __future__ import annotations

import pytest

from proxy.qmail.decide import Decision, Outcome
from tests.support.cdbmake import make_cdb
from tests.support.files import ALIAS, ALICE, Files, ask, mail_host_files

ALIASES = [
    (b":sales@", b"&alice@example.test\0&nobody-here@example.test\0"),
    (b":gone@", b"&nobody-here@example.test\0"),
    (b":far@", b"&ann@remote.test\0"),
    (b":loop@", b"&loop@example.test\0"),
    (b":list@", b"/etc/list.bin\0"),
    (b":no@", b"|bouncesaying no\0"),
    (b":prog@", b"!/usr/bin/vacation\0"),
    (b":void@", b"|true\0"),
]


def host(line: bytes = b"|fastforward -d /etc/aliases.cdb\n") -> Files:
    files = mail_host_files()
    files.file(b"/etc/aliases.cdb", make_cdb(ALIASES))
    files.file(b"/etc/list.bin", b"&alice@example.test\0")
    files.file(b"/var/qmail/alias/.qmail-default", line, uid=ALIAS)
    return files


def outcome(files: Files, local: bytes) -> Outcome:
    return decision(files, local).outcome


def decision(files: Files, local: bytes) -> Decision:
    return ask(files, local + b"@example.test", b"ann@x.test")


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        (b"sales", Outcome.FORWARD),
        (b"SALES", Outcome.FORWARD),
        (b"gone", Outcome.BOUNCE),
        (b"far", Outcome.FORWARD),
        (b"loop", Outcome.BOUNCE),
        (b"list", Outcome.FORWARD),
        (b"no", Outcome.BOUNCE),
        (b"prog", Outcome.DELIVER),
        (b"void", Outcome.DELIVER),
        (b"unknown", Outcome.BOUNCE),
    ],
)
def test_aliases(local: bytes, expected: Outcome) -> None:
    assert outcome(host(), local) is expected
    assert decision(host(), local).undecided == (local == b"prog")


def test_what_is_no_alias_may_pass() -> None:
    line = b"|fastforward -p -d /etc/aliases.cdb\n&alice@example.test\n"
    assert outcome(host(line), b"unknown") is Outcome.FORWARD
    assert outcome(host(line), b"far") is Outcome.FORWARD
    # Exit 99: what follows an alias is not looked at.
    assert outcome(host(line), b"loop") is Outcome.BOUNCE


def test_what_passes_into_nothing_is_not_kept() -> None:
    line = b"|fastforward -p -d /etc/aliases.cdb\n&nobody-here@example.test\n"
    assert outcome(host(line), b"unknown") is Outcome.BOUNCE


@pytest.mark.parametrize("content", [b"", b"short", make_cdb(ALIASES)[:2100]])
def test_a_damaged_database_defers(content: bytes) -> None:
    files = host()
    files.file(b"/etc/aliases.cdb", content)
    assert outcome(files, b"sales") is Outcome.DEFER


def test_a_missing_or_closed_database_defers() -> None:
    files = host()
    files.change(b"/etc/aliases.cdb", st_mode=0o100600)
    assert outcome(files, b"sales") is Outcome.DEFER
    files.remove(b"/etc/aliases.cdb")
    found = decision(files, b"sales")
    assert found.outcome is Outcome.DEFER
    assert found.reason == "fastforward cannot read /etc/aliases.cdb"


def test_a_database_counts_when_it_changes() -> None:
    files = host()
    assert outcome(files, b"new") is Outcome.BOUNCE
    files.now_ns += 1
    files.file(b"/etc/aliases.cdb", make_cdb([(b":new@", b"&alice@example.test\0")]))
    assert outcome(files, b"new") is Outcome.FORWARD


def test_aliases_that_run_one_another_end() -> None:
    files = host()
    program = b"|fastforward -d /etc/aliases.cdb\0"
    files.file(b"/etc/aliases.cdb", make_cdb([(b":sales@", program)]))
    assert decision(files, b"sales").undecided


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (b"ann@remote.test\n", Outcome.FORWARD),
        (b"\\alice, ann@remote.test\n", Outcome.FORWARD),
        (b"nobody-here@example.test\n", Outcome.BOUNCE),
        (b"nobody-here\n", Outcome.FORWARD),  # at control/me, which is no local
        (b"# nothing\n", Outcome.DELIVER),
        (b"/home/alice/mbox\n", Outcome.DEFER),
        (b'"|exit 100"\n', Outcome.BOUNCE),
        (b"(unfinished\n", Outcome.DEFER),
        (b'"|/usr/bin/vacation alice"\n', Outcome.DELIVER),
    ],
)
def test_dot_forward(forward: bytes, expected: Outcome) -> None:
    files = mail_host_files()
    files.file(b"/home/alice/.qmail", b"|dot-forward .forward\n./mbox\n", uid=ALICE)
    files.file(b"/home/alice/.forward", forward, uid=ALICE)
    found = decision(files, b"alice")
    assert found.outcome is expected
    assert found.undecided == (b"vacation" in forward)


def test_without_a_forward_file_the_mailbox_has_it() -> None:
    files = mail_host_files()
    files.file(b"/home/alice/.qmail", b"|dot-forward .forward\n./mbox\n", uid=ALICE)
    assert outcome(files, b"alice") is Outcome.DELIVER
    files.file(b"/home/alice/.forward", b"alice\n", mode=0o600)
    assert outcome(files, b"alice") is Outcome.DEFER
