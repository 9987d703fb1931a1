"""The rule ``tcp_table``: a service that speaks Postfix's tcp_table protocol.

Knows: its questions, its codes, its encoding (tcp_table(5), Postfix).  Knows not:
connections (``wires``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from proxy.config.rules import RemoteKeys
from proxy.config.values import BackendAddress
from proxy.rules.keyed import PARTS, KeyedSource, Parts
from proxy.rules.pointed import service
from proxy.rules.said import shown
from proxy.rules.source import Context, SourceDown, SourceRule
from proxy.rules.trouble import Trouble
from proxy.rules.wires import Wires, opener

ANSWER_MAX = 4096
"""Bytes of an answer with its line end (tcp_table(5))."""

_TO_ENCODE = re.compile(rb"[^!-$&-~]")  # blanks, %, and what is not printable
_CODED = re.compile(rb"%([0-9A-Fa-f]{2})")


class Settings(RemoteKeys):
    """A service that speaks Postfix's tcp_table protocol."""

    type: Literal["tcp_table"] = Field(description="A tcp_table service.")
    address: BackendAddress = Field(
        examples=["127.0.0.1:10023"],
        description="Where it listens: host:port, [IPv6]:port, or unix:/path.",
    )
    keys: Parts = PARTS


class TcpTable(KeyedSource):
    """Asks ``get KEY`` for each key."""

    def __init__(self, settings: Settings) -> None:
        wires = Wires(opener(settings.address), ANSWER_MAX)
        super().__init__(settings.keys, "get", wires)

    async def _look_up(self, key: bytes) -> bytes | None:
        answer = await self._wires.ask(b"get " + encoded(key) + b"\n", read_answer)
        code, _, rest = answer.partition(b" ")
        if code == b"200":
            return decoded(rest)
        if code == b"500":
            return None
        raise SourceDown(f"the service says 400 {shown(decoded(rest))}")


def encoded(key: bytes) -> bytes:
    """``key`` with ``%XX`` for what may not stand in a question."""
    return _TO_ENCODE.sub(lambda match: b"%%%02X" % match[0][0], key)


def decoded(value: bytes) -> bytes:
    """The other way."""
    return _CODED.sub(lambda match: bytes([int(match[1], 16)]), value)


def read_answer(heard: bytes) -> bytes | None:
    """The answer in ``heard``; ``None`` while it is not whole.  Raises
    :class:`SourceDown`."""
    line = read_line(heard)
    if line is not None and line.partition(b" ")[0] not in (b"200", b"400", b"500"):
        raise SourceDown(f"not an answer: {shown(line)}")
    return line


def read_line(heard: bytes) -> bytes | None:
    """The one line in ``heard``, without its end; ``None`` while it is not whole.
    Raises :class:`SourceDown`."""
    line, end, rest = heard.partition(b"\n")
    if rest:
        raise SourceDown(f"more than one line: {shown(heard)}")
    return line.removesuffix(b"\r") if end else None


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, TcpTable(settings), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """What can be seen of the service without asking it."""
    return service(settings.address)
