"""The event loop: uvloop's where it is installed, with name look-ups of our own.

Whatever a library connects to, its name is looked up by
:class:`~proxy.system.resolver.Resolver`, not in the loop's own pool of threads (with
uvloop, libuv's four), where one name that resolves slowly holds all the others up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

from proxy.system.resolver import Resolver


class PlainLoop(asyncio.SelectorEventLoop):
    """asyncio's; its create_connection() asks its getaddrinfo()."""

    def __init__(self) -> None:
        super().__init__()
        self._names = Resolver()

    async def getaddrinfo(self, host: Any, port: Any, **wanted: int) -> Any:
        """As the library's; raises ``OSError``."""
        return await self._names.addresses(host, port, **{"type": 0, **wanted})


@cache
def _uvloops() -> type[asyncio.AbstractEventLoop]:
    import uvloop

    class Loop(uvloop.Loop):
        """uvloop's, whose create_connection() asks libuv."""

        def __init__(self) -> None:
            super().__init__()
            self._names = Resolver()

        async def getaddrinfo(self, host: Any, port: Any, **wanted: int) -> Any:
            return await self._names.addresses(host, port, **{"type": 0, **wanted})

        async def create_connection(  # type: ignore[override]
            self, factory: Any, host: Any = None, port: Any = None, **keys: Any
        ) -> Any:
            connect = super().create_connection
            if host is None:
                return await connect(factory, host, port, **keys)
            wanted = {name: keys.pop(name, 0) for name in ("family", "proto", "flags")}
            found = await self._names.addresses(host, port, **wanted)
            if keys.get("ssl") and keys.get("server_hostname") is None:
                keys["server_hostname"] = host  # the name, not its address
            trouble: OSError | None = None
            for each in found:
                try:
                    return await connect(factory, *each.address[:2], **keys)
                except OSError as error:
                    trouble = error
            raise trouble or OSError(f"{host} has no address")

    return Loop


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes uvloop's where it is installed, else asyncio's."""
    with contextlib.suppress(ImportError):
        return _uvloops()
    return PlainLoop


def run_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run on uvloop where it is installed, else on asyncio."""
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(main())
