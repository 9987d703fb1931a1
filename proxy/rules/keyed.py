"""Look-ups by key, of which the first that is found counts.

Knows: which parts of an address are asked for.  Knows not: how.  Used by the rules
that look keys up: ``socketmap``, ``tcp_table``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from proxy.config.values import split_list
from proxy.rules.said import shown
from proxy.rules.source import BaseSource, Finding, Says
from proxy.rules.verdict import Question
from proxy.rules.wires import Wires

Part = Literal["address", "@domain", "local@", "domain", "local"]

Parts = Annotated[
    tuple[Part, ...],
    BeforeValidator(split_list),
    Field(min_length=1),
]

PARTS: Any = Field(
    default=("address",),
    description="What is looked up, in this order, until something is found, in lower"
    " case as Postfix does: any of address, @domain, local@, domain, local. Postfix"
    " itself asks these services for the address alone.",
)


def keys_of(parts: tuple[Part, ...], mailbox: bytes) -> list[bytes]:
    """The keys for a mailbox, in lower case (Postfix: DICT_FLAG_FOLD_FIX)."""
    mailbox = mailbox.lower()
    local, _, domain = mailbox.rpartition(b"@")
    forms: dict[Part, bytes] = {
        "address": mailbox,
        "@domain": b"@" + domain,
        "local@": local + b"@",
        "domain": domain,
        "local": local,
    }
    return [forms[part] for part in parts]


class KeyedSource(BaseSource):
    """Looks the keys of a mailbox up over kept connections; ``_look_up`` is the
    protocol's own, ``_asks`` what ``explain`` says before the keys."""

    def __init__(self, parts: tuple[Part, ...], asks: str, wires: Wires) -> None:
        self._parts = parts
        self._asks = asks
        self._wires = wires

    def query(self, question: Question) -> str:
        keys = keys_of(self._parts, question.mailbox)
        return f"{self._asks} {', '.join(map(shown, keys))}"

    async def ask(self, question: Question) -> Finding:
        return await first(keys_of(self._parts, question.mailbox), self._look_up)

    async def close(self) -> None:
        await self._wires.close()

    async def _look_up(self, key: bytes) -> bytes | None:
        """The value; ``None`` without one.  Raises what the service's trouble is."""
        raise NotImplementedError


async def first(
    keys: list[bytes], look_up: Callable[[bytes], Awaitable[bytes | None]]
) -> Finding:
    """What the first key that is there says: any value counts, as in Postfix's lists
    of recipients."""
    for key in keys:
        value = await look_up(key)
        if value is not None:
            return Finding(Says.FOUND, f"{shown(key)} is there: {shown(value)}")
    return Finding(Says.MISSING, f"{', '.join(map(shown, keys))} not there")
