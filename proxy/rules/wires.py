"""Kept connections to a service that answers one question after another.

Knows: how a connection is opened, kept, bounded and given up.  Knows not: what is
said on it.  Used by the rules that speak Postfix's protocols, and by ``command`` for
programs that stay.

Nothing is shared between two questions: a connection whose answer is late, odd, or
longer than it should be is closed, and nobody hears the rest of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from proxy.config.values import UNIX, read_address
from proxy.rules.source import SourceDown

T = TypeVar("T")

IDLE_SECONDS = 60.0
"""A kept connection that nobody wanted for so long is closed when it is seen."""

Parse = Callable[[bytes], T | None]
"""What was heard so far to an answer: ``None`` while it is not whole.  Raises
:class:`~proxy.rules.source.SourceDown` where it will never be one, or where more has
come than one."""


class Stale(Exception):
    """A connection ended before anything of the answer was heard."""


class Wire(asyncio.Protocol):
    """One connection, on which one question at a time is asked."""

    def __init__(self, limit: int) -> None:
        self.lost = False
        self.used = False
        self.since = 0.0
        self._limit = limit
        self._transport: Any = None
        self._heard = b""
        self._parse: Parse[Any] | None = None
        self._answer: asyncio.Future[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._over(error)

    def eof_received(self) -> bool:
        self._over(None)
        return False

    def data_received(self, data: bytes) -> None:
        answer, parse = self._answer, self._parse
        if answer is None or parse is None or answer.done():
            self.close()  # nobody has asked
            return
        self._heard += data
        try:
            found = parse(self._heard)
            if found is None and len(self._heard) > self._limit:
                raise SourceDown(f"an answer of more than {self._limit} bytes")
        except SourceDown as error:
            answer.set_exception(error)
            self.close()
            return
        if found is not None:
            answer.set_result(found)

    async def ask(self, question: bytes, parse: Parse[T]) -> T:
        """The answer.  Raises :class:`Stale`, :class:`SourceDown`; the connection is
        closed then, and also if the wait is cancelled."""
        if self.lost:
            raise Stale
        self._heard, self._parse = b"", parse
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(question)
            found: T = await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None
        self.used = True
        return found

    def close(self) -> None:
        """End it at once."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def _over(self, error: Exception | None) -> None:
        self.lost = True
        answer = self._answer
        if answer is None or answer.done():
            return
        if self._heard:
            answer.set_exception(SourceDown("the connection ended within an answer"))
        else:
            answer.set_exception(Stale(str(error) if error else ""))


Open = Callable[[Callable[[], Wire]], Awaitable[Wire]]
"""Makes a connection; raises :class:`OSError`, :class:`SourceDown`."""


class Wires:
    """Connections to one place, as many as there are questions at a time.

    ``limit`` is the length of an answer in bytes.
    """

    def __init__(
        self, opens: Open, limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._opens = opens
        self._limit = limit
        self._clock = clock
        self._free: list[Wire] = []
        self._closed = False

    async def ask(self, question: bytes, parse: Parse[T]) -> T:
        """The answer; raises :class:`SourceDown`.

        A kept connection that turns out to be over is replaced once, in silence:
        questions change nothing at the other end.
        """
        wire = self._kept()
        if wire is not None:
            try:
                return await self._asked(wire, question, parse)
            except Stale:
                pass  # the service was started anew, or has become tired of it
        try:
            wire = await self._opens(lambda: Wire(self._limit))
            return await self._asked(wire, question, parse)
        except Stale as error:
            why = f": {error}" if str(error) else ""
            raise SourceDown(f"the connection ended without an answer{why}") from None
        except TimeoutError:
            raise  # of the question's own time
        except OSError as error:
            raise SourceDown(f"cannot connect: {error}") from error

    async def close(self) -> None:
        """Close what is kept; later connections are not kept."""
        self._closed = True
        while self._free:
            self._free.pop().close()

    async def _asked(self, wire: Wire, question: bytes, parse: Parse[T]) -> T:
        found = await wire.ask(question, parse)
        if self._closed:
            wire.close()
        elif not wire.lost:
            wire.since = self._clock()
            self._free.append(wire)
        return found

    def _kept(self) -> Wire | None:
        """The one that was used last; those that were not for long are closed."""
        oldest = self._clock() - IDLE_SECONDS
        while self._free and (self._free[0].lost or self._free[0].since < oldest):
            self._free.pop(0).close()
        while self._free:
            wire = self._free.pop()
            if not wire.lost:
                return wire
        return None


def opener(address: str) -> Open:
    """Connections to ``host:port`` or ``unix:/path``."""

    async def opened(make: Callable[[], Wire]) -> Wire:
        loop = asyncio.get_running_loop()
        if address.startswith(UNIX):
            _, wire = await loop.create_unix_connection(make, address[len(UNIX) :])
        else:
            host, port = read_address(address)
            _, wire = await loop.create_connection(make, host, port)
        return wire

    return opened
