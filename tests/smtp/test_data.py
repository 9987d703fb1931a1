"""The message stream: one end, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.message import read
from tests.support.sequences import NAMED

END = b"\r\n.\r\n"


def model(data: bytes) -> tuple[bytes, bool, bytes]:
    """What blast() in qmail-smtpd.c takes, as a machine of single bytes:
    ``(message, ended, rest)``; dots are left stuffed."""
    window = b"\r\n"
    for at in range(len(data)):
        window = (window + data[at : at + 1])[-5:]
        if window == END:
            return data[: at - 2], True, data[at + 1 :]
    return data, False, b""


pieces = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", END, b"a", b"\0", b"xyz"]),
    max_size=30,
)


@given(pieces)
def test_the_end_is_where_qmail_sees_it(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    message, ended, rest = model(data)
    got = read([data] if data else [])
    assert got[1] == ended
    if ended:
        assert got[0] == message
        assert got[2] == rest
        assert got[4] == len(message)
    else:
        # Up to four bytes are held back: they may begin the end.
        assert message.startswith(got[0])
        assert len(message) - len(got[0]) <= 4


@given(pieces)
def test_cuts_change_nothing(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    whole = read([data] if data else [])
    assert read([c for c in chunks if c]) == whole
    assert read([data[i : i + 1] for i in range(len(data))]) == whole


@given(pieces)
def test_bare_lf_is_seen(chunks: list[bytes]) -> None:
    message = read([b"".join(chunks)])[0]
    bare = b"\n" in (b"\r\n" + message).replace(b"\r\n", b"")
    assert read([b"".join(chunks)])[3] == bare


@pytest.mark.parametrize("sequence", NAMED.values(), ids=[*NAMED.keys()])
def test_no_other_sequence_ends_a_message(sequence: bytes) -> None:
    data = b"first" + sequence + b"MAIL FROM:<x@y>\r\n"
    for cut in range(len(data)):
        _, ended, rest, _, _ = read([c for c in (data[:cut], data[cut:]) if c])
        assert not ended
        assert rest == b""


def test_a_true_end_after_a_stray_cr() -> None:
    assert read([b"x\r\r\n.\r\nQUIT\r\n"]) == (b"x\r\r\n", True, b"QUIT\r\n", False, 4)


def test_an_empty_message() -> None:
    assert read([b".\r\nQUIT\r\n"]) == (b"", True, b"QUIT\r\n", False, 0)
