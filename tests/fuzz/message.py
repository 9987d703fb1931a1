"""The message stream: one end, wherever the pieces are cut.

The first bytes of an input say how it is cut, up to the first NUL.
"""

from __future__ import annotations

from proxy.smtp.data import MessageStream
from tests.fuzz.targets import pieces

ALLOWED: tuple[type[Exception], ...] = ()
TOKENS = (b"\r\n", b"\r", b"\n", b".", b"\r\n.\r\n", b"\r\n..\r\n", b"\0", b"text")
END = b"\r\n.\r\n"

Result = tuple[bytes, bytes, bool, bool, int]


def one_input(data: bytes) -> None:
    cuts, _, data = data.partition(b"\0")
    whole = _run([data] if data else [])
    assert whole == _run(list(pieces(data, cuts)))
    assert whole == _run(list(pieces(data, b"\1")))
    _as_qmail_sees_it(data, whole)


def _run(chunks: list[bytes]) -> Result:
    stream = MessageStream()
    message = rest = b""
    for chunk in chunks:
        if stream.ended:
            rest += chunk
            continue
        piece, rest = stream.feed(chunk)
        message += piece
    return message, rest, stream.ended, stream.bare_lf, stream.size


def _as_qmail_sees_it(data: bytes, result: Result) -> None:
    """The end is the first CRLF.CRLF, with the CRLF of DATA before it all."""
    message, rest, ended, bare, size = result
    before, end, after = (b"\r\n" + data).partition(END)
    assert ended == bool(end)
    if ended:
        assert b"\r\n" + message == before + b"\r\n"
        assert rest == after
        assert size == len(message)
    else:
        assert data.startswith(message)
        assert len(data) - len(message) <= 4
    assert bare == (b"\n" in (b"\r\n" + message).replace(b"\r\n", b""))
