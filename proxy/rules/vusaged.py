"""Asks vpopmail's usage daemon how much a mailbox or a domain has.

Knows: its packets.  Knows not: what an answer means (:mod:`proxy.qmail.vusaged`).
Used by ``needs``.  Source: client.c, vusaged/packet.c of vpopmail 5.4 to 5.6.
"""

from __future__ import annotations

import asyncio
import os
import struct

from proxy.qmail.questions import AskDaemon, Daemon, NoAnswer, Stored
from proxy.rules.source import SourceDown
from proxy.rules.wires import Stale, Wire, opener

_ANSWER = struct.Struct("!QQ")
_LENGTH = struct.Struct("!H")


async def ask(question: AskDaemon, root: bytes) -> Stored | NoAnswer:
    """One question over one connection, as vpopmail's own client does.

    A socket's path is taken below ``root``.
    """
    daemon, name = question.daemon, question.name
    address = _address(daemon, root)
    try:
        async with asyncio.timeout(daemon.timeout):
            wire = await opener(address)(lambda: Wire(_ANSWER.size))
            try:
                return await wire.ask(_LENGTH.pack(len(name)) + name, read_answer)
            finally:
                wire.close()
    except TimeoutError:
        return NoAnswer(f"{address}: no answer within {daemon.timeout:g} s")
    except Stale:
        return NoAnswer(f"{address}: the connection ended without an answer")
    except (SourceDown, OSError) as error:
        return NoAnswer(f"{address}: {error}")


def _address(daemon: Daemon, root: bytes) -> str:
    if daemon.socket:
        return "unix:" + os.fsdecode(root.rstrip(b"/") + daemon.socket)
    return f"{daemon.host}:{daemon.port}"


def read_answer(heard: bytes) -> Stored | None:
    """Two numbers of 64 bits; ``None`` while they are not whole."""
    if len(heard) < _ANSWER.size:
        return None
    return Stored(*_ANSWER.unpack(heard[: _ANSWER.size]))
