"""Addresses are cut out of commands exactly as qmail-smtpd cuts them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.smtp.path import ADDRESS_MAX, address_literal, path_end, read_path
from tests.support.addrparse import cut_like_c
from tests.support.fuzz import fuzz

ARGUMENTS = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet='<>@: "\\a.[]%\0', max_size=30).map(str.encode),
    st.text(alphabet='<>@: "\\a.', max_size=20).map(lambda t: b"TO:<" + t.encode()),
)


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        (b"TO:<joe@example.test>", b"joe@example.test"),
        (b"TO: <joe@example.test> NOTIFY=NEVER", b"joe@example.test"),
        (b"TO:joe@example.test SIZE=1", b"joe@example.test"),
        (b"TO:   joe@example.test", b"joe@example.test"),
        (b"TO:joe@example.test <ann@example.test>", b"ann@example.test"),
        (b"<joe>", b"joe"),
        (b"joe@example.test", b""),
        (b"", b""),
        (b"TO:<>", b""),
        (b"TO:<joe", b"joe"),
        (b"TO:< joe>", b" joe"),
        (b"TO:<@relay.test,@b.test:joe@example.test>", b"joe@example.test"),
        (b"TO:<@relay.test>", b""),
        (b'TO:<"joe doe"@example.test>', b"joe doe@example.test"),
        (b'TO:<"a>b"@example.test>', b"a>b@example.test"),
        (b'TO:<"a\\"b"@example.test>', b'a"b@example.test'),
        (b"TO:<a\\>b@example.test>", b"a>b@example.test"),
        (b"TO:<a\\\\b>", b"a\\b"),
        (b"TO:<a\\", b"a"),
        (b"TO:<joe\0@example.test>", b"joe"),
        (b"\0TO:<joe>", b""),
        (b"TO:<JOE@Example.TEST>", b"JOE@Example.TEST"),
        (b"TO:<j\xf6e@example.test>", b"j\xf6e@example.test"),
        (b"TO:<<joe>>", b"<joe"),
    ],
)
def test_the_address_in_a_command(argument: bytes, address: bytes) -> None:
    assert read_path(argument) == address
    assert cut_like_c(argument) == address


@fuzz
@given(ARGUMENTS)
@example(b"TO:<@a\\:b>")
@example(b'@"<:>')
def test_agrees_with_a_byte_by_byte_reading(argument: bytes) -> None:
    assert read_path(argument) == cut_like_c(argument)


@fuzz
@given(ARGUMENTS, st.binary(max_size=20))
def test_what_follows_the_end_of_the_path_is_not_read(
    argument: bytes, tail: bytes
) -> None:
    argument = argument.replace(b"\0", b"")  # never gets as far
    end = path_end(argument)
    assert 0 <= end <= len(argument)
    assert read_path(argument[:end]) == read_path(argument)
    if end < len(argument):
        if b"<" not in argument:
            tail = tail.replace(b"<", b"")
        assert read_path(argument[:end] + b" " + tail) == read_path(argument)


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        (b"FROM:<joe@example.test> SIZE=7", b"FROM:<joe@example.test>"),
        (b"FROM:joe@example.test SIZE=7", b"FROM:joe@example.test"),
        (b"FROM:  joe SIZE=7", b"FROM:  joe"),
        (b'FROM:<"a> b"@c> SIZE=7', b'FROM:<"a> b"@c>'),
        (b"FROM:<a\\>b> SIZE=7", b"FROM:<a\\>b>"),
        (b'FROM:<@"x>y:joe> SIZE=7', b'FROM:<@"x>y:joe>'),
        (b"FROM:<joe SIZE=7", b"FROM:<joe SIZE=7"),
        (b"FROM:<@relay.test> SIZE=7", b"FROM:<@relay.test> SIZE=7"),
        (b"nothing", b"nothing"),
        (b"", b""),
    ],
)
def test_where_the_path_ends(argument: bytes, path: bytes) -> None:
    assert argument[: path_end(argument)] == path


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (b"joe@[127.0.0.1]", (4, b"127.0.0.1")),
        (b"[1.2.3.4]@x@[10.0.0.9]", (12, b"10.0.0.9")),
        (b"@[1.2.3.4]", (1, b"1.2.3.4")),
        (b"joe@[383.256.257.1]", (4, b"127.0.1.1")),
        (b"joe@[127.00.000.01]", (4, b"127.0.0.1")),
        (b"joe@[18446744073709551743.0.0.1]", (4, b"127.0.0.1")),
        (b"joe@[" + b"9" * 800 + b".0.0.1]", (4, b"255.0.0.1")),
        (b"joe@[127.0.0.1", None),
        (b"joe@127.0.0.1", None),
        (b"joe@[127.0.0.1]x", None),
        (b"joe@[127.0.0]", None),
        (b"joe@[127.0.0.]", None),
        (b"joe@[-1.0.0.1]", None),
        (b"joe@[::1]", None),
        (b"joe@ [127.0.0.1]", None),
        (b"[127.0.0.1]", None),
        (b"joe@[127.0.0.1]\n", None),
        (b"", None),
    ],
)
def test_address_literals(address: bytes, found: tuple[int, bytes] | None) -> None:
    assert address_literal(address) == found


def test_the_longest_address() -> None:
    # 900 bytes in qmail-smtpd.c, one of which ends the C string.
    assert ADDRESS_MAX == 899
