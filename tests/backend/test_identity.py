"""What a backend is told of a client: headers, commands, environment."""

from __future__ import annotations

import socket
import struct

import pytest

from proxy.backend import ucspi
from proxy.backend.client import Client, ip_address
from proxy.backend.identity import attributes, proxy_header, xclient, xforward

V4 = Client("192.0.2.9", 4711, "198.51.100.1", 25)
V6 = Client("2001:db8::9", 4711, "2001:db8::1", 25)
MAPPED = Client("::ffff:192.0.2.9", 4711, "::ffff:198.51.100.1", 25)
MIXED = Client("192.0.2.9", 4711, "2001:db8::1", 25)
UNIX = Client("", 0, "", 0)

ALL = frozenset(
    b"NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT SOURCE IDENT".split()
)


@pytest.mark.parametrize(
    ("client", "header"),
    [
        (V4, b"PROXY TCP4 192.0.2.9 198.51.100.1 4711 25\r\n"),
        (V6, b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 25\r\n"),
        (MAPPED, b"PROXY TCP4 192.0.2.9 198.51.100.1 4711 25\r\n"),
        (MIXED, b"PROXY TCP6 ::ffff:c000:209 2001:db8::1 4711 25\r\n"),
        (UNIX, b"PROXY UNKNOWN\r\n"),
        (None, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1(client: Client | None, header: bytes) -> None:
    assert proxy_header("v1", client) == header


@pytest.mark.parametrize(
    ("client", "family", "pack"),
    [(V4, 0x11, socket.AF_INET), (V6, 0x21, socket.AF_INET6)],
)
def test_version_2(client: Client, family: int, pack: socket.AddressFamily) -> None:
    header = proxy_header("v2", client)
    assert header[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    assert header[12:14] == bytes((0x21, family))
    (length,) = struct.unpack("!H", header[14:16])
    body = header[16:]
    assert len(body) == length
    ends = [socket.inet_pton(pack, x) for x in (client.address, client.local_address)]
    assert body == b"".join(ends) + struct.pack("!HH", 4711, 25)


@pytest.mark.parametrize("client", [UNIX, None])
def test_version_2_of_our_own(client: Client | None) -> None:
    assert proxy_header("v2", client) == b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def test_xclient() -> None:
    assert xclient(V4, b"client.test", ALL) == (
        b"XCLIENT NAME=[UNAVAILABLE] PORT=4711 PROTO=ESMTP HELO=client.test"
        b" DESTADDR=198.51.100.1 DESTPORT=25 ADDR=192.0.2.9"
    )
    only = frozenset({b"ADDR", b"PROTO"})
    client = V6._replace(extended=False)
    assert xclient(client, b"x", only) == b"XCLIENT PROTO=SMTP ADDR=IPV6:2001:db8::9"


def test_xforward() -> None:
    assert xforward(UNIX, b"", ALL) == (
        b"XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]"
        b" PROTO=ESMTP HELO=[UNAVAILABLE] SOURCE=REMOTE"
    )


@pytest.mark.parametrize(
    ("helo", "text"),
    [
        (b"a b=c+d", b"a+20b+3Dc+2Bd"),
        (b"x\r\nXCLIENT ADDR=127.0.0.1", b"x+0D+0AXCLIENT+20ADDR+3D127.0.0.1"),
        (b"\xff\0", b"+FF+00"),
        (b"x" * 256, b"[UNAVAILABLE]"),
        (b"\xff" * 86, b"[UNAVAILABLE]"),
    ],
)
def test_nothing_can_be_injected(helo: bytes, text: bytes) -> None:
    for command in (xclient(V6, helo, ALL), xforward(V6, helo, ALL)):
        assert b" HELO=" + text + b" " in command
        assert len(command) <= 510


def test_what_is_offered() -> None:
    lines = [b"PIPELINING", b"xclient Name ADDR", b"SIZE 5"]
    assert attributes(b"XCLIENT", lines) == {b"NAME", b"ADDR"}
    assert attributes(b"XFORWARD", lines) == frozenset()


def test_addresses() -> None:
    assert str(ip_address("fe80::1%eth0")) == "fe80::1"
    assert str(ip_address("::ffff:192.0.2.1")) == "192.0.2.1"
    assert ip_address("") is None


def test_the_environment() -> None:
    base = {b"PATH": b"/bin"}
    assert ucspi.environment(base, V4, b"mx.test") == {
        b"PATH": b"/bin",
        b"PROTO": b"TCP",
        b"TCPLOCALHOST": b"mx.test",
        b"TCPLOCALIP": b"198.51.100.1",
        b"TCPLOCALPORT": b"25",
        b"TCPREMOTEIP": b"192.0.2.9",
        b"TCPREMOTEPORT": b"4711",
    }
    assert ucspi.environment(base, MAPPED, b"x") == ucspi.environment(base, V4, b"x")
    six = ucspi.environment(base, V6, b"mx.test")
    assert six[b"PROTO"] == b"TCP6"
    assert six[b"TCPREMOTEIP"] == six[b"TCP6REMOTEIP"] == b"2001:db8::9"
    assert six[b"TCPLOCALIP"] == six[b"TCP6LOCALIP"] == b"2001:db8::1"


def test_variables_win_and_nobody_is_a_stranger() -> None:
    variables = ((b"RELAYCLIENT", b""), (b"TCPREMOTEHOST", b"a"), (b"A", b"1"))
    found = ucspi.environment({b"A": b"0"}, V4._replace(variables=variables), b"x")
    assert {k: found[k] for k, _ in variables} == dict(variables)
    assert ucspi.environment({}, None, b"x") == {
        b"PROTO": b"TCP",
        b"TCPLOCALHOST": b"x",
    }


def test_what_is_not_passed_on() -> None:
    ours = dict.fromkeys(
        b"BACKSTOP_BACKEND__COMMAND TCPREMOTEIP TCP6REMOTEIP PROTO RELAYCLIENT"
        b" NOTIFY_SOCKET WATCHDOG_USEC LISTEN_FDS PYTHONPATH".split(),
        b"x",
    )
    kept = {b"PATH": b"/bin", b"DNSCACHEIP": b"127.0.0.1", b"QMAILQUEUE": b"q"}
    assert ucspi.inherited({**ours, **kept}) == kept
