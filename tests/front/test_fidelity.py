"""X: what the client sends is what the backend gets, byte for byte.

X-25MB and lines of megabytes are in tests/live/test_streaming.py; other
people's clients in tests/live/test_clients.py.
"""

from __future__ import annotations

import dkim  # type: ignore[import-untyped]
import pytest

from proxy.front.door import DoorSettings
from tests.support.backend import FakeQmail
from tests.support.front import Front, running
from tests.support.smtp_client import RawClient

EVERY_BYTE = bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"")

# As sent, with dots stuffed by the client; the end follows.
MESSAGES = {
    "X-empty": b"",
    "X-one-empty-line": b"\r\n",
    "X-headers-only": b"Subject: x\r\n\r\n",
    "X-8bit": b"Subject: \xe4\r\n\r\n" + EVERY_BYTE + b"\r\n",
    "X-64KiB-line": b"x" * 65536 + b"\r\n",
    "X-dots-start": b"..\r\n...\r\n..a\r\n",
    "X-dots-middle": b"a.b\r\n\r\n..\r\n\r\na.\r\n",
    "X-dots-end": b"a\r\n...\r\n..\r\n",
    "X-no-trailing": b"no empty line after this",
    "X-stray-cr": b"a\rb\r\r\nc\r \r\n",
    "X-blanks": b" \t\r\n\t \r\nend  \r\n",
}


async def delivered(front: Front, message: bytes, *, pipelined: bool) -> bytes:
    """Send it; the message as the backend has it."""
    end = b".\r\n" if message.endswith(b"\r\n") or not message else b"\r\n.\r\n"
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        if pipelined:
            await client.send(
                b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n"
                + message
                + end
            )
        else:
            await client.deliver(b"a@b.test", [b"a@example.test"], b"", dot=False)
            for byte in message[:2000]:
                await client.send(bytes([byte]))
            await client.send(message[2000:] + end)
        codes = [await client.code() for _ in range(4 if pipelined else 1)]
        assert codes[-1] == 250
    return front.fake.received[-1].message


def unstuffed(message: bytes) -> bytes:
    if not message.endswith(b"\r\n") and message:
        message += b"\r\n"
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n")[2:]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=[*MESSAGES.keys()])
@pytest.mark.parametrize("pipelined", [True, False], ids=["one-packet", "bytewise"])
async def test_the_same_bytes(message: bytes, pipelined: bool) -> None:
    async with running() as front:
        got = await delivered(front, message, pipelined=pipelined)
        assert got == unstuffed(message)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=[*MESSAGES.keys()])
async def test_x_received_header(message: bytes) -> None:
    """X-received-header: once, on top, and nothing else is changed."""
    async with running(settings=DoorSettings(received=True)) as front:
        got = await delivered(front, message, pipelined=True)
        top, _, rest = got.partition(b"+0000\r\n")
        assert top.startswith(b"Received: from [127.0.0.1] ([127.0.0.1])\r\n\tby ")
        assert top.count(b"\r\n") == 2
        assert rest == unstuffed(message)


async def mail_command(
    fake: FakeQmail, mail: bytes, rcpt: bytes
) -> tuple[bytes, bytes]:
    """What the backend is told for these two commands."""
    async with running(fake=fake) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"EHLO me.test")
            assert (await client.command(mail))[:3] == b"250"
            assert (await client.command(rcpt))[:3] == b"250"
        told = [c for c in fake.commands if c[:4] in (b"MAIL", b"RCPT")]
    assert len(told) == 2
    return told[0], told[1]


RCPT = b"RCPT TO:<a@example.test>"


@pytest.mark.parametrize(
    ("mail", "offered", "told"),
    [
        pytest.param(
            b"MAIL FROM:<> SIZE=10",
            [b"SIZE 1000"],
            b"MAIL FROM:<> SIZE=10",
            id="X-size-param-passed",
        ),
        pytest.param(
            b"MAIL FROM:<> SIZE=10", [], b"MAIL FROM:<>", id="X-size-param-omitted"
        ),
        pytest.param(
            b"MAIL FROM:<> body=8bitmime",
            [b"8BITMIME"],
            b"MAIL FROM:<> body=8bitmime",
            id="X-8bitmime-passed",
        ),
        pytest.param(
            b"MAIL FROM:<> BODY=8BITMIME",
            [],
            b"MAIL FROM:<>",
            id="X-8bitmime-omitted",
        ),
        pytest.param(
            b"MAIL FROM:<> AUTH=<> RET=HDRS ENVID=x",
            [b"SIZE", b"8BITMIME", b"DSN", b"AUTH PLAIN"],
            b"MAIL FROM:<>",
            id="X-params-not-announced-by-us",
        ),
    ],
)
async def test_parameters(mail: bytes, offered: list[bytes], told: bytes) -> None:
    lines = [b"fake", *offered]
    said = b"".join(b"250-%s\r\n" % x for x in lines[:-1]) + b"250 %s\r\n" % lines[-1]
    fake = FakeQmail({"EHLO": said})
    assert (await mail_command(fake, mail, RCPT))[0] == told


@pytest.mark.parametrize(
    ("mail", "rcpt"),
    [
        pytest.param(b"FROM:<>", b"TO:<a@example.test>", id="X-null-sender"),
        pytest.param(
            b'FROM:<"a b\\"c"@b.test>',
            b'TO:<"odd > name\\\\"@example.test>',
            id="X-quoted-local",
        ),
        pytest.param(
            b"FROM:<@r.test:a@b.test>",
            b"TO:<@r.test,@s.test:a@example.test>",
            id="X-source-route",
        ),
        pytest.param(b"from:a@b.test", b"to: a@example.test", id="X-no-brackets"),
        pytest.param(b"FROM:<A@B.Test>", b"TO:<a@EXAMPLE.Test>", id="X-case"),
        pytest.param(b"FROM:<\xe4@b.test>", b"TO:<a\xfc@example.test>", id="X-8bit"),
        pytest.param(b"FROM:<a@b.test", b"TO:<a@example.test", id="X-open-bracket"),
        pytest.param(
            b"FROM:<a@b.test>",
            b"TO:<%s@example.test>" % (b"l" * (899 - 13)),
            id="X-long-address-899",
        ),
    ],
)
async def test_paths_are_the_clients_own_bytes(mail: bytes, rcpt: bytes) -> None:
    told = await mail_command(FakeQmail(), b"MAIL " + mail, b"RCPT " + rcpt)
    assert told == (b"MAIL " + mail, b"RCPT " + rcpt)


async def test_x_long_address_900() -> None:
    """One byte more than qmail-smtpd takes, in MAIL: 555, as it says."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        long = b"l" * (900 - 7) + b"@b.test"
        assert (await client.command(b"MAIL FROM:<%s>" % long))[:3] == b"555"
        assert (await client.command(b"MAIL FROM:<%s>" % long[1:]))[:3] == b"250"


# A key of 1024 bits, made for this test and for nothing else.
PRIVATE = (
    b"MIICXAIBAAKBgQDOcFGKz8r7Yn6XKt21HdMkThKCPl2pRFrBwfQYlQPSM0XbkmUovsh3U5TJoUpd"
    b"XF3QLMHfGa31DwLcNeRR2SmjIQ7xkgYad65ls1PWI6mtAjfZNtXVBD4+ynDZw/THZdaULji/6Gz/"
    b"SKHlFdQ995JpnJ1aCN5ZxGzjTer773Xv6QIDAQABAoGACY3HKE5vjWzEgQh51Dz6HY8DakWqnf/M"
    b"13S7cDvNPngi/oNq7RTPQD58/0vYnjN9H/pCSqnslA/KyRgxZdxQAehmxD1S8oRT8Q82lhAJ74F+"
    b"GDKA4cBYOcsJSXo0uADaqQ1ePr7W9GxnxTWddMX/upMhFsb9RURBWVCJkYcRNoECQQDtSHfEh1LA"
    b"DT4PtDjkjkCrD66FaI50bpBz+5JukvdJUpXjaoyK64b45JN7inEbnmDKyyUeE9In6F86MkR7e0wx"
    b"AkEA3rkAViGGs8rnDmzysiav/z2hvOY00U+2Kk6/JZelRQ7ugY8j/xT8y/eXNEVg3e/ECqdr2625"
    b"31B5c52IYshJOQJAHM1GFGnkpoE0/kz+9uc5fEocAf+OAx4ElL99p8RZFeJbZU5int419PIx4LYO"
    b"Qq73ysXbzInVYZi4LmU5oM93kQJAGSsy3IjhXgP55Glva65viRp/4obpRRYK8fEALNFcPdeYIE/6"
    b"s2K9xpbuIVwNvEbSEpok2Chjrta7QtN0jCUyEQJBAOHP2eoY9bxk7acDWpYTtp8SpRYY5LZicjaN"
    b"aB4nMCPOqYEe0qNX6DPBrLFLqkpSTvW4qikhsVUcHMHI4nJ1yNo="
)
PUBLIC = (
    b"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDOcFGKz8r7Yn6XKt21HdMkThKCPl2pRFrBwfQY"
    b"lQPSM0XbkmUovsh3U5TJoUpdXF3QLMHfGa31DwLcNeRR2SmjIQ7xkgYad65ls1PWI6mtAjfZNtXV"
    b"BD4+ynDZw/THZdaULji/6Gz/SKHlFdQ995JpnJ1aCN5ZxGzjTer773Xv6QIDAQAB"
)


@pytest.mark.parametrize("received", [True, False], ids=["received", "bare"])
@pytest.mark.parametrize("canonical", [b"simple", b"relaxed"])
async def test_x_dkim(received: bool, canonical: bytes) -> None:
    """X-dkim: a signature over headers and body still verifies."""
    kind = b"RSA PRIVATE KEY-----"
    private = b"-----BEGIN %s\n%s\n-----END %s\n" % (kind, PRIVATE, kind)
    mail = (
        b"From: a@b.test\r\nTo: a@example.test\r\nSubject: \xe4  two\r\n\tlines\r\n"
        b"\r\n.dot\r\n\r\n.\r\ntrailing  \r\n\r\n\r\n"
    )
    signature = dkim.sign(
        mail, b"s", b"b.test", private, canonicalize=(canonical, canonical)
    )
    signed = signature + mail
    async with running(settings=DoorSettings(received=received)) as front:
        stuffed = (b"\r\n" + signed).replace(b"\r\n.", b"\r\n..")[2:]
        got = await delivered(front, stuffed, pipelined=True)
    assert got.endswith(signed)
    assert got.startswith(b"Received: ") == received

    def txt(name: bytes, timeout: int = 0) -> bytes:
        assert name == b"s._domainkey.b.test."
        return b"v=DKIM1; k=rsa; p=" + PUBLIC

    assert dkim.verify(got, dnsfunc=txt)
    assert not dkim.verify(got.replace(b".dot", b"dot"), dnsfunc=txt)
