"""S: two readers, one end, through real sockets and a backend that reads as
qmail-smtpd does.  Every cut is tried in tests/smtp/test_smuggling.py.
"""

from __future__ import annotations

import pytest

from proxy.front.door import DoorSettings
from proxy.smtp.driver import Limits
from tests.support.front import running
from tests.support.sequences import NAMED, has_bare_lf
from tests.support.smtp_client import RawClient

FORGED = (
    b"mail FROM:<forged@example.test>\r\nrcpt TO:<b@example.test>\r\n"
    b"data\r\nSubject: forged\r\n\r\nboo\r\n.\r\n"
)
sequences = pytest.mark.parametrize("sequence", NAMED.values(), ids=[*NAMED.keys()])
cuts = pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])


async def send(client: RawClient, data: bytes, bytewise: bool) -> None:
    if bytewise:
        for byte in data:
            client.writer.write(bytes([byte]))
    await client.send(b"" if bytewise else data)


@sequences
@cuts
async def test_one_transaction_at_the_most(sequence: bytes, bytewise: bool) -> None:
    data = b"Subject: x\r\n\r\nhello" + sequence + FORGED
    bare = has_bare_lf(sequence)
    async with running() as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            started = await client.deliver(
                b"a@b.test", [b"a@example.test"], b"", dot=False
            )
            assert started == [250, 250, 354]
            await send(client, data + b"QUIT\r\n", bytewise)
            final = await client.code()
            rest = await client.rest()
        await front.settled()
        assert final == (451 if bare else 250)
        # After a bare LF the connection is closed; else QUIT is obeyed.
        assert rest.startswith(b"221 ") is not bare
        assert len(front.fake.received) == front.fake.dots == (not bare)
        assert not any(b"forged" in command for command in front.fake.commands)
        if not bare:
            wire = data.removesuffix(b".\r\n")
            assert front.fake.received[0].message == wire.replace(b"\r\n.", b"\r\n")


@cuts
async def test_s_toobig(bytewise: bool) -> None:
    settings = DoorSettings(received=False, session=Limits(message_size=200))
    data = b"x" * 300 + b"\r\n.\r\r\n" + FORGED
    async with running(settings=settings) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.deliver(b"a@b.test", [b"a@example.test"], b"", dot=False)
            await send(client, data + b"QUIT\r\n", bytewise)
            assert await client.code() == 552
            assert (await client.rest()).startswith(b"221 ")
        await front.settled()
        assert front.fake.dots == 0
        assert not any(b"forged" in command for command in front.fake.commands)


@cuts
async def test_s_bdat(bytewise: bool) -> None:
    data = b"BDAT %d LAST\r\n" % len(FORGED) + FORGED
    async with running() as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            await client.command(b"RCPT TO:<a@example.test>")
            await send(client, data, bytewise)
            assert await client.code() == 502
            assert await client.rest() == b""
        await front.settled()
        assert front.fake.dots == 0
        assert not any(b"forged" in command for command in front.fake.commands)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param(b"RCPT TO:<ok@example.test\0@evil.test>", 501, id="S-command-nul"),
        pytest.param(
            b"RCPT TO:<ok@example.test>\rRCPT TO:<evil@evil.test>",
            501,
            id="S-command-cr",
        ),
        pytest.param(
            b"RCPT TO:<no\xfc@example.test>\nRCPT TO:<evil@evil.test>",
            550,
            id="S-command-lf",
        ),
        pytest.param(b"RCPT TO:<no\xff@example.test>", 550, id="S-command-8bit"),
    ],
)
@cuts
async def test_a_command_is_read_once(line: bytes, code: int, bytewise: bool) -> None:
    async with running() as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            await send(client, line + b"\r\nQUIT\r\n", bytewise)
            assert await client.code() == code
            await client.rest()
        await front.settled()
        assert front.fake.commands == []
