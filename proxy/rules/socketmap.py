"""The rule ``socketmap``: a service that speaks the protocol of Sendmail's and
Postfix's socketmap.

Knows: its questions and answers, both netstrings (socketmap_table(5), Postfix).
Knows not: connections (``wires``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from proxy.config.rules import RemoteKeys
from proxy.config.values import BackendAddress, wrong
from proxy.rules.keyed import PARTS, KeyedSource, Parts
from proxy.rules.pointed import service
from proxy.rules.said import shown
from proxy.rules.source import Context, SourceDown, SourceRule
from proxy.rules.trouble import Trouble
from proxy.rules.wires import Wires, opener

ANSWER_MAX = 100_000
"""Bytes of an answer, Postfix's own bound (socketmap_table(5))."""

_MAP = re.compile(r"[!-~]{1,100}")
_LENGTH = re.compile(rb"[0-9]{1,6}:")
_LENGTH_MAX = 7
_STATUSES = (b"OK", b"NOTFOUND", b"TEMP", b"TIMEOUT", b"PERM")


def _checked_map(text: str) -> str:
    if not _MAP.fullmatch(text):
        raise wrong("is not the name of a map", "write it without blanks")
    return text


class Settings(RemoteKeys):
    """A service that speaks socketmap, as Postfix asks it: recipients are found, not
    found, or cannot be looked up now."""

    type: Literal["socketmap"] = Field(description="A socketmap service.")
    address: BackendAddress = Field(
        examples=["unix:/run/recipients.socket"],
        description="Where it listens: host:port, [IPv6]:port, or unix:/path.",
    )
    map: Annotated[str, AfterValidator(_checked_map)] = Field(
        examples=["recipients"],
        description="The name of the map there.",
    )
    keys: Parts = PARTS


class Socketmap(KeyedSource):
    """Asks ``MAP KEY`` for each key."""

    def __init__(self, settings: Settings) -> None:
        wires = Wires(opener(settings.address), ANSWER_MAX + _LENGTH_MAX + 1)
        super().__init__(settings.keys, settings.map, wires)
        self._map = settings.map.encode("ascii")

    async def _look_up(self, key: bytes) -> bytes | None:
        answer = await self._wires.ask(netstring(self._map + b" " + key), read_answer)
        status, _, rest = answer.partition(b" ")
        if status == b"OK":
            return rest
        if status == b"NOTFOUND":
            return None
        # PERM is a mistake in the question or the service, not a fact about the
        # recipient: Postfix defers, too.
        raise SourceDown(f"the service says {shown(answer)}")


def netstring(data: bytes) -> bytes:
    """``data`` as a netstring (https://cr.yp.to/proto/netstrings.txt)."""
    return b"%d:%s," % (len(data), data)


def read_answer(heard: bytes) -> bytes | None:
    """The answer in ``heard``; ``None`` while it is not whole.  Raises
    :class:`SourceDown`."""
    answer = read_netstring(ANSWER_MAX, heard)
    if answer is not None and answer.partition(b" ")[0] not in _STATUSES:
        raise SourceDown(f"not an answer: {shown(answer)}")
    return answer


def read_netstring(limit: int, heard: bytes) -> bytes | None:
    """The one netstring in ``heard``, of at most ``limit`` bytes; ``None`` while it is
    not whole.  Raises :class:`SourceDown`."""
    match = _LENGTH.match(heard)
    if match is None:
        if len(heard) >= _LENGTH_MAX or not (heard + b":").rstrip(b":").isdigit():
            raise SourceDown(f"not a netstring: {shown(heard)}")
        return None
    length = int(match[0][:-1])
    if length > limit:
        raise SourceDown(f"an answer of {length} bytes, more than {limit}")
    end = match.end() + length
    if len(heard) <= end:
        return None
    if heard[end:] != b",":
        raise SourceDown(f"not one netstring: {shown(heard)}")
    return heard[match.end() : end]


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, Socketmap(settings), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """What can be seen of the service without asking it."""
    return service(settings.address)
