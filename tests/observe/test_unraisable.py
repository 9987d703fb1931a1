"""Exceptions that Python can tell nobody are lines of the log."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from proxy.front.door import DoorSettings
from proxy.front.tls import ServerTls
from proxy.observe.log import Logger
from tests.observe.test_log import Store
from tests.support.certificates import server_context
from tests.support.front import running


@pytest.mark.fault("N19")
async def test_a_server_name_that_is_not_ascii_is_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    hello = bytes.fromhex(
        (Path(__file__).parent.parent / "data/sni-nonascii.hex").read_text()
    )
    by_name = ServerTls(server_context(), {"x.test": server_context("x.test")})
    store = Store()
    log = Logger(store, now=store.now)
    log.capture_logging()
    try:
        async with running(settings=DoorSettings(tls=by_name)) as front:
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            await reader.readline()
            writer.write(b"STARTTLS\r\n")
            await reader.readline()
            writer.write(hello)
            await reader.read()
            writer.close()
            await front.settled()
    finally:
        log.close()
    assert capfd.readouterr().err == ""
    said = store.data.decode()
    assert said.count("UnicodeDecodeError") == 1
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert sys.unraisablehook is sys.__unraisablehook__
