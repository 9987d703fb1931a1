"""PROXY headers: from whom they count, what they change, what is bad of them."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from ipaddress import ip_address, ip_network

import pytest

from proxy.front.door import DoorSettings
from proxy.front.proxied import HEADER_SECONDS, LOG_SECONDS
from proxy.front.proxy_protocol import SIGNATURE_2, V2_MAX
from proxy.front.told import client_of
from proxy.front.trusted import Trusted
from proxy.observe.events import (
    Connected,
    Disconnected,
    ProxyHeaderBad,
    RecipientDecided,
    Turned,
)
from proxy.rules.verdict import Answer, Question
from tests.support.backend import FakeQmail
from tests.support.driver import codes
from tests.support.front import Front, accept, reject, running
from tests.support.smtp_client import RawClient

HERE = Trusted([ip_network("127.0.0.1")])
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n"
SETTINGS = DoorSettings(received=False, proxies=HERE)


def v2(
    source: str, target: str = "198.51.100.1", *, tlvs: bytes = b"", command: int = 1
) -> bytes:
    """A header of version 2, as the specification's struct has it."""
    ends = [ip_address(source), ip_address(target)]
    family = 0x11 if ends[0].version == 4 else 0x21
    block = b"".join(end.packed for end in ends) + struct.pack(">HH", 4711, 25) + tlvs
    head = struct.pack(">BBH", 0x20 | command, family, len(block))
    return SIGNATURE_2 + head + block


def seen(front: Front) -> list[str]:
    """The addresses of the sessions so far."""
    return [e.client for e in front.events if isinstance(e, Connected)]


def complaints(front: Front) -> list[tuple[str, int]]:
    return [(e.why, e.times) for e in front.events if isinstance(e, ProxyHeaderBad)]


HEADERS = {
    "P-trusted-v1": (V1, "192.0.2.7"),
    "P-trusted-v1-ipv6": (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", "2001:db8::7"),
    "P-trusted-v1-mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7"),
    "P-unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "P-unknown-with-more": (b"PROXY UNKNOWN ffff::1 any 0 x\r\n", "127.0.0.1"),
    "P-trusted-v2": (v2("192.0.2.7"), "192.0.2.7"),
    "P-trusted-v2-ipv6": (v2("2001:db8::7", "::1"), "2001:db8::7"),
    "P-trusted-v2-mapped": (v2("::ffff:192.0.2.7", "::1"), "192.0.2.7"),
    "P-trusted-v2-tlvs": (v2("192.0.2.7", tlvs=b"\x04\0\3abc\5\0\0"), "192.0.2.7"),
    "P-local": (SIGNATURE_2 + b"\x20\x00\x00\x00", "127.0.0.1"),
    "P-local-with-addresses": (v2("192.0.2.7", command=0), "127.0.0.1"),
    "P-unspecified": (SIGNATURE_2 + b"\x21\x00\x00\x00", "127.0.0.1"),
    "P-unix": (SIGNATURE_2 + b"\x21\x31\x00\xd8" + bytes(216), "127.0.0.1"),
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", HEADERS)
async def test_the_header_names_the_client(name: str, bytewise: bool) -> None:
    """P-followed-by-data: what is behind it in the same segment is kept."""
    header, client_address = HEADERS[name]
    data = header + b"HELO c.test\r\nNOOP\r\nQUIT\r\n"
    async with (
        running(settings=SETTINGS) as front,
        await RawClient.connect(front.port) as client,
    ):
        pieces = [bytes([b]) for b in data] if bytewise else [data]
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0)
        said = await client.rest()
        assert said == (
            b"220 mx.example.test ESMTP\r\n250 mx.example.test\r\n"
            b"250 2.0.0 ok\r\n221 mx.example.test\r\n"
        )
        await front.settled()
        assert seen(front) == [client_address]
        assert complaints(front) == []


async def test_no_greeting_before_the_header() -> None:
    async with (
        running(settings=SETTINGS) as front,
        await RawClient.connect(front.port) as client,
    ):
        await front.until(lambda: bool(front.door.awaiting))
        await client.send(V1[:-1])
        (phase,) = front.door.awaiting
        await front.until(lambda: not phase._reader.empty)
        assert not front.door.sessions
        assert front.events == []
        await client.send(V1[-1:])
        assert await client.code() == 220


BAD = {
    "P-missing": (b"EHLO c.test\r\n", "no PROXY header"),
    "P-missing-lower-case": (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "no PROXY header"),
    "P-missing-tls": (b"\x16\x03\x01\x02\x00\x01", "no PROXY header"),
    "P-oversize-v1": (b"PROXY TCP4 " + b"1" * 100, "longer than 107"),
    "P-oversize-v1-unknown": (b"PROXY UNKNOWN" + b" " * 93 + b"\r\n", "longer than"),
    "P-oversize-v2": (SIGNATURE_2 + b"\x21\x11\x0f\xf1", f"longer than {V2_MAX}"),
    "P-v2-bad-length": (SIGNATURE_2 + b"\x21\x11\x00\x0b", "length that is too small"),
    "P-v2-bad-length-ipv6": (SIGNATURE_2 + b"\x21\x21\0\x23", "length that is too"),
    "P-v2-bad-length-unix": (SIGNATURE_2 + b"\x21\x31\0\x0c", "length that is too"),
    "P-v2-bad-tlv": (v2("192.0.2.7", tlvs=b"\x04\x00\x04abc"), "TLV that is longer"),
    "P-v2-bad-checksum": (
        v2("192.0.2.7", tlvs=b"\x03\0\4abcd"),
        "checksum that is wrong",
    ),
    "P-v2-half-tlv": (v2("192.0.2.7", tlvs=b"\x04\x00"), "TLV that is longer"),
    "P-v2-version": (SIGNATURE_2 + b"\x11\x11\x00\x0c", "version or command"),
    "P-v2-command": (SIGNATURE_2 + b"\x22\x11\x00\x0c", "version or command"),
    "P-v2-datagram": (SIGNATURE_2 + b"\x21\x12\x00\x0c", "another family"),
    "P-v2-signature": (SIGNATURE_2[:11] + b"X\x21\x11\x00\x0c", "no PROXY header"),
    "P-lf": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "without CRLF"),
    "P-cr-within": (b"PROXY TCP4\r1.2.3.4 1.2.3.4 1 2\r\n", "do not belong"),
    "P-nul": (b"PROXY TCP4\x001.2.3.4 1.2.3.4 1 2\r\n", "do not belong"),
    "P-leading-zero": (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "no IP address"),
    "P-port-zero-led": (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "no port"),
    "P-port-too-big": (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "no port"),
    "P-port-signed": (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", "no port"),
    "P-other-family": (b"PROXY TCP4 ::1 ::1 1 2\r\n", "another family"),
    "P-zone": (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "another family"),
    "P-two-blanks": (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "not of the form"),
    "P-too-few": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "not of the form"),
    "P-udp": (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "not of the form"),
    "P-nothing": (b"PROXY \r\n", "not of the form"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_header_ends_the_connection(name: str) -> None:
    data, why = BAD[name]
    async with (
        running(settings=SETTINGS) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.send(data)
        assert await client.rest() == b""
        ((said, times),) = complaints(front)
        assert why in said
        assert times == 1
        assert seen(front) == []
        assert front.fake.connections == 0


@pytest.mark.parametrize("data", [V1[:20], SIGNATURE_2, v2("192.0.2.7")[:-1]])
async def test_p_truncated(data: bytes) -> None:
    async with (
        running(settings=SETTINGS) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.send(data)
        client.half_close()
        assert await client.rest() == b""
        assert complaints(front) == [("it ended within the header", 1)]


async def test_a_peer_that_only_looks_is_no_trouble() -> None:
    """As a balancer's check of the port does."""
    async with running(settings=SETTINGS) as front:
        async with await RawClient.connect(front.port):
            await front.until(lambda: bool(front.door.awaiting))
        await front.until(lambda: not front.door.awaiting)
        assert front.events == []


async def test_p_slow() -> None:
    async with (
        running(settings=SETTINGS) as front,
        await RawClient.connect(front.port) as client,
    ):
        for byte in V1[:4]:  # a little now and then buys no time
            await client.send(bytes([byte]))
            await front.until(lambda: bool(front.door.awaiting))
            front.pass_time(HEADER_SECONDS / 4)
        assert front.door.awaiting
        front.pass_time(1)
        assert await client.rest() == b""
        assert complaints(front) == [("not whole in time", 1)]


async def test_what_is_said_of_a_wrong_balancer_is_bounded_and_counted() -> None:
    async with running(settings=SETTINGS) as front:

        async def wrong() -> None:
            async with await RawClient.connect(front.port) as client:
                await client.send(b"EHLO c.test\r\n")
                assert await client.rest() == b""

        for _ in range(5):
            await wrong()
        assert complaints(front) == [("no PROXY header", 1)]
        front.pass_time(LOG_SECONDS + 1)
        await wrong()
        assert complaints(front) == [("no PROXY header", 1), ("no PROXY header", 4)]
        front.pass_time(LOG_SECONDS + 1)
        front.pass_time(LOG_SECONDS + 1)
        assert sum(times for _, times in complaints(front)) == 6
        await wrong()
        assert complaints(front)[-1] == ("no PROXY header", 1)


ELSEWHERE = dataclasses.replace(
    SETTINGS,
    proxies=Trusted([ip_network("127.0.0.9")]),
    trusted=Trusted([ip_network("192.0.2.0/24")]),
)


@pytest.mark.parametrize(
    "settings",
    [ELSEWHERE, dataclasses.replace(ELSEWHERE, proxies=Trusted())],
    ids=["P-untrusted-peer", "P-untrusted-peer-no-proxies"],
)
async def test_p_untrusted_peer(settings: DoorSettings) -> None:
    """A bad command; the address is not believed."""
    questions: list[Question] = []

    def ask(question: Question) -> Answer:
        questions.append(question)
        return reject()

    async with (
        running(ask, settings=settings) as front,
        await RawClient.connect(front.port) as client,
    ):
        assert await client.code() == 220
        await client.send(V1 + b"MAIL FROM:<>\r\nRCPT TO:<x@y.test>\r\n")
        assert await client.reply() == b"502 5.5.1 unimplemented\r\n"
        assert [await client.code() for _ in range(2)] == [250, 550]
        assert seen(front) == ["127.0.0.1"]
        (question,) = questions
        assert (question.client, question.relayclient) == ("127.0.0.1", None)


async def test_p_untrusted_peer_v2() -> None:
    """Binary garbage with a QUIT in it: so the protocol's authors meant it."""
    async with (
        running(settings=ELSEWHERE) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.send(v2("192.0.2.7") + b"MAIL FROM:<>\r\n")
        assert codes(await client.rest()) == [220, 502, 502, 501, 221]
        assert seen(front) == ["127.0.0.1"]


async def test_the_address_counts_for_everything() -> None:
    """Relaying, rules, the log, Received, and what a backend may be told."""
    settings = dataclasses.replace(
        SETTINGS, received=True, trusted=Trusted([ip_network("192.0.2.0/24")])
    )
    questions: list[Question] = []

    def ask(question: Question) -> Answer:
        questions.append(question)
        return accept()

    async with (
        running(ask, settings=settings) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.send(V1)
        await client.reply()
        await client.command(b"EHLO me.test")
        (session,) = front.door.sessions
        assert client_of(session)[:4] == ("192.0.2.7", 4711, "198.51.100.1", 25)
        got = await client.deliver(b"a@b.test", [b"c@example.test"], b"x\r\n")
        assert got == [250, 250, 354, 250]
        await client.command(b"QUIT")
        await front.settled()
        assert questions[0].client == "192.0.2.7"
        assert questions[0].relayclient == b""
        assert b"from me.test ([192.0.2.7])" in front.fake.received[0].message
        told = [
            e.client
            for e in front.events
            if isinstance(e, RecipientDecided | Disconnected)
        ]
        assert told == ["192.0.2.7", "192.0.2.7"]


@pytest.mark.parametrize("name", ["P-unknown", "P-local"])
async def test_who_is_not_known_does_not_relay(name: str) -> None:
    """The proxy's own address says nothing of who is behind it."""
    questions: list[Question] = []

    def ask(question: Question) -> Answer:
        questions.append(question)
        return reject()

    settings = dataclasses.replace(SETTINGS, trusted=HERE)
    async with (
        running(ask, settings=settings) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.send(HEADERS[name][0] + b"MAIL FROM:<>\r\nRCPT TO:<x@y.test>\r\n")
        await client.reply()
        await client.reply()
        assert await client.code() == 550
        assert questions[0].relayclient is None


async def test_caps_count_clients_and_not_their_proxy() -> None:
    settings = dataclasses.replace(SETTINGS, connections_per_client=1)
    async with running(settings=settings) as front:
        clients = []
        for number in range(3):
            clients.append(await RawClient.connect(front.port))
            await clients[-1].send(V1.replace(b".2.7", b".2.%d" % number))
            assert await clients[-1].code() == 220
        for _ in range(2):
            clients.append(await RawClient.connect(front.port))
            await clients[-1].send(b"PROXY UNKNOWN\r\n")
            assert await clients[-1].code() == 220
        async with await RawClient.connect(front.port) as again:
            await again.send(V1.replace(b".2.7", b".2.1"))
            assert await again.rest() == (
                b"421 4.3.2 too many connections, try again later\r\n"
            )
        turned = [e for e in front.events if isinstance(e, Turned)]
        assert turned == [Turned("192.0.2.1", "connections_per_client")]
        for client in clients:
            await client.close()
        await front.settled()
        assert front.door._by_client == {}


async def test_the_cap_on_all_counts_those_without_a_header_yet() -> None:
    settings = dataclasses.replace(SETTINGS, connections=1)
    async with (
        running(settings=settings) as front,
        await RawClient.connect(front.port) as first,
    ):
        await front.until(lambda: bool(front.door.awaiting))
        async with await RawClient.connect(front.port) as second:
            assert await second.code() == 421
        await first.send(V1)
        assert await first.code() == 220


async def test_a_transaction_in_the_segment_of_the_header() -> None:
    """P-followed-by-data."""
    fake = FakeQmail()
    async with (
        running(settings=SETTINGS, fake=fake) as front,
        await RawClient.connect(front.port) as client,
    ):
        await client.send(
            v2("192.0.2.7") + b"EHLO c.test\r\nMAIL FROM:<>\r\n"
            b"RCPT TO:<a@example.test>\r\nDATA\r\n"
        )
        assert [await client.code() for _ in range(5)] == [220, 250, 250, 250, 354]
        await client.send(b"x\r\n.\r\n")
        assert await client.code() == 250
    (mail,) = fake.received
    assert mail.helo == b"c.test"
