"""Names that resolve slowly, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from proxy.backend.reach import Reach
from proxy.backend.settings import BackendSettings
from proxy.process import loops
from proxy.system.resolver import MOST, Resolver
from tests.support.certificates import client_context, server_context

PATIENCE = 60.0

Run = Callable[[Callable[[], Coroutine[Any, Any, int]]], int]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    return loops.run_loop


class Names:
    """A resolver whose names below slow.test are answered when the test lets them."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []
        self._true = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *rest: int) -> Any:
        if (rest and rest[-1] & socket.AI_NUMERICHOST) or not host:
            return self._true(host, port, *rest)
        self.asked.append(host)
        if host.endswith("slow.test"):
            self.go.wait(PATIENCE)
        if host.startswith("no."):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._true("127.0.0.1", port, *rest)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.go.set()


async def listening() -> tuple[asyncio.Server, int]:
    async def bye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(bye, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def given_up_on(port: int, times: int) -> Coroutine[Any, Any, None]:
    """So many connections to slow names, each given up on at once."""

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        for number in range(times):
            name = f"{number % 10}.slow.test"
            made = loop.create_connection(asyncio.Protocol, name, port)
            task = asyncio.create_task(made)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

    return connect()


@pytest.mark.fault("N22")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "mail.test"])
def test_other_names_do_not_wait_for_a_slow_one(
    run: Run, names: Names, host: str
) -> None:
    async def main() -> int:
        server, port = await listening()
        await given_up_on(port, 500)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE / 2):
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
            transport.close()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        assert {address[1] for *_, address in found} == {port}
        # One look-up a name, however often it was asked.
        slow = [name for name in names.asked if name.endswith("slow.test")]
        assert sorted(slow) == sorted(set(slow))
        assert len(slow) == 10
        server.close()
        return 0

    assert run(main) == 0


@pytest.mark.fault("N22")
def test_the_backend_does_not_wait_for_a_rule(run: Run, names: Names) -> None:
    async def main() -> int:
        server, port = await listening()
        loop = asyncio.get_running_loop()
        rules = [
            asyncio.create_task(
                loop.create_connection(asyncio.Protocol, f"{number}.slow.test", port)
            )
            for number in range(3 * MOST)
        ]
        await asyncio.sleep(0)
        reach = Reach(b"mx.test", loop.time, lambda level, text: None)
        settings = BackendSettings("mail.test", port, connect_timeout=PATIENCE / 2)
        reached = await reach(settings, None)
        reached.sock.close()
        for rule in rules:
            rule.cancel()
        await asyncio.wait(rules)
        server.close()
        return 0

    assert run(main) == 0


@pytest.mark.fault("N22")
def test_tls_is_with_the_name_that_was_asked_for(run: Run, names: Names) -> None:
    async def main() -> int:
        async def bye(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        context = server_context("mail.test")
        server = await asyncio.start_server(bye, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        ours = client_context()
        reader, writer = await asyncio.open_connection("mail.test", port, ssl=ours)
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("other.test", port, ssl=ours)
        server.close()
        await server.wait_closed()
        return 0

    assert run(main) == 0


@pytest.mark.fault("N22")
def test_nobody_is_told_of_what_was_given_up_on(
    run: Run, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        asked = asyncio.create_task(loop.getaddrinfo("no.slow.test", 25))
        also = asyncio.create_task(loop.getaddrinfo("no.slow.test", 587))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        names.go.set()
        with pytest.raises(socket.gaierror, match="not known"):
            await also
        assert names.asked == ["no.slow.test"]
        return 0

    with caplog.at_level(logging.ERROR, "asyncio"):
        assert run(main) == 0
        gc.collect()
    assert not caplog.records


@pytest.mark.fault("N22")
def test_look_ups_are_bounded(run: Run, names: Names) -> None:
    async def main() -> int:
        resolver = Resolver(most=2)
        waiting = [
            asyncio.create_task(resolver.addresses(f"{number}.slow.test", 25))
            for number in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="2 names are being looked up"):
            await resolver.addresses("mail.test", 25)
        assert (await resolver.addresses("::1", 25))[0].address[0] == "::1"
        names.go.set()
        assert all(await asyncio.gather(*waiting))
        assert resolver.count == 0
        return 0

    assert run(main) == 0
