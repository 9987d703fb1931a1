"""The syntax of control files, and which of them qmail cannot live without."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.cache import FileCache
from proxy.qmail.control import (
    FILE_MAX,
    ControlError,
    ControlFiles,
    entries,
    first_line,
    parse_map,
    parse_names,
)
from proxy.qmail.errors import CannotTell
from proxy.qmail.walk import Identity, Walker
from tests.support.files import CONTROL, Files
from tests.support.fuzz import fuzz


def control(files: Files, uid: int | None = 7791) -> ControlFiles:
    walker = Walker(files, Identity(uid, 2108))
    files.dir(CONTROL.rstrip(b"/"))
    return ControlFiles(FileCache(), walker, walker.stat(CONTROL))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", b""),
        (b"\n", b""),
        (b"a.test", b"a.test"),
        (b"a.test \t \nb.test\n", b"a.test"),
        (b"  a.test\n", b"  a.test"),
        (b"\na.test\n", b""),
        (b"a.test\r\n", b"a.test\r"),
        (b"# not a comment here\n", b"# not a comment here"),
    ],
)
def test_the_first_line(content: bytes, line: bytes) -> None:
    assert first_line(content) == line


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"a\nb", [(b"a", 1), (b"b", 2)]),
        (b"a \t\n\n#c\nb\n", [(b"a", 1), (b"b", 4)]),
        (b" #a\n", [(b" #a", 1)]),
        (b" a\n", [(b" a", 1)]),
        (b"a\r\n", [(b"a\r", 1)]),
        (b"a \r\n", [(b"a \r", 1)]),
        (b"\0a\n", []),
        (b"a\0b\n", [(b"a", 1), (b"b", 1)]),
        (b"a\0#b\n", [(b"a", 1), (b"#b", 1)]),
        (b"a\0\n", [(b"a", 1), (b"", 1)]),
    ],
)
def test_the_entries_of_a_list(content: bytes, found: list[tuple[bytes, int]]) -> None:
    assert entries(content) == found


def test_names_are_folded_as_ascii() -> None:
    assert parse_names(b"A.Test\n\xc4.test\n") == {b"a.test": 1, b"\xc4.test": 2}


def test_of_two_entries_in_a_map_the_later_wins() -> None:
    found = parse_map(b"a:1\nA:2\nno colon\nb:\n:all\nc:x:y\n")
    assert found == {
        b"a": (b"2", 2),
        b"b": (b"", 4),
        b"": (b"all", 5),
        b"c": (b"x:y", 6),
    }


@fuzz
@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(content: bytes) -> None:
    lines = content.count(b"\n") + 1
    assert all(1 <= number <= lines for _, number in entries(content))
    assert set(parse_names(content)) == {entry.lower() for entry, _ in entries(content)}
    assert all(b"\0" not in value for value, _ in parse_map(content).values())


@given(st.text("aA:#\0 \t\n", max_size=60).map(str.encode))
def test_a_map_is_made_of_entries(content: bytes) -> None:
    """constmap_init() with a colon, on what control_readfile() leaves."""
    expected = {}
    for entry, number in entries(content):
        key, colon, value = entry.partition(b":")
        if colon:
            expected[key.lower()] = (value, number)
    assert parse_map(content) == expected


def test_a_missing_file_is_none() -> None:
    files = control(Files())
    assert files.line(b"me") is None
    assert files.names(b"locals") is None
    assert files.map(b"virtualdomains") is None
    assert files.open(b"morercpthosts.cdb") is None
    assert not files.readable(b"databytes")


def test_me_is_the_default_of_defaults() -> None:
    files = Files()
    found = control(files)
    assert found.line_or_me(b"envnoathost", b"envnoathost") == b"envnoathost"
    files.control(b"me", b"mx.test\n")
    assert found.line_or_me(b"envnoathost", b"envnoathost") == b"mx.test"
    files.control(b"envnoathost", b"\n")
    assert found.line_or_me(b"envnoathost", b"envnoathost") == b""


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_what_is_not_a_regular_file_is_not_opened(kind: int) -> None:
    files = Files()
    files.special(CONTROL + b"locals", kind)
    with pytest.raises(ControlError, match="not a regular file"):
        control(files).names(b"locals")


def test_a_link_to_the_null_device_is_an_empty_file() -> None:
    files = Files()
    files.special(b"/dev/null", stat.S_IFCHR)
    files.special(b"/dev/zero", stat.S_IFCHR)
    files.link(CONTROL + b"percenthack", b"/dev/null")
    files.link(CONTROL + b"localiphost", b"/dev/null")
    files.link(CONTROL + b"badmailfrom", b"/dev/zero")
    found = control(files)
    assert found.names(b"percenthack") == {}
    assert found.line(b"localiphost") == b""
    assert found.readable(b"localiphost")
    with pytest.raises(ControlError, match="not a regular file"):
        found.names(b"badmailfrom")
    assert files.opened == []


def test_a_database_that_is_a_directory_fails_when_it_is_asked() -> None:
    """open(2) succeeds, read(2) does not."""
    files = Files()
    files.dir(CONTROL + b"morercpthosts.cdb")
    opened = control(files).open(b"morercpthosts.cdb")
    assert opened is not None
    with pytest.raises(OSError, match="not a regular file"):
        opened.pread(8, 0)


@pytest.mark.parametrize("mode", [0o000, 0o640, 0o600])
def test_an_unreadable_file_is_an_error(mode: int) -> None:
    files = Files()
    files.file(CONTROL + b"locals", b"a\n", mode)
    with pytest.raises(ControlError, match="control/locals: Permission denied"):
        control(files).names(b"locals")


def test_a_name_that_leads_nowhere() -> None:
    files = Files()
    files.link(CONTROL + b"locals", b"absent")
    assert control(files).names(b"locals") is None
    files.link(CONTROL + b"locals", b"locals")
    with pytest.raises(ControlError, match="symbolic links"):
        control(files).names(b"locals")


def test_without_the_user_only_existence_is_judged() -> None:
    files = Files()
    files.file(CONTROL + b"locals", b"a\n", 0o000)
    assert control(files, uid=None).names(b"locals") == {b"a": 1}


def test_a_file_the_front_door_may_not_read() -> None:
    files = Files()
    files.control(b"locals", b"a\n")
    files.errors[CONTROL + b"locals"] = PermissionError(errno.EACCES, "no")
    with pytest.raises(CannotTell, match="own user may not look"):
        control(files).names(b"locals")


def test_a_huge_file_is_not_read_to_its_end() -> None:
    files = Files()
    files.control(b"locals", b"a\n" * (FILE_MAX // 2) + b"b\n")
    with pytest.raises(CannotTell, match="large"):
        control(files).names(b"locals")
