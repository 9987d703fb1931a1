"""A message read by the data machine, in any number of pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from proxy.smtp.data import MessageStream


class Read(NamedTuple):
    """What was read; ``rest`` came behind the end."""

    message: bytes
    ended: bool
    rest: bytes
    bare_lf: bool
    size: int


def read(chunks: Iterable[bytes]) -> Read:
    stream = MessageStream()
    message = rest = b""
    for chunk in chunks:
        if stream.ended:
            rest += chunk
            continue
        piece, rest = stream.feed(chunk)
        message += piece
    return Read(message, stream.ended, rest, stream.bare_lf, stream.size)
