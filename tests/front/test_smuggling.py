"""Two readers, one end: no odd sequence makes a second message of one.

The sequences are those of the public smuggling tools and some more; each
stands inside a message, followed by a whole forged transaction.
"""

from __future__ import annotations

import pytest

from tests.support.front import running
from tests.support.sequences import SEQUENCES
from tests.support.smtp_client import RawClient

FORGED = (
    b"mail FROM:<forged@example.test>\r\nrcpt TO:<b@example.test>\r\n"
    b"data\r\nSubject: forged\r\n\r\nboo\r\n.\r\n"
)


@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_one_transaction_at_the_most(sequence: bytes, bytewise: bool) -> None:
    data = b"Subject: x\r\n\r\nhello" + sequence + FORGED
    async with running() as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            started = await client.deliver(
                b"a@b.test", [b"a@example.test"], b"", dot=False
            )
            assert started == [250, 250, 354]
            if bytewise:
                for byte in data:
                    client.writer.write(bytes([byte]))
            else:
                client.writer.write(data)
            await client.send(b"QUIT\r\n")
            final = await client.code()
            rest = await client.rest()
        await front.settled()
        bare = b"\n" in sequence.replace(b"\r\n", b"")
        assert final == (451 if bare else 250)
        # After a bare LF the connection is closed; else QUIT is obeyed.
        assert rest.startswith(b"221 ") is not bare
        assert len(front.fake.received) == front.fake.dots == (not bare)
        assert not any(b"forged" in command for command in front.fake.commands)
