"""Which dot-qmail file is in charge, and what its lines mean."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.dotqmail import (
    FILE_MAX,
    Instruction,
    Kind,
    OwnerNames,
    SearchDeferred,
    new_sender,
    parse,
    read_instructions,
    safe_extension,
    search,
)
from proxy.qmail.errors import CannotTell
from proxy.qmail.host import QmailHost
from proxy.qmail.walk import Identity, Walker
from tests.support.files import ALICE, Files
from tests.support.fuzz import fuzz

HOME = b"/home/alice/"


def walker(files: Files) -> Walker:
    files.dir(HOME.rstrip(b"/"), uid=ALICE)
    return Walker(files, Identity(ALICE, ALICE))


def find(files: Files, extension: bytes, dash: bytes = b"-") -> bytes | None:
    looks = walker(files)
    found = search(looks, looks.enter(HOME), dash, extension, 0o002)
    return None if found is None else found.name


def files_named(*names: bytes) -> Files:
    files = Files()
    for name in names:
        files.file(HOME + name, b"./Mailbox\n", uid=ALICE)
    return files


@pytest.mark.parametrize(
    ("there", "extension", "name"),
    [
        ([b".qmail-a-b"], b"a-b", b".qmail-a-b"),
        ([b".qmail-a-b", b".qmail-a-default"], b"a-b", b".qmail-a-b"),
        ([b".qmail-a-default", b".qmail-default"], b"a-b", b".qmail-a-default"),
        ([b".qmail-default"], b"a-b", b".qmail-default"),
        ([b".qmail-default"], b"", b".qmail-default"),
        ([b".qmail-a-default"], b"a", None),
        ([b".qmail-a-default"], b"a-", b".qmail-a-default"),
        ([b".qmail-a-b-default"], b"a-b", None),
        ([b".qmail-a-default"], b"a--b", b".qmail-a-default"),
        ([b".qmail-a--default"], b"a--b", b".qmail-a--default"),
        ([b".qmail-a:b"], b"A.B", b".qmail-a:b"),
        ([b".qmail-a.b"], b"a.b", None),
        ([b".qmail-A"], b"A", None),
        ([b".qmail-"], b"", b".qmail-"),
        ([b".qmail"], b"", None),
        ([b".qmail-a/b"], b"a/b", b".qmail-a/b"),
        ([b".qmail-default"], b"../../etc/passwd", b".qmail-default"),
        ([b".qmail-default"], b"x" * 300, b".qmail-default"),
    ],
)
def test_the_file_in_charge(
    there: list[bytes], extension: bytes, name: bytes | None
) -> None:
    assert find(files_named(*there), extension) == name


def test_without_a_dash() -> None:
    assert find(files_named(b".qmail"), b"", b"") == b".qmail"
    assert find(files_named(b".qmaildefault"), b"", b"") == b".qmaildefault"
    assert find(files_named(b".qmailx"), b"x", b"") == b".qmailx"


@pytest.mark.parametrize(
    ("there", "extension", "matched"),
    [
        (b".qmail-list-default", b"list-Foo.Bar", b"Foo.Bar"),
        (b".qmail-list-default", b"list-Default", b"Default"),
        (b".qmail-default", b"a-b", b"a-b"),
        (b".qmail-a", b"a", None),
    ],
)
def test_what_default_stood_for(
    there: bytes, extension: bytes, matched: bytes | None
) -> None:
    looks = walker(files_named(there))
    found = search(looks, looks.enter(HOME), b"-", extension, 0o002)
    assert found is not None
    assert found.matched_default == matched


@pytest.mark.parametrize(
    "kind", [stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
)
def test_only_a_regular_file_counts(kind: int) -> None:
    files = files_named(b".qmail-default")
    files.special(HOME + b".qmail-a", kind, 0o644)
    assert find(files, b"a") == b".qmail-default"
    files.special(HOME + b".qmail-default", kind, 0o644)
    assert find(files, b"a") is None
    assert files.opened == []


@pytest.mark.parametrize("mode", [0o646, 0o002 | 0o400])
def test_a_file_that_others_can_write(mode: int) -> None:
    files = files_named(b".qmail-a", b".qmail-default")
    files.change(HOME + b".qmail-a", st_mode=stat.S_IFREG | mode)
    with pytest.raises(SearchDeferred, match="writable"):
        find(files, b"a")
    assert find(files, b"b") == b".qmail-default"


def test_a_file_the_user_cannot_read() -> None:
    files = files_named(b".qmail-a")
    files.change(HOME + b".qmail-a", st_uid=0, st_mode=stat.S_IFREG | 0o600)
    with pytest.raises(SearchDeferred, match="Permission denied"):
        find(files, b"a")


@pytest.mark.parametrize("target", [b"absent", b".qmail-a"])
def test_a_link_that_leads_nowhere_is_no_file(target: bytes) -> None:
    files = files_named(b".qmail-default")
    files.link(HOME + b".qmail-a", target)
    assert find(files, b"a") == b".qmail-default"


def test_a_linked_file_counts_with_its_own_mode() -> None:
    files = files_named(b"shared")
    files.link(HOME + b".qmail-a", b"shared")
    assert find(files, b"a") == b".qmail-a"
    files.change(HOME + b"shared", st_mode=stat.S_IFREG | 0o666)
    with pytest.raises(SearchDeferred, match="writable"):
        find(files, b"a")


def sender(*there: bytes, given_sender: bytes = b"ann@x.test") -> bytes:
    looks = walker(files_named(*there))
    names = OwnerNames(b"alice-List", b"h.test", given_sender)
    return new_sender(looks, looks.enter(HOME), b"-", b"List", names)


def test_the_sender_of_forwarded_copies() -> None:
    owner, verp = b".qmail-list-owner", b".qmail-list-owner-default"
    assert sender() == b"ann@x.test"
    assert sender(verp) == b"ann@x.test"
    assert sender(owner) == b"alice-List-owner@h.test"
    assert sender(owner, verp) == b"alice-List-owner-@h.test-@[]"
    assert sender(owner, given_sender=b"") == b""
    assert sender(owner, given_sender=b"#@[]") == b"#@[]"


def test_an_owner_file_that_cannot_be_looked_at() -> None:
    looks = walker(files_named(b".qmail-list-owner/x"))
    names = OwnerNames(b"alice-list", b"h.test", b"ann@x.test")
    home = looks.enter(HOME)
    assert new_sender(looks, home, b"-", b"list", names) == b"alice-list-owner@h.test"
    # ENOTDIR and the like are "no such file"; only temporary errors are more.
    files = files_named(b".qmail-list")
    assert new_sender(walker(files), home, b"-", b"list/x", names) == b"ann@x.test"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"\n", [(Kind.BLANK_FIRST, b"", 1)]),
        (b" \t\n./x\n", [(Kind.BLANK_FIRST, b"", 1), (Kind.MBOX, b"./x", 2)]),
        (b"\0x\n", [(Kind.BLANK_FIRST, b"", 1)]),
        (b"#\n\n \n", []),
        (b"# ./x\n./x", [(Kind.MBOX, b"./x", 2)]),
        (b"./x/ \t\n", [(Kind.MAILDIR, b"./x/", 1)]),
        (b"/x", [(Kind.MBOX, b"/x", 1)]),
        (b".\n", [(Kind.MBOX, b".", 1)]),
        (b"./x\0y/\n", [(Kind.MAILDIR, b"./x", 1)]),
        (b"|exit 0\0 1 \n", [(Kind.PROGRAM, b"exit 0", 1)]),
        (b"| \n", [(Kind.PROGRAM, b"", 1)]),
        (b"&joe@x\njoe\n", [(Kind.FORWARD, b"joe@x", 1), (Kind.FORWARD, b"joe", 2)]),
        (b"&\n", [(Kind.FORWARD, b"", 1)]),
        (b" joe\n", [(Kind.FORWARD, b" joe", 1)]),
        (b"joe\r\n", [(Kind.FORWARD, b"joe\r", 1)]),
        (b"+list\n+other\n+list x\n", [(Kind.FORWARD_ONLY, b"", 1)]),
        (b"+list\0x\n", [(Kind.FORWARD_ONLY, b"", 1)]),
        (b"x\n\0\n", [(Kind.FORWARD, b"x", 1)]),
    ],
)
def test_the_lines(content: bytes, found: list[tuple[Kind, bytes, int]]) -> None:
    assert list(parse(content)) == [Instruction(*line) for line in found]


@fuzz
@given(st.binary(max_size=200) | st.text(alphabet="./|&#+ \n\0x", max_size=60))
def test_any_bytes_have_a_meaning(content: bytes | str) -> None:
    content = content if isinstance(content, bytes) else content.encode()
    lines = content.split(b"\n")
    for kind, argument, line in parse(content):
        assert b"\0" not in argument
        assert argument in lines[line - 1]
        assert kind is not Kind.BLANK_FIRST or line == 1


@fuzz
@given(st.binary(max_size=40))
def test_an_extension_keeps_its_length(extension: bytes) -> None:
    safe = safe_extension(extension)
    assert len(safe) == len(extension)
    assert b"." not in safe
    assert safe_extension(safe) == safe


def test_a_huge_file_is_not_read_to_its_end() -> None:
    files = files_named(b".qmail-a")
    files.file(HOME + b".qmail-a", b"&joe\n" * (FILE_MAX // 5 + 1), uid=ALICE)
    looks = walker(files)
    found = search(looks, looks.enter(HOME), b"-", b"a", 0o002)
    assert found is not None
    with pytest.raises(CannotTell, match="large"):
        read_instructions(QmailHost(files), looks, found)


def test_a_file_that_qmail_can_read_and_we_cannot() -> None:
    files = files_named(b".qmail-a")
    looks = walker(files)
    found = search(looks, looks.enter(HOME), b"-", b"a", 0o002)
    assert found is not None
    files.errors[HOME + b".qmail-a"] = PermissionError(errno.EACCES, "no")
    with pytest.raises(CannotTell, match="own user"):
        read_instructions(QmailHost(files), looks, found)


def test_an_empty_file_has_no_instructions_and_comments_are_some() -> None:
    files = files_named(b".qmail-a", b".qmail-b")
    files.file(HOME + b".qmail-a", b"", uid=ALICE)
    files.file(HOME + b".qmail-b", b"#\n", uid=ALICE)
    looks = walker(files)
    for extension, instructions in ((b"a", None), (b"b", ())):
        found = search(looks, looks.enter(HOME), b"-", extension, 0o002)
        assert found is not None
        assert read_instructions(QmailHost(files), looks, found) == instructions
