"""Accounts as the C library reads them, and qmail-getpw's choice."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.errors import KernelError
from proxy.qmail.passwd import Controller, Table, account, getpw, group_id
from proxy.qmail.walk import Identity, Walker
from tests.support.files import ALICE, NOFILES, QMAILP, Files, mail_host_files
from tests.support.fuzz import fuzz


def numbers(line: bytes, name: bytes = b"joe") -> tuple[int, int] | None:
    found = account(Table(line), name)
    return None if found is None else (found.uid, found.gid)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"joe:x:7:8:Joe:/home/joe:/bin/sh", (7, 8)),
        (b"joe:x:7:8", (7, 8)),
        (b"joe::7:8::", (7, 8)),
        (b" \tjoe:x:7:8::", (7, 8)),
        (b"joe:x: 7:+8::", (7, 8)),
        (b"joe:x:007:8::", (7, 8)),
        (b"joe:x:-1:8::", None),
        (b"joe:x:7:-1::", None),
        (b"joe:x:-0:8::", (0, 8)),
        (b"joe:x:-18446744073709551610:8::", (6, 8)),
        (b"joe:x:4294967295:8::", (0xFFFFFFFF, 8)),
        (b"joe:x:4294967296:8::", None),
        (b"joe:x:7:4294967296::", None),
        (b"joe:x:" + b"9" * 5000 + b":8::", None),
        (b"joe:x:-" + b"9" * 5000 + b":8::", None),
        (b"joe:x:7:8:\0:/home", (7, 8)),
        (b"joe:x:7", None),
        (b"joe:x::8::", None),
        (b"joe:x:7x:8::", None),
        (b"joe:x:7 :8::", None),
        (b"joe:x:seven:8::", None),
        (b"#joe:x:7:8::", None),
        (b"Joe:x:7:8::", None),
        (b"joe", None),
        (b"", None),
    ],
)
def test_one_line(line: bytes, found: tuple[int, int] | None) -> None:
    assert numbers(line) == found


def test_the_first_sound_line_counts() -> None:
    table = b"joe:x\njoe:x:1:1::/first:\njoe:x:2:2::/second:\n"
    found = account(Table(table), b"joe")
    assert found is not None
    assert (found.uid, found.home) == (1, b"/first")


@pytest.mark.parametrize("name", [b"+joe", b"-joe", b"#joe"])
def test_names_that_nobody_can_have(name: bytes) -> None:
    assert numbers(name + b":x:7:8::", name) is None


def test_an_empty_name_is_a_name() -> None:
    assert numbers(b":x:7:8::/:", b"") == (7, 8)
    assert numbers(b"\n\n", b"") is None


def test_groups() -> None:
    table = Table(b"a:x\nqmail:x:bad:\nqmail:x:2107:joe,ann\n")
    assert group_id(table, b"qmail") == 2107
    assert group_id(table, b"a") is None
    assert group_id(table, b"absent") is None


@fuzz
@given(st.binary(max_size=200), st.binary(max_size=5))
def test_any_bytes_can_be_read(content: bytes, name: bytes) -> None:
    found = account(Table(content), name)
    assert found is None or 0 <= found.uid < 1 << 32
    group = group_id(Table(content), name)
    assert group is None or 0 <= group < 1 << 32


def choose(files: Files, local: bytes, passwd: bytes = b"") -> Controller | None:
    if not passwd:
        passwd = b"alias:x:7790:1::/var/qmail/alias:\nalice:x:1001:2::/home/alice:\n"
    table = Table(passwd)
    walker = Walker(files, Identity(QMAILP, NOFILES))
    return getpw(lambda name: account(table, name), walker, local, b"-", b"alias")


@pytest.mark.parametrize(
    ("local", "user", "dash", "extension"),
    [
        (b"alice", b"alice", b"", b""),
        (b"ALICE", b"alice", b"", b""),
        (b"alice-", b"alice", b"-", b""),
        (b"Alice-Foo-Bar", b"alice", b"-", b"Foo-Bar"),
        (b"alice-foo.bar", b"alice", b"-", b"foo.bar"),
        (b"alice+foo", b"alias", b"-", b"alice+foo"),
        (b"alicia", b"alias", b"-", b"alicia"),
        (b"-alice", b"alias", b"-", b"-alice"),
        (b"root", b"alias", b"-", b"root"),
        (b"alias", b"alias", b"", b""),
        (b"alias-x", b"alias", b"-", b"x"),
        (b"\xe4", b"alias", b"-", b"\xe4"),
    ],
)
def test_who_controls_a_name(
    local: bytes, user: bytes, dash: bytes, extension: bytes
) -> None:
    found = choose(mail_host_files(), local)
    assert found is not None
    assert (found.user, found.dash, found.extension) == (user, dash, extension)


def test_the_longest_user_name_wins() -> None:
    files = mail_host_files()
    passwd = (
        b"alias:x:7790:1::/var/qmail/alias:\n"
        b"alice:x:1001:2::/home/alice:\nalice-list:x:1002:2::/home/bob:\n"
    )
    for local, user, extension in (
        (b"alice-list", b"alice-list", b""),
        (b"alice-list-x", b"alice-list", b"x"),
        (b"alice-lists", b"alice", b"lists"),
    ):
        found = choose(files, local, passwd)
        assert found is not None
        assert (found.user, found.extension) == (user, extension)


@pytest.mark.parametrize(("length", "found"), [(31, True), (32, False)])
def test_user_names_have_at_most_31_bytes(length: int, found: bool) -> None:
    name = b"n" * length
    files = mail_host_files()
    files.dir(b"/n", uid=5)
    passwd = name + b":x:5:5::/n:\nalias:x:7790:1::/a:\n"
    for local in (name, name + b"-x"):
        controller = choose(files, local, passwd)
        assert controller is not None
        assert (controller.user == name) is found


def test_the_home_has_to_belong_to_the_user() -> None:
    files = mail_host_files()
    files.change(b"/home/alice", st_uid=1)
    found = choose(files, b"alice")
    assert found is not None
    assert found.user == b"alias"
    files.remove(b"/home/alice")
    found = choose(files, b"alice-x")
    assert found is not None
    assert found.extension == b"alice-x"


def test_a_home_that_qmail_getpw_cannot_see() -> None:
    files = mail_host_files()
    files.change(b"/home", st_mode=0o040700)
    found = choose(files, b"alice")
    assert found is not None
    assert found.user == b"alias"


def test_a_relative_home_is_looked_for_below_qmails() -> None:
    """qmail-getpw is started in /var/qmail; qmail-local refuses such homes."""
    files = mail_host_files()
    files.dir(b"/var/qmail/rel", uid=ALICE)
    passwd = b"alias:x:7790:1::/a:\nalice:x:1001:2::rel:\n"
    found = choose(files, b"alice", passwd)
    assert found is not None
    assert (found.user, found.home) == (b"alice", b"rel")
    files.remove(b"/var/qmail/rel")
    files.dir(b"/rel", uid=ALICE)
    found = choose(files, b"alice", passwd)
    assert found is not None
    assert found.user == b"alias"


def test_without_an_alias_user() -> None:
    assert choose(mail_host_files(), b"nobody", b"x:x:1:1::/:\n") is None


def test_a_temporary_error_is_passed_on() -> None:
    class Stale(Walker):
        __slots__ = ()

        def stat(self, path: bytes, base: object = None) -> None:  # type: ignore[override]
            raise KernelError(errno.ESTALE)

    table = Table(b"alice:x:1001:2::/home/alice:\n")
    walker = Stale(mail_host_files(), Identity(QMAILP, NOFILES))
    with pytest.raises(KernelError):
        getpw(lambda name: account(table, name), walker, b"alice", b"-", b"alias")
