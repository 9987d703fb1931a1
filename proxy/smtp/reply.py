"""Replies: what a server says, as a value that is rendered once.

Knows: reply syntax (RFC 5321 §4.2), enhanced status codes (RFC 3463), how to
clean a foreign server's text.  Knows not: when to say what.  Called by the
dialogue, the rules and the backend.
"""

from __future__ import annotations

import re

_TEXT_MAX = 506  # RFC 5321 §4.5.3.1.5: 512 octets with code, blank and CRLF
_CHALLENGE_MAX = 12282  # of AUTH, which must not be cut: 12288 (RFC 4954 §4)
_LINES_MAX = 100
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


class Reply:
    """A reply: ``code`` 200 to 599 and at least one line of text.

    ``wire`` is the whole reply as it is sent, ``text`` its first line as in
    ``550 5.1.1 ...``, for logs and ``explain``.  Equal when ``wire`` and ``last`` are.
    """

    __slots__ = ("code", "lines", "text", "wire")

    last = False
    """Whether the connection is closed after it, whatever its code."""

    def __init__(self, code: int, *lines: bytes) -> None:
        """Lines are cut and cleaned so that the reply is always well-formed."""
        self.code = code
        limit = _CHALLENGE_MAX if code == 334 else _TEXT_MAX
        clean = [_clean(line, limit) for line in lines[:_LINES_MAX]] or [b""]
        self.lines = tuple(clean)
        self.text = f"{code} {clean[0].decode('ascii')}"
        number = b"%d" % code
        body = [number + b"-" + line for line in clean[:-1]]
        body.append(number + b" " + clean[-1])
        self.wire = b"\r\n".join(body) + b"\r\n"

    @property
    def positive(self) -> bool:
        """2yz: done."""
        return 200 <= self.code < 300

    @property
    def temporary(self) -> bool:
        """4yz: come again."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5yz: no."""
        return 500 <= self.code < 600

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Reply)
            and other.wire == self.wire
            and other.last == self.last
        )

    def __hash__(self) -> int:
        return hash(self.wire)

    def __repr__(self) -> str:
        return f"<Reply {self.text}>"


class LastReply(Reply):
    """A reply after which the connection is closed."""

    __slots__ = ()

    last = True


def _clean(line: bytes, limit: int) -> bytes:
    return _UNPRINTABLE.sub(b"?", line)[:limit]


class BadReply(Exception):
    """What a server sent is not a reply; ``args[0]`` says why."""


_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\n]*))?")


# Servers say the same few things over and over ("250 ok").  What is cut out of
# such a piece is kept: reading it anew took a tenth of a relayed message's time.
_KNOWN: dict[bytes, list[Reply]] = {}
_KNOWN_MAX = 256
_KNOWN_LENGTH = 64


class ReplyReader:
    """Takes replies out of a stream of bytes, however it is cut.

    Bounded: a reply longer than ``limit`` bytes is a :class:`BadReply`.
    """

    __slots__ = ("_buffer", "_code", "_limit", "_lines")

    def __init__(self, limit: int = 65536) -> None:
        self._buffer = b""
        self._code = b""  # of the lines that are held
        self._lines: list[bytes] = []
        self._limit = limit

    @property
    def empty(self) -> bool:
        """Whether nothing of an unfinished reply is held."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that ``data`` completes; raises :class:`BadReply`."""
        if self._lines:  # the end of a reply means nothing by itself
            return self._read(self._buffer + data)
        if self._buffer:
            data = self._buffer + data
        else:
            known = _KNOWN.get(data)
            if known is not None:
                return known
        replies = self._read(data)
        if len(data) <= _KNOWN_LENGTH and len(_KNOWN) < _KNOWN_MAX and self.empty:
            if replies and replies[-1].code == 334:
                return replies  # no challenge comes twice
            _KNOWN[data] = replies
        return replies

    def _read(self, data: bytes) -> list[Reply]:
        replies = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            reply = self._line(data[start:end].removesuffix(b"\r"))
            if reply is not None:
                replies.append(reply)
            start = end + 1
        self._buffer = data[start:]
        held = len(self._buffer) + sum(map(len, self._lines))
        if held > self._limit or len(self._lines) > _LINES_MAX:
            raise BadReply("endless reply")
        return replies

    def _line(self, line: bytes) -> Reply | None:
        match = _REPLY_LINE.fullmatch(line)
        if match is None:
            raise BadReply("not a reply line: " + repr(line[:80])[1:])
        if self._lines and match[1] != self._code:  # RFC 5321 §4.2.1
            raise BadReply("one reply with two codes: " + repr(line[:80])[1:])
        self._code = match[1]
        self._lines.append(match[3] or b"")
        if match[2] == b"-":
            return None
        reply = Reply(int(match[1]), *self._lines)
        self._lines = []
        return reply
