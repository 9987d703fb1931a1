"""A thousand messages on three ways to the same qmail-smtpd.

Under tcpserver by its port; as a program of ours; under tcpserver by the
client's own address.  The clients are in another network namespace.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.netspaces import CLIENTS, HOST, Wire, tcpserver, wants_namespaces, wired
from tests.live.process import Settings, environment, run, serving, write_config
from tests.live.surroundings import NOBODY, NOT_ALLOWED, as_nobody, modules
from tests.live.test_real_qmail import _LINES
from tests.support.small_host import lay_out
from tests.support.smtp_client import RawClient

pytestmark = pytest.mark.timeout(300)

STANDIN = Path(__file__).parent.parent / "support/standin.py"

RECIPIENTS = (
    *((250, text) for text in ("alice@example.test", "ALICE@Example.Test")),
    *((250, text) for text in ("sales@virt.test", "alice-two.3@example.test")),
    *((550, text) for text in ("nobody-{}@example.test", "{}@virt.test")),
    (553, "{}@foreign.test"),
)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


def bodies(count: int) -> list[bytes]:
    """The same ones in every run; the first line tells the number."""
    chance = random.Random(815)
    return [
        b"X-Number: %d\r\n\r\n" % number
        + b"".join(line + b"\r\n" for line in chance.choices(_LINES, k=number % 20))
        for number in range(count)
    ]


def recipient(number: int) -> bytes:
    text = RECIPIENTS[number % len(RECIPIENTS)][1]
    return text.replace("{}", f"w{number}").encode()


async def send_all(wire: Wire, port: int, count: int) -> dict[int, tuple[int, str]]:
    """From ten clients at once; RCPT's code and the client, by number."""
    todo = iter(enumerate(bodies(count)))
    got: dict[int, tuple[int, str]] = {}

    async def one(source: str) -> None:
        # Several sessions of each client, of up to nine messages.
        while some := list(itertools.islice(todo, 9)):
            sock = await wire.connect(source, port)
            sock.setblocking(False)
            async with RawClient(*await asyncio.open_connection(sock=sock)) as client:
                assert await client.code() == 220
                await client.command(b"EHLO client.test")
                for number, body in some:
                    wire_form = body.replace(b"\r\n.", b"\r\n..")
                    to = [recipient(number)]
                    codes = await client.deliver(b"s@senders.test", to, wire_form)
                    got[number] = codes[1], source
                    assert codes[-1] == (250 if codes[1] == 250 else 503)
                await client.command(b"QUIT")

    async with asyncio.TaskGroup() as group:
        for source in CLIENTS:
            group.create_task(one(source))
    return got


_OURS = re.compile(
    rb"Received: from client\.test \(\[([0-9.]+)\]\)\n"
    rb"\tby mx\.example\.test with ESMTP id [0-9a-f-]+;\n\t.* \+0000\n"
)
_THEIRS = re.compile(
    rb"Received: from unknown \(HELO client\.test\) \(([0-9.]+)\)\n"
    rb"  by mx\.example\.test\n"
)


def taken(mails: Path) -> dict[int, tuple[bytes, str, str]]:
    """By number: all that was taken but the Received lines; who the client was
    to the backend, and to us."""
    found = {}
    for path in mails.glob("mail-*"):
        content = path.read_bytes()
        theirs, ours = _THEIRS.search(content), _OURS.search(content)
        assert theirs, content
        assert ours, content
        number = re.search(rb"^X-Number: (\d+)$", content, re.M)
        assert number
        rest = content.replace(theirs[0], b"", 1).replace(ours[0], b"", 1)
        assert int(number[1]) not in found
        found[int(number[1])] = rest, theirs[1].decode(), ours[1].decode()
    return found


@pytest.mark.parametrize("way", ["tcp", "command", "transparent"])
async def test_a_thousand_messages(tmp_path: Path, wire: Wire, way: str) -> None:
    mails = tmp_path / "mails"
    mails.mkdir()
    lay_out(tmp_path)
    program = [sys.executable, "-I", str(STANDIN), str(mails)]
    settings: dict[str, object] = {
        "listen.addresses": [f"{HOST}:0"],
        "status.address": None,
        "qmail.root": str(tmp_path / "host"),
        "qmail.local_ips": ["192.0.2.1"],
        "limits.unknown_per_session": 0,
        "process.user": str(NOBODY),
        "process.group": str(NOBODY),
    }
    with tcpserver(tmp_path / "tcpserver.log", program, wire.host) as port:
        env = NOT_ALLOWED
        if way == "command":
            settings["backend.command"] = program
            env = {}  # the directory for mail is root's
        else:
            settings["backend.address"] = f"127.0.0.1:{port}"
        if way == "transparent":
            settings["backend.transparent"] = True
            wire.route_back(port)
        async with serving(tmp_path, settings, env, within=wire.host) as served:
            got = await send_all(wire, served.port, 1000)
    codes = {number: code for number, (code, _) in got.items()}
    assert codes == {n: RECIPIENTS[n % len(RECIPIENTS)][0] for n in range(1000)}
    found = taken(mails)
    assert found.keys() == {n for n, code in codes.items() if code == 250}
    sent = bodies(1000)
    for number, (rest, theirs, ours) in found.items():
        envelope = b"Fs@senders.test\nT%s\n" % recipient(number)
        assert rest == envelope + sent[number].replace(b"\r\n", b"\n")
        client = got[number][1]
        assert ours == client
        assert theirs == ("127.0.0.1" if way == "tcp" else client)
    assert Counter(codes.values())[250] > 500
    assert {client for _, client in got.values()} == set(CLIENTS)


async def test_transparent_without_the_right_does_not_start(tmp_path: Path) -> None:
    lay_out(tmp_path)

    settings: Settings = {
        "qmail.root": str(tmp_path / "host"),
        "backend.transparent": True,
    }
    path = write_config(tmp_path / "config.toml", settings)
    within = as_nobody("dac_read_search")
    arguments = ("serve", "-c", str(path))
    status, _, errors = await run(*arguments, env=modules(), within=within)
    assert status == 2
    assert "backend.transparent = true: Operation not permitted" in errors
    assert "CAP_NET_RAW" in errors


_REACH = """
import asyncio, socket
from proxy.backend.client import Client
from proxy.backend.settings import BackendSettings
from proxy.backend.reach import Reach

async def main():
    with socket.socket(socket.AF_INET6) as backend:
        backend.bind(("::1", 2525))
        backend.listen()
        backend.settimeout(20)
        way = BackendSettings(host="::1", port=2525, transparent=True)
        for address in ("2001:db8::9", "192.0.2.4", ""):
            client = Client(address, 4711, "", 0)
            reached = await Reach(b"x", lambda: 0.0, print)(way, client)
            connection, peer = backend.accept()
            print(peer[0])
            connection.close()
            reached.sock.close()

asyncio.run(main())
"""


async def test_ipv6_and_where_the_two_differ() -> None:
    """An IPv6 client comes from its own address; others from ours."""
    wants_namespaces()
    script = (
        "ip link set lo up; ip -6 route add local default dev lo table 100;"
        " ip -6 rule add from ::1 iif lo ipproto tcp sport 2525 lookup 100;"
        ' exec "$@"'
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", _REACH),
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode().split() == ["2001:db8::9", "::1", "::1"]
