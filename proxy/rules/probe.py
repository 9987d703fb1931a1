"""Trying a server once, for ``backstop check``.

Knows: that a source which cannot answer now defers its recipients.  Knows not: any
source.  Called by the modules of the rules that ask servers.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from proxy.rules.source import SourceDown
from proxy.rules.trouble import Trouble


class Probed(Protocol):
    """A source that can be tried."""

    async def probe(self) -> None:
        """Ask it something; raises :class:`SourceDown`."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def probed(source: Probed, seconds: float) -> list[Trouble]:
    """What is wrong with ``source`` now.  Not to be called within an event loop."""
    why = asyncio.run(_why(source, seconds))
    if not why:
        return []
    remedy = "until this is mended its recipients are deferred"
    return [Trouble(f"cannot be asked: {why}", remedy)]


async def _why(source: Probed, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            await source.probe()
    except SourceDown as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    finally:
        await source.close()
    return ""
