"""The message stream: one end, wherever the pieces are cut.

The first bytes of an input say how it is cut, up to the first NUL.
"""

from __future__ import annotations

from tests.fuzz.targets import pieces
from tests.support.message import Read, read

ALLOWED: tuple[type[Exception], ...] = ()
TOKENS = (b"\r\n", b"\r", b"\n", b".", b"\r\n.\r\n", b"\r\n..\r\n", b"\0", b"text")
END = b"\r\n.\r\n"


def one_input(data: bytes) -> None:
    cuts, _, data = data.partition(b"\0")
    whole = read([data] if data else [])
    assert whole == read(list(pieces(data, cuts)))
    assert whole == read(list(pieces(data, b"\1")))
    _as_qmail_sees_it(data, whole)


def _as_qmail_sees_it(data: bytes, result: Read) -> None:
    """The end is the first CRLF.CRLF, with the CRLF of DATA before it all."""
    message, ended, rest, bare, size = result
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
