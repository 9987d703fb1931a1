"""Names to addresses: a name that resolves slowly keeps nobody waiting but those who
ask for that name.

getaddrinfo(3) blocks and cannot be given up on.  So each name has one look-up at a
time, in a daemon thread of its own that a stop of the service does not wait for; all
who ask for the name meanwhile share its answer.  There is no queue: beyond
:data:`MOST` names at a time a question fails at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from copy import copy
from typing import Any, NamedTuple

MOST = 16
"""Names that one resolver looks up at a time."""


class Address(NamedTuple):
    """As socket.getaddrinfo() has it."""

    family: int
    type: int
    proto: int
    canonical: str
    address: Any


class _Asked(NamedTuple):
    """What getaddrinfo(3) is asked.  The port is put into the answer afterwards, so
    that all ports of a host share one look-up."""

    host: str
    port: int | str
    family: int
    type: int
    proto: int
    flags: int


_Outcome = list[Address] | Exception


class Resolver:
    """Looks names up for one event loop."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._running: dict[_Asked, asyncio.Future[_Outcome]] = {}

    @property
    def count(self) -> int:
        """How many look-ups are under way."""
        return len(self._running)

    async def addresses(
        self,
        host: str | bytes | None,
        port: int | str | bytes | None,
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Address]:
        """All addresses of ``host``, in the order in which they are to be tried.

        Raises ``OSError``.  Addresses and localhost (RFC 6761 §6.3) are known at
        once.
        """
        name = host.decode("ascii") if isinstance(host, bytes) else host
        service = port.decode("ascii") if isinstance(port, bytes) else port or 0
        if name is None:  # AI_PASSIVE and the like, which ask nobody
            return _looked_up(_Asked("", service, family, type, proto, flags))
        number = service if isinstance(service, int) else 0
        asked_port = 0 if isinstance(service, int) else service
        asked = _Asked(name.lower(), asked_port, family, type, proto, flags)
        if known := _at_once(asked):
            return [_with_port(each, number) for each in known]
        # Shared: whoever gives up gives up for himself.
        outcome = await asyncio.shield(self._look_up(asked))
        if isinstance(outcome, Exception):
            # One of its own for each who waited: a traceback belongs to one.
            raise copy(outcome) from None
        if not asked_port:
            return [_with_port(each, number) for each in outcome]
        return list(outcome)

    def _look_up(self, asked: _Asked) -> asyncio.Future[_Outcome]:
        if (running := self._running.get(asked)) is not None:
            return running
        if len(self._running) >= self._most:
            text = f"{self._most} names are being looked up and none is found"
            raise socket.gaierror(socket.EAI_AGAIN, text)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Outcome] = loop.create_future()

        def told(outcome: _Outcome) -> None:
            self._running.pop(asked, None)
            if not future.done():
                future.set_result(outcome)

        def work() -> None:
            outcome: _Outcome
            try:
                outcome = _looked_up(asked)
            except Exception as error:  # UnicodeError, too: a label too long
                outcome = error if isinstance(error, OSError) else OSError(str(error))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(told, outcome)

        thread = threading.Thread(target=work, name=f"name {asked.host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            raise OSError(str(error)) from None
        self._running[asked] = future
        return future


def _looked_up(asked: _Asked) -> list[Address]:
    host, port, family, kind, proto, flags = asked
    found = socket.getaddrinfo(host or None, port or None, family, kind, proto, flags)
    return [Address(*each) for each in found]


def _at_once(asked: _Asked) -> list[Address]:
    """What is known without asking; nothing where it has to be asked."""
    host, family = asked.host, asked.family
    if host in ("localhost", "localhost.") and not asked.port:
        hosts = [
            literal
            for literal, own in (
                ("127.0.0.1", socket.AF_INET),
                ("::1", socket.AF_INET6),
            )
            if family in (0, own)
        ]
    else:
        hosts = [host]
    found: list[Address] = []
    for each in hosts:
        literal = asked._replace(host=each, flags=asked.flags | socket.AI_NUMERICHOST)
        with contextlib.suppress(OSError, UnicodeError):
            found += _looked_up(literal)
    return found


def _with_port(found: Address, port: int) -> Address:
    host, _, *rest = found.address
    return found._replace(address=(host, port, *rest))
