"""A rule whose server's name does not resolve: everybody else is served."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.live.process import Settings, environment, serving
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

# Python runs it at its start (site, the module).
SLOW = """
import socket, threading
real = socket.getaddrinfo
def getaddrinfo(host, port, *rest, **more):
    if host and host.endswith("slow.test"):
        flags = more.get("flags", rest[3] if len(rest) > 3 else 0)
        if not flags & socket.AI_NUMERICHOST:
            threading.Event().wait()
    if host == "qmail.test":
        host = "127.0.0.1"
    return real(host, port, *rest, **more)
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.fault("N22")
@pytest.mark.parametrize("backend", ["127.0.0.1", "qmail.test"])
async def test_a_rule_that_waits_for_its_name(
    tmp_path: Path,
    settings: Settings,
    fake: FakeQmail,
    loop: Mapping[str, str],
    backend: str,
) -> None:
    place = tmp_path / "slow"
    place.mkdir()
    (place / "sitecustomize.py").write_text(SLOW)
    usual = loop.get("PYTHONPATH", environment()["PYTHONPATH"])
    urls = [f"http://{number}.slow.test/" for number in range(10)]
    rules = [
        {"type": "http", "url": url, "domains": ["virt.test"], "timeout": 2}
        for url in urls
    ]
    env = {
        "PYTHONPATH": f"{place}{os.pathsep}{usual}",
        "BACKSTOP_RULES": json.dumps([*rules, {"type": "qmail"}]),
    }
    keys = {
        **settings,
        "backend.address": f"{backend}:{fake.port}",
        "backend.pool": 0,
        "limits.connections_per_client": 100,
    }
    async with (
        serving(tmp_path, keys, env) as served,
        contextlib.AsyncExitStack() as waiting,
    ):
        for number in range(60):
            client = await RawClient.connect(served.port)
            await waiting.enter_async_context(client)
            assert await client.code() == 220
            await client.command(b"MAIL FROM:<>")
            await client.send(b"RCPT TO:<bob%d@virt.test>\r\n" % number)
        for _ in range(3):
            async with await RawClient.connect(served.port) as client:
                assert await client.code() == 220
                got = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
                assert got == [250, 250, 354, 250]
    # It also ends as it should, though some names are still looked up.
