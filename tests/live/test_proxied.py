"""A real balancer before the running service: HAProxy, both versions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.live.process import PATIENCE, Settings, serving
from tests.live.test_clients import program
from tests.support.backend import FakeQmail
from tests.support.certificates import client_context, issued, write
from tests.support.smtp_client import RawClient

_CONFIG = """\
defaults
    mode tcp
    timeout connect 20s
    timeout client 60s
    timeout server 60s
frontend mail
    bind fd@{listening}
    default_backend front
backend front
    server front 127.0.0.1:{port} {options}
"""


@contextlib.asynccontextmanager
async def haproxy(
    directory: Path, port: int, options: str, host: str
) -> AsyncIterator[int]:
    """A balancer before ``port``; its own port."""
    path = program("haproxy", "haproxy")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        config = directory / "haproxy.cfg"
        text = _CONFIG.format(listening=sock.fileno(), port=port, options=options)
        config.write_text(text)
        process = await asyncio.create_subprocess_exec(
            *(path, "-db", "-q", "-f", str(config)),
            pass_fds=[sock.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield sock.getsockname()[1]
        finally:
            process.kill()
            await asyncio.wait_for(process.wait(), PATIENCE)


@pytest.mark.parametrize(
    ("options", "where", "client_address"),
    [
        ("send-proxy", "127.0.0.1", "127.0.0.5"),
        ("send-proxy-v2", "127.0.0.1", "127.0.0.5"),
        ("send-proxy-v2-ssl-cn proxy-v2-options crc32c", "127.0.0.1", "127.0.0.5"),
        ("send-proxy", "::1", "::1"),
        ("send-proxy-v2", "::1", "::1"),
    ],
)
async def test_haproxy_tells_who_the_client_is(
    tmp_path: Path,
    settings: Settings,
    fake: FakeQmail,
    options: str,
    where: str,
    client_address: str,
) -> None:
    more = {
        "listen.proxy_from": ["127.0.0.1"],
        "limits.connections_per_client": 1,
        "relay.trusted": [client_address],
        "log.level": "debug",
    }
    async with (
        serving(tmp_path, {**settings, **more}) as served,
        haproxy(tmp_path, served.port, options, where) as port,
    ):
        reader, writer = await asyncio.open_connection(
            where, port, local_addr=(client_address, 0)
        )
        async with RawClient(reader, writer) as client:
            assert (await client.reply()).startswith(b"220 ")
            await client.command(b"EHLO me.test")
            got = await client.deliver(b"a@b.test", [b"x@foreign.test"], b"x\r\n")
            assert got == [250, 250, 354, 250]
            # The cap is the client's: through the same balancer, another enters.
            if ":" not in where:
                other = await RawClient.connect(port, "127.0.0.6")
                assert await other.code() == 220
                await other.command(b"MAIL FROM:<>")
                assert await other.command(b"RCPT TO:<x@foreign.test>") == (
                    b"553 5.7.1 relaying to that domain is not allowed\r\n"
                )
                await other.close()
            await client.command(b"QUIT")
        line = await served.said("event=message")
        assert f" client={client_address} " in line
        shown = f"[IPv6:{client_address}]" if ":" in where else f"[{client_address}]"
        assert f"from me.test ({shown})".encode() in fake.received[0].message
    assert "proxy-header" not in served.log


async def test_haproxy_before_tls_from_the_start(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    certificate, key = write(tmp_path, "mx", issued("mx.example.test"))
    more = {
        "listen.proxy_from": ["127.0.0.1"],
        "listen.tls_addresses": ["127.0.0.1:0"],
        "tls.certificates": [certificate],
        "tls.keys": [key],
    }
    async with (
        serving(tmp_path, {**settings, **more}) as served,
        haproxy(tmp_path, served.ports[1], "send-proxy-v2", "127.0.0.1") as port,
        await RawClient.connect(port, "127.0.0.5") as client,
    ):
        await client.start_tls(client_context())
        assert await client.code() == 220
        await client.command(b"EHLO me.test")
        got = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
        assert got == [250, 250, 354, 250]
        assert " client=127.0.0.5 version=TLSv1.3 " in await served.said("event=tls")
        assert b" with ESMTPS (TLSv1.3 " in fake.received[0].message


@pytest.mark.parametrize("version", ["", "-v2"])
async def test_haproxys_health_checks_are_the_proxys_own(
    tmp_path: Path, settings: Settings, version: str
) -> None:
    options = f"send-proxy{version} check check-send-proxy inter 50ms"
    more = {"listen.proxy_from": ["127.0.0.1"], "log.level": "debug"}
    async with (
        serving(tmp_path, {**settings, **more}) as served,
        haproxy(tmp_path, served.port, options, "127.0.0.1"),
    ):
        await served.said(" client=127.0.0.1 why=client ", times=2)
    assert "proxy-header" not in served.log


async def test_who_is_not_listed_and_who_sends_none(
    tmp_path: Path, settings: Settings
) -> None:
    more = {"listen.proxy_from": ["127.0.0.9"], "relay.trusted": ["192.0.2.7"]}
    async with serving(tmp_path, {**settings, **more}) as served:
        async with await RawClient.connect(served.port, "127.0.0.3") as client:
            await client.reply()
            said = await client.command(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 25")
            assert said == b"502 5.5.1 unimplemented\r\n"
            await client.command(b"MAIL FROM:<>")
            said = await client.command(b"RCPT TO:<x@foreign.test>")
            assert said.startswith(b"553 ")
        async with await RawClient.connect(served.port, "127.0.0.9") as client:
            await client.send(b"EHLO c.test\r\n")
            assert await client.rest() == b""
        line = await served.said("event=proxy-header")
        assert 'peer=127.0.0.9 why="no PROXY header" times=1' in line
        # After HUP, it is a client as any other.
        await served.reload(settings)
        await served.said("configuration reloaded")
        async with await RawClient.connect(served.port, "127.0.0.9") as client:
            assert await client.code() == 220
