"""A program for each client in the backend's place, as under tcpserver."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from signal import SIGINT, SIGPIPE, SIGXFSZ
from typing import cast

import pytest

from tests.live.process import Served, Settings, serving
from tests.live.surroundings import NOT_ALLOWED, status_of, wants_root
from tests.support.small_host import lay_out
from tests.support.smtp_client import RawClient

STANDIN = Path(__file__).parent.parent / "support/standin.py"
MESSAGE = b"Subject: x\r\n\r\n..a dot\r\n"


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    """Where the stand-in puts what it takes."""
    place = tmp_path / "mails"
    place.mkdir()
    place.chmod(0o777)
    return place


def standin(mails: Path, *before: str) -> list[str]:
    return [*before, sys.executable, "-I", str(STANDIN), str(mails)]


@pytest.fixture
def settings(tmp_path: Path, mails: Path) -> Settings:
    lay_out(tmp_path)
    return {
        "qmail.root": str(tmp_path / "host"),
        "qmail.local_ips": ["192.0.2.1"],
        "backend.command": standin(mails),
    }


def children(served: Served) -> list[int]:
    """Child processes of the service that are there, dead ones too."""
    pid = served.process.pid
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            found += map(int, (task / "children").read_text().split())
    return found


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def nobody_left(served: Served) -> None:
    async with asyncio.timeout(60):
        while children(served):
            await asyncio.sleep(0.02)


async def one(served: Served, source: str, to: bytes = b"alice@example.test") -> bytes:
    """Deliver one message, or get RCPT's refusal; the last reply."""
    async with await RawClient.connect(served.port, source) as client:
        assert await client.code() == 220
        await client.command(b"EHLO client.test")
        await client.command(b"MAIL FROM:<s@senders.test>")
        reply = await client.command(b"RCPT TO:<%s>" % to)
        if reply.startswith(b"250"):
            await client.command(b"DATA")
            await client.send(MESSAGE + b".\r\n")
            reply = await client.reply()
        await client.command(b"QUIT")
        return reply


def kept(mails: Path) -> list[bytes]:
    return [path.read_bytes() for path in mails.glob("mail-*")]


async def test_the_program_sees_the_client(
    tmp_path: Path, settings: Settings, mails: Path, loop: Mapping[str, str]
) -> None:
    async with serving(tmp_path, settings, loop) as served:
        assert (await one(served, "127.0.3.4")).startswith(b"250")
        await nobody_left(served)
    (content,) = kept(mails)
    head = b"Fs@senders.test\nTalice@example.test\n"
    line = b"Received: from unknown (HELO client.test) (127.0.3.4)\n"
    assert content.startswith(head + line + b"  by mx.example.test\n")
    assert content.endswith(b"\nSubject: x\n\n.a dot\n")


async def test_no_program_without_a_good_recipient(
    tmp_path: Path, settings: Settings
) -> None:
    async with serving(tmp_path, settings) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            await client.command(b"EHLO client.test")
            await client.command(b"MAIL FROM:<>")
            reply = await client.command(b"RCPT TO:<nobody@example.test>")
            assert reply.startswith(b"550")
            assert children(served) == []
            assert (await client.command(b"RCPT TO:<alice@example.test>"))[:3] == b"250"
            first = children(served)
            assert len(first) == 1
            # The next transaction of this client is the same program's.
            await client.command(b"RSET")
            assert (await client.deliver(b"", [b"alice@example.test"], MESSAGE))[-1]
            assert children(served) == first
        await nobody_left(served)


@pytest.mark.parametrize("how", ["reset", "half a message", "service stops"])
async def test_a_program_never_outlives_its_session(
    tmp_path: Path, settings: Settings, mails: Path, how: str
) -> None:
    async with serving(tmp_path, {**settings, "shutdown_grace": 0}) as served:
        client = await RawClient.connect(served.port)
        await client.reply()
        await client.command(b"EHLO client.test")
        await client.command(b"MAIL FROM:<>")
        await client.command(b"RCPT TO:<alice@example.test>")
        (child,) = children(served)
        if how == "half a message":
            await client.command(b"DATA")
            await client.send(b"Subject: x\r\n")
        if how == "service stops":
            served.process.terminate()
            await served.finished()
            assert not is_there(child)
        else:
            client.reset()
            await nobody_left(served)
        await client.close()
    assert kept(mails) == []


async def test_a_program_that_does_not_end_is_killed(
    tmp_path: Path, settings: Settings, mails: Path
) -> None:
    """It ignores the end of its input, and TERM; the service ends all the same."""
    script = (
        "trap '' TERM; printf '220 x\\r\\n'; read a; "
        "printf '250 x\\r\\n'; read a; printf '250 x\\r\\n'; read a; "
        "printf '250 x\\r\\n'; while :; do sleep 1; done"
    )
    stubborn = {**settings, "backend.command": ["sh", "-c", script]}
    async with serving(tmp_path, stubborn) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            await client.command(b"EHLO client.test")
            await client.command(b"MAIL FROM:<>")
            assert (await client.command(b"RCPT TO:<alice@example.test>"))[:3] == b"250"
            (child,) = children(served)
        served.process.terminate()
        await served.finished()
    assert not is_there(child)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/no/such/program"], "cannot start /no/such/program: No such file"),
        (["/"], "cannot start /: Permission denied"),
        (["true"], "connect: "),
        (["echo", "500 go away"], "go away"),
    ],
)
async def test_a_program_that_cannot_serve_is_451(
    tmp_path: Path, settings: Settings, command: list[str], why: str
) -> None:
    async with serving(tmp_path, {**settings, "backend.command": command}) as served:
        reply = await one(served, "127.0.0.1")
        assert reply.startswith(b"451 4.4.1")
        assert why in await served.said("event=backend-failed")
        await nobody_left(served)


async def test_what_it_says_is_logged_escaped_and_bounded(
    tmp_path: Path, settings: Settings, mails: Path
) -> None:
    # All at once: so many lines are for a second.
    noise = r"""printf 'a \033[31m"line\n%s\n' "$(seq 500)" >&2; """
    script = noise + "exec " + shlex.join(standin(mails))
    loud = {**settings, "backend.command": ["sh", "-c", script]}
    async with serving(tmp_path, loud) as served:
        assert (await one(served, "127.0.0.1")).startswith(b"250")
        line = await served.said("command: a ")
        assert "\033" not in line
        await served.said("more lines in one second")
    assert len([x for x in served.lines if 'text="command: ' in x]) < 200


async def test_only_so_many_run(
    tmp_path: Path, settings: Settings, mails: Path
) -> None:
    few = {**settings, "backend.command_concurrency": 2, "backend.connect_timeout": 0.3}
    async with serving(tmp_path, few) as served:
        holders = [await RawClient.connect(served.port) for _ in range(2)]
        for holder in holders:
            await holder.reply()
            await holder.command(b"EHLO client.test")
            await holder.command(b"MAIL FROM:<>")
            assert (await holder.command(b"RCPT TO:<alice@example.test>"))[:3] == b"250"
        assert (await one(served, "127.0.0.1")).startswith(b"451 4.4.1")
        assert "command_concurrency" in await served.said("event=backend-failed")
        for holder in holders:
            await holder.close()
        await nobody_left(served)
        # It was not the backend's failure: the next one gets through.
        assert (await one(served, "127.0.0.1")).startswith(b"250")


async def test_twenty_clients_wait_for_two_places(
    tmp_path: Path, settings: Settings, mails: Path
) -> None:
    few = {**settings, "backend.command_concurrency": 2, "listen.workers": 1}
    few["backend.connect_timeout"] = 60
    async with serving(tmp_path, few) as served:
        replies = await asyncio.gather(
            *(one(served, f"127.0.4.{n}") for n in range(1, 21))
        )
        assert [reply[:3] for reply in replies] == [b"250"] * 20
        await nobody_left(served)
    assert {c.split(b"(127.")[1].split(b")")[0] for c in kept(mails)} == {
        b"0.4.%d" % n for n in range(1, 21)
    }


async def test_set_id_programs_work_and_have_no_capabilities(
    tmp_path: Path, settings: Settings, mails: Path
) -> None:
    """qmail-queue is one: no_new_privs would end all mail."""
    wants_root()
    account = {"process.user": "65534", "process.group": "65534"}
    script = "grep -E '^(NoNewPrivs|CapPrm|CapEff|Uid)' /proc/self/status >&2; "
    script += "exec " + shlex.join(standin(mails))
    mine = {**settings, **account, "backend.command": ["sh", "-c", script]}
    async with serving(tmp_path, mine, NOT_ALLOWED) as served:
        await one(served, "127.0.0.1")
        assert (await served.said("command: NoNewPrivs")).endswith('0"')
        assert (await served.said("command: CapPrm")).endswith("0" * 16 + '"')
        assert "65534" in await served.said("command: Uid")


async def test_a_hup_cannot_give_set_id_programs_back(
    tmp_path: Path, settings: Settings
) -> None:
    without = {**settings, "backend.command": None}
    account = {"process.user": "65534", "process.group": "65534"}
    wants_root()
    without.update(account)
    async with serving(tmp_path, without, NOT_ALLOWED) as served:
        if status_of(served.process.pid)["NoNewPrivs"] != "1":
            pytest.skip("it could not give that up")
        await served.reload({**settings, **account})
        await served.said("backend.command is new")


async def test_a_program_may_ask_dns_before_it_greets(
    tmp_path: Path, settings: Settings, mails: Path
) -> None:
    script = "sleep 0.5; exec " + shlex.join(standin(mails))
    slow = {**settings, "backend.command": ["sh", "-c", script]}
    slow["backend.connect_timeout"] = 0.1
    async with serving(tmp_path, slow) as served:
        assert (await one(served, "127.0.0.1")).startswith(b"250")


def ignored_here() -> int:
    """The signals that whoever started the tests ignores, as a shell does for what
    it starts in the background; child processes have that from us (signal(7))."""
    pythons_own = 1 << SIGPIPE - 1 | 1 << SIGXFSZ - 1  # which children have not
    return int(status_of(os.getpid())["SigIgn"], 16) & ~pythons_own


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_program_begins_with_the_usual_signals(
    tmp_path: Path, settings: Settings, mails: Path, workers: int
) -> None:
    """None is blocked or ignored that matters."""
    script = "grep -E '^Sig(Blk|Ign)' /proc/self/status >&2; "
    script += "ls /proc/self/fd | tr '\\n' ' ' >&2; echo >&2; "
    script += "exec " + shlex.join(standin(mails))
    shown = {**settings, "backend.command": ["sh", "-c", script]}
    shown["listen.workers"] = workers
    async with serving(tmp_path, shown) as served:
        assert (await one(served, "127.0.0.1")).startswith(b"250")
        assert (await served.said("command: SigBlk")).endswith("0" * 16 + '"')
        # Workers leave INT to their parent, and nobody sends it to programs.
        ignored = await served.said("command: SigIgn")
        mask = int(ignored[-17:-1], 16) & ~ignored_here()
        int_too = workers > 1 and not ignored_here() & 1 << SIGINT - 1
        assert mask == (1 << SIGINT - 1 if int_too else 0)
        # And no descriptor of ours; 3 is ls' own.
        await served.said('text="command: 0 1 2 3 "')
    assert len(kept(mails)) == 1


# rblsmtpd, which looks at TCPREMOTEIP and asks DNS.


@pytest.fixture
async def zone() -> AsyncIterator[int]:
    """A DNS server for 127.0.0.1, which lists 127.0.6.6 only; its address ends
    with the number that is yielded."""
    loop = asyncio.get_running_loop()
    for last in range(153, 250):
        try:
            transport, _ = await loop.create_datagram_endpoint(
                _Zone, local_addr=(f"127.0.0.{last}", 53)
            )
        except PermissionError:
            pytest.skip("may not bind port 53: run as root")
        except OSError as error:  # another run of the tests has it
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            yield last
            transport.close()
            return
    pytest.fail("every address is taken")


class _Zone(asyncio.DatagramProtocol):
    """RFC 1035 as far as rblsmtpd asks: one question, A or TXT."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        listed = question.startswith(b"\x016\x016\x010\x03127")
        kind = int.from_bytes(question[-4:-2])
        text = b"listed by the test"
        rdata = {1: bytes((127, 0, 0, 2)), 16: bytes((len(text),)) + text}.get(kind)
        answers = b""
        if listed and rdata is not None:
            answers = b"\xc0\x0c" + question[-4:] + bytes((0, 0, 0, 60))
            answers += len(rdata).to_bytes(2) + rdata
        flags = b"\x85\x80" if listed else b"\x85\x83"
        counts = bytes((0, 1, 0, bool(answers), 0, 0, 0, 0))
        self.transport.sendto(data[:2] + flags + counts + question + answers, addr)


async def test_rblsmtpd_blocks_by_the_clients_address(
    tmp_path: Path, settings: Settings, mails: Path, zone: int
) -> None:
    if shutil.which("rblsmtpd") is None:
        pytest.skip("rblsmtpd is not installed: apt-get install ucspi-tcp")
    command = standin(mails, "rblsmtpd", "-r", "zone.test")
    guarded = {**settings, "backend.command": command}
    environment = {"DNSCACHEIP": f"127.0.0.{zone}"}
    async with serving(tmp_path, guarded, environment) as served:
        assert (await one(served, "127.0.6.5")).startswith(b"250")
        assert await one(served, "127.0.6.6") == b"451 listed by the test\r\n"
        assert "127.0.6.6" in await served.said("command: rblsmtpd")
        await nobody_left(served)
    assert len(kept(mails)) == 1


# tcp.smtp.


async def sizes(served: Served, source: str) -> tuple[list[bytes], bytes]:
    """What EHLO announces, and what MAIL with 1001 bytes is told."""
    async with await RawClient.connect(served.port, source) as client:
        await client.reply()
        said = await client.command(b"EHLO c.test")
        mail = await client.command(b"MAIL FROM:<> SIZE=1001")
        return re.findall(rb"SIZE (\d+)", said), mail[:3]


async def test_databytes(tmp_path: Path, settings: Settings) -> None:
    """As qmail-smtpd: what tcp.smtp sets is in control/databytes' place."""
    (tmp_path / "host/var/qmail/control/databytes").write_text("600\n")
    text = (
        '127.0.7.1:allow,DATABYTES="500"\n127.0.7.2:allow,DATABYTES="0"\n'
        '127.0.7.3:allow,DATABYTES="5000"\n:allow,NAME="x"\n'
    )
    tcprules(tmp_path / "host/etc/tcp.smtp.cdb", text)
    ruled = {**settings, "listen.tcprules": "/etc/tcp.smtp.cdb"}
    expected = {
        "127.0.7.1": ([b"500"], b"552"),
        "127.0.7.2": ([], b"250"),
        "127.0.7.3": ([b"5000"], b"250"),
        "127.0.7.9": ([b"600"], b"250"),
    }
    async with serving(tmp_path, ruled) as served:
        assert {ip: await sizes(served, ip) for ip in expected} == expected
        # To a qmail-smtpd elsewhere the variable does not get.
    port = {**ruled, "backend.command": None, "backend.address": "127.0.0.1:1"}
    async with serving(tmp_path, port) as served:
        assert await sizes(served, "127.0.7.1") == ([b"600"], b"250")
    # Ours is the program's, too.
    async with serving(tmp_path, ruled, {"DATABYTES": "400"}) as served:
        assert await sizes(served, "127.0.7.9") == ([b"400"], b"552")
        assert await sizes(served, "127.0.7.3") == ([b"5000"], b"250")
    # Our own limit holds for everybody.
    async with serving(tmp_path, {**ruled, "limits.message_size": 900}) as served:
        assert await sizes(served, "127.0.7.3") == ([b"900"], b"552")


def tcprules(path: Path, text: str) -> Path:
    if shutil.which("tcprules") is None:
        pytest.skip("tcprules is not installed: apt-get install ucspi-tcp")
    made = ["tcprules", str(path), f"{path}.new"]
    subprocess.run(made, input=text.encode(), check=True, timeout=60)
    return path


async def test_tcp_smtp_rules(tmp_path: Path, settings: Settings, mails: Path) -> None:
    path = tmp_path / "host/etc/tcp.smtp.cdb"
    text = (
        '127.0.7.1:allow,RELAYCLIENT=""\n127.0.7.2:allow,RELAYCLIENT="@gate.test"\n'
        '127.0.7.3:deny\n127.0.7.:allow,NAME="a b"\n:allow\n'
    )
    tcprules(path, text)
    script = 'echo "NAME is $NAME" >&2; exec ' + shlex.join(standin(mails))
    ruled = {
        **settings,
        "listen.tcprules": "/etc/tcp.smtp.cdb",
        "backend.command": ["sh", "-c", script],
    }
    away = b"x@foreign.test"
    async with serving(tmp_path, ruled) as served:
        assert (await one(served, "127.0.7.1", away)).startswith(b"250")
        assert (await one(served, "127.0.7.2", away)).startswith(b"250")
        assert (await one(served, "127.0.7.9", away)).startswith(b"553 5.7.1")
        assert (await one(served, "127.0.7.9")).startswith(b"250")
        await served.said("NAME is a b")
        async with await RawClient.connect(served.port, "127.0.7.3") as client:
            assert (
                await client.rest()
                == b"554 5.7.1 no mail is taken from your address\r\n"
            )
        assert "tcprules_deny" in await served.said("event=turned-away")
        # What tcprules writes anew counts for the next client.
        tcprules(path, "127.0.7.:deny\n:allow\n")
        async with await RawClient.connect(served.port, "127.0.7.1") as client:
            assert (await client.rest()).startswith(b"554")
        # A file that cannot be read lets nobody in.
        path.write_bytes(path.read_bytes()[:2050])
        async with await RawClient.connect(served.port) as client:
            assert (await client.rest()).startswith(b"421 4.3.2")
        await served.said("every client is told 421")
        tcprules(path, ":allow\n")
        assert (await one(served, "127.0.0.1")).startswith(b"250")
    found = b"".join(kept(mails))
    assert b"Tx@foreign.test\n" in found
    assert b"Tx@foreign.test@gate.test\n" in found
