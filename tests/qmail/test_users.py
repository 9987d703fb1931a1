"""users/cdb: exact entries, wildcards, damage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.passwd import Controller
from proxy.qmail.users import AssignError, assigned
from tests.support.cdbmake import make_cdb, make_users_cdb
from tests.support.dictionary import FakeFile, FakeStatus
from tests.support.fuzz import fuzz


def file(content: bytes) -> FakeFile:
    return FakeFile(FakeStatus(0o100644, 0, 0, 1), content)


ENTRIES = [
    (b"=joe", b"joe:1:2:/home/joe:::"),
    (b"+joe-", b"joe:1:2:/home/joe:-::"),
    (b"+joe-list-", b"list:3:4:/home/list:-:pre:"),
    (b"=Ann", b"ann:5:6:/home/ann:::"),
    (b"=joe", b"late:9:9:/late:::"),
]


@pytest.mark.parametrize(
    ("local", "found"),
    [
        (b"joe", Controller(b"joe", 1, 2, b"/home/joe", b"", b"")),
        (b"JOE", Controller(b"joe", 1, 2, b"/home/joe", b"", b"")),
        (b"ann", Controller(b"ann", 5, 6, b"/home/ann", b"", b"")),
        (b"joe-", Controller(b"joe", 1, 2, b"/home/joe", b"-", b"")),
        (b"Joe-Foo-Bar", Controller(b"joe", 1, 2, b"/home/joe", b"-", b"Foo-Bar")),
        (b"joe-list-A", Controller(b"list", 3, 4, b"/home/list", b"-", b"preA")),
        (b"joe-list", Controller(b"joe", 1, 2, b"/home/joe", b"-", b"list")),
        (b"joes", None),
        (b"j", None),
    ],
)
def test_who_is_assigned(local: bytes, found: Controller | None) -> None:
    answer = assigned(file(make_users_cdb(ENTRIES)), local)
    assert (answer[1] if answer else None) == found


def test_the_entry_for_everything_else() -> None:
    cdb = file(make_users_cdb([*ENTRIES, (b"+", b"all:7:8:/all:-::")]))
    for local in (b"nobody", b"x", b"joes-x"):
        assert assigned(cdb, local) == (
            b"!",
            Controller(b"all", 7, 8, b"/all", b"-", local),
        )


def test_a_prefix_counts_only_at_a_wildcard_character() -> None:
    entries = [(b"+joe-", b"joe:1:2:/home/joe:-::")]
    assert assigned(file(make_users_cdb(entries, wildcards=b"+")), b"joe-x") is None


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"7", 7),
        (b"", 0),
        (b"x7", 0),
        (b"-7", 0),
        (b"7x", 7),
        (b"4294967296", 0),
        (b"4294967295", 0xFFFFFFFF),
        (b"9" * 9999, int("9" * 32) & 0xFFFFFFFF),
    ],
)
def test_numbers_are_read_as_qmail_does(field: bytes, number: int) -> None:
    entries = [(b"=joe", b"joe:" + field + b":2:/home/joe:::")]
    answer = assigned(file(make_users_cdb(entries)), b"joe")
    assert answer is not None
    assert answer[1].uid == number


@pytest.mark.parametrize("data", [b"", b"joe\x001", b"joe\x001\x002\0/home\0"])
def test_an_entry_with_too_few_fields(data: bytes) -> None:
    cdb = file(make_cdb([(b"!joe\0", data), (b"", b"")]))
    with pytest.raises(AssignError, match="fewer than six"):
        assigned(cdb, b"joe")


def test_without_a_list_of_wildcards_nothing_works() -> None:
    cdb = file(make_cdb([(b"!joe\0", b"joe\x001\x002\0/home/joe\0\0\0")]))
    with pytest.raises(AssignError, match="wildcard"):
        assigned(cdb, b"joe")


def test_truncated_anywhere() -> None:
    whole = make_users_cdb(ENTRIES)
    right = assigned(file(whole), b"joe-list-x")
    failed = 0
    for length in range(len(whole)):
        try:
            assert assigned(file(whole[:length]), b"joe-list-x") == right
        except AssignError:
            failed += 1
    assert failed >= 2048


@fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"!", b"!a", b"!a-", b"!a\0", b"!a-b\0"]),
            st.binary(max_size=20) | st.just(b"u\x001\x002\0/h\0-\0e"),
        )
    ),
    st.text(alphabet="ab-", max_size=5),
)
def test_any_entries(records: list[tuple[bytes, bytes]], local: str) -> None:
    with contextlib.suppress(AssignError):
        answer = assigned(file(make_cdb(records)), local.encode())
        assert answer is None or b"\0" not in answer[1].extension
