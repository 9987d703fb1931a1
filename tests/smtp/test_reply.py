"""Replies: rendered well-formed whatever they are made of, and read however
they are cut."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.smtp.reply import BadReply, LastReply, Reply, ReplyReader
from tests.support.fuzz import fuzz

LINE = re.compile(rb"[2-5][0-9][0-9][ -][ -~]{0,506}")
REPLIES = st.builds(
    lambda code, lines: Reply(code, *lines),
    st.integers(200, 599),
    st.lists(st.binary(max_size=600), max_size=8),
)


def read(*chunks: bytes) -> tuple[list[Reply], str]:
    """The replies, and what made an end of them."""
    reader = ReplyReader()
    found: list[Reply] = []
    for chunk in chunks:
        try:
            found += reader.feed(chunk)
        except BadReply as error:
            return found, str(error)
    return found, ""


@fuzz
@given(REPLIES)
def test_whatever_it_is_made_of_it_is_well_formed(reply: Reply) -> None:
    lines = reply.wire.split(b"\r\n")
    assert lines.pop() == b""
    for number, line in enumerate(lines, start=1):
        assert LINE.fullmatch(line)
        assert int(line[:3]) == reply.code
        assert (line[3:4] == b"-") == (number < len(lines))


@fuzz
@given(st.lists(REPLIES, max_size=5), st.lists(st.integers(0, 3000), max_size=5))
def test_round_trip_however_it_is_cut(replies: list[Reply], cuts: list[int]) -> None:
    wire = b"".join(reply.wire for reply in replies)
    assert read(wire) == (replies, "")
    edges = [0, *sorted(cuts), len(wire)]
    chunks = [wire[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*chunks) == (replies, "")
    assert read(*(wire[at : at + 1] for at in range(len(wire)))) == (replies, "")


def test_one_that_closes_the_connection_is_another_one() -> None:
    """Else what is remembered of one would do for the other."""
    assert LastReply(554, b"no") == LastReply(554, b"no")
    assert LastReply(554, b"no") != Reply(554, b"no")


def test_the_end_of_a_reply_means_nothing_by_itself() -> None:
    """What is remembered of servers' words must not carry one client's reply
    into another's (short pieces are remembered for the whole process)."""
    end = b"250 just this once\r\n"
    assert read(b"250-alice@example.test\r\n", end)[0][0].lines == (
        b"alice@example.test",
        b"just this once",
    )
    assert read(end)[0][0].lines == (b"just this once",)
    assert read(b"250-bob\r\n250", end[3:])[0][0].lines[0] == b"bob"
    assert read(end)[0][0].lines == (b"just this once",)


@pytest.mark.parametrize(
    "line", [b"", b"ok", b"25 ok", b"150 ok", b"650 ok", b"250_ok", b"\xff", b"2500 x"]
)
def test_what_is_no_reply(line: bytes) -> None:
    """In one piece with it, no reply counts: there is no telling what they
    answer."""
    wire = b"250 ok\r\n" + line + b"\r\n250 ok\r\n"
    found, trouble = read(wire)
    assert found == []
    assert trouble.startswith("not a reply line")
    found, trouble = read(*(wire[at : at + 1] for at in range(len(wire))))
    assert found == [Reply(250, b"ok")]
    assert trouble.startswith("not a reply line")


@pytest.mark.parametrize("piece", [b"250-" + b"x" * 100 + b"\r\n", b"250 x" * 20])
def test_an_endless_reply_is_given_up(piece: bytes) -> None:
    reader = ReplyReader(limit=1000)
    for _ in range(10):
        assert reader.feed(piece) == []
    with pytest.raises(BadReply, match="endless"):
        reader.feed(piece)
