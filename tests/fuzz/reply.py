"""Replies of a backend: read however they are cut, said again well-formed.

The first bytes of an input say how it is cut, up to the first NUL.
"""

from __future__ import annotations

import re

from proxy.smtp.reply import BadReply, Reply, ReplyReader
from tests.fuzz.targets import pieces

ALLOWED: tuple[type[Exception], ...] = ()
TOKENS = (
    b"250 ok\r\n",
    b"250-",
    b"550 5.1.1 no\r\n",
    b"354 go\r\n",
    b"421 \r\n",
    b"250\r\n",
    b"250\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\xff",
    b"999 x\r\n",
)
# RFC 5321 4.2 and 4.5.3.1.5, without the CRLF.
LINE = re.compile(rb"[2-5][0-9][0-9][ -][ -~]{0,506}")


def one_input(data: bytes) -> None:
    cuts, _, data = data.partition(b"\0")
    ways = [[data], list(pieces(data, cuts)), list(pieces(data, b"\1"))]
    whole, cut, bytewise = map(_read, ways)
    assert whole[1:] == cut[1:] == bytewise[1:]
    if not whole[1]:
        assert whole == cut == bytewise
    # In one piece with what is no reply, what came before it is given up.
    for some in (whole[0], cut[0]):
        assert bytewise[0][: len(some)] == some
    for reply in bytewise[0]:
        _is_well_formed(reply)
        assert _read([reply.wire]) == ([reply], False, True)


def _read(chunks: list[bytes]) -> tuple[list[Reply], bool, bool]:
    """The replies before anything that is none; whether that came; whether
    nothing was left over."""
    reader = ReplyReader()
    found: list[Reply] = []
    for chunk in chunks:
        try:
            found += reader.feed(chunk)
        except BadReply:
            return found, True, False
    return found, False, reader.empty


def _is_well_formed(reply: Reply) -> None:
    lines = reply.wire.split(b"\r\n")
    assert lines.pop() == b""
    assert len(lines) <= 100
    for number, line in enumerate(lines, start=1):
        assert LINE.fullmatch(line)
        assert int(line[:3]) == reply.code
        assert (line[3:4] == b"-") == (number < len(lines))
    assert reply.text.isascii()
    assert reply.text.isprintable()
