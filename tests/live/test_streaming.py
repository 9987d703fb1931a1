"""Messages pass as they come: any length, any lines, in constant memory."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.live.process import Served, Settings, serving
from tests.support.backend import STOP_READING, FakeQmail
from tests.support.smtp_client import RawClient

MEGABYTE = 1 << 20


def peak_memory(served: Served) -> int:
    """The most memory the process ever had, in bytes (proc(5), VmHWM)."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    (line,) = [x for x in status.splitlines() if x.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def lines_of(size: int, seed: int) -> bytes:
    """A stuffed message of whole lines: dots, 8-bit, lone CRs, NULs."""
    chance = random.Random(seed)
    pieces = [
        b"..dot\r\n",
        b"\xe4\xf6\xfc\x00\r lone\r\n",
        b"\r\n",
        b"x" * 900 + b"\r\n",
        b"y" * 5000 + b"\r\n",
    ]
    block = b"".join(chance.choices(pieces, k=200))
    return block * (size // len(block) + 1)


def unstuffed(message: bytes) -> bytes:
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n")[2:]


@pytest.fixture
def plain(settings: Settings) -> Settings:
    return {**settings, "message.received": False}


async def test_a_large_message_in_constant_memory(
    tmp_path: Path, plain: Settings, fake: FakeQmail
) -> None:
    """X-25MB: bytes equal, and the process does not grow with them."""
    fake.keep_messages = False
    message = lines_of(25 * MEGABYTE, 1)
    async with serving(tmp_path, plain) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            small = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
            assert small[-1] == 250
            before = peak_memory(served)
            got = await client.deliver(b"", [b"alice@example.test"], message)
            assert got[-1] == 250
        assert peak_memory(served) - before < 4 * MEGABYTE
        plain_text = unstuffed(message)
        digest = hashlib.sha256(plain_text).hexdigest()
        expected = f"{len(plain_text)} {digest}".encode()
        assert fake.received[-1].message == expected


@pytest.mark.parametrize("length", [998, 65536, MEGABYTE, 3 * MEGABYTE])
async def test_lines_of_any_length(
    tmp_path: Path, plain: Settings, fake: FakeQmail, length: int
) -> None:
    """X-64KiB-line; qmail has no limit either."""
    fake.keep_messages = False
    message = b"Subject: long\r\n\r\n" + b"z" * length + b"\r\n"
    async with serving(tmp_path, plain) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            got = await client.deliver(b"", [b"alice@example.test"], message)
            assert got[-1] == 250
        digest = hashlib.sha256(message).hexdigest()
        assert fake.received[0].message == f"{len(message)} {digest}".encode()


async def test_a_backend_that_stands_still_stops_the_client(
    tmp_path: Path, plain: Settings, fake: FakeQmail
) -> None:
    """Back-pressure: what the backend does not take is left with the client,
    and not collected here; in the end the client is told to come again."""
    fake.script["body"] = STOP_READING
    settings = {**plain, "backend.data_timeout": 1}
    async with serving(tmp_path, settings) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            codes = await client.deliver(
                b"", [b"alice@example.test"], b"start\r\n", dot=False
            )
            assert codes == [250, 250, 354]
            before = peak_memory(served)
            message = lines_of(32 * MEGABYTE, 2)
            # Nothing but the time limit lets this end.
            await client.send(message + b".\r\n")
            assert await client.code() == 451
        assert peak_memory(served) - before < 4 * MEGABYTE
        assert fake.dots == 0


async def test_ten_thousand_unknown_recipients_and_no_backend(
    tmp_path: Path, plain: Settings, fake: FakeQmail
) -> None:
    """F-no-early-open."""
    settings = {
        **plain,
        "limits.unknown_per_session": 0,
        "limits.harvest_defence": False,
    }
    async with serving(tmp_path, settings) as served:
        for number in range(10):
            async with await RawClient.connect(served.port) as client:
                await client.reply()
                await client.command(b"MAIL FROM:<a@b.test>")
                names = range(number * 1000, number * 1000 + 1000)
                lines = [b"RCPT TO:<no%d@example.test>\r\n" % n for n in names]
                await client.send(b"".join(lines))
                assert {await client.code() for _ in lines} == {550}
        assert fake.connections == 0
