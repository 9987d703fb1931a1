"""Both kinds of error, found in a real qmail's log.

The front door sees a copy of the host that is a little behind, and programs whose
answer only the delivery tells.  ``tests/data/report`` is a recording of what is
made here (:func:`exchange`), for machines without a qmail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live import realqmail
from tests.live.process import PATIENCE, Settings, run, serving
from tests.live.realqmail import Host, RealQmail
from tests.support.smtp_client import RawClient

pytestmark = [
    pytest.mark.qmail,
    pytest.mark.skipif(bool(realqmail.missing()), reason=realqmail.missing()),
    pytest.mark.timeout(300),
]

SENDER = b"somebody@senders.test"
BOUNCES = 4  # of messages, not of recipients


def host() -> Host:
    """A catch-all program, a program that forwards to a dead address, and a
    mailbox that the copy does not know yet."""
    return Host(
        control={
            "me": "mx.example.test\n",
            "locals": "example.test\n",
            "rcpthosts": "example.test\nshop.test\n",
            "virtualdomains": "shop.test:alice-shop\n",
            "smtproutes": ":127.0.0.1:1\n",
        },
        users=("alice", "bob"),
        dotqmail={
            "home/alice/.qmail": "./Maildir/\n",
            "home/alice/.qmail-new": "./Maildir/\n",
            "home/alice/.qmail-shop-default": "|sh ./customers\n./Maildir/\n",
            "home/alice/customers": "case $EXT in *-old*) echo no such customer;"
            " exit 100;; esac\n",
            "home/bob/.qmail": "./Maildir/\n",
            "home/bob/.qmail-to": "|sh ./route\n",
            "home/bob/route": "forward gone@example.test\n",
        },
        maildirs=("home/alice/Maildir", "home/bob/Maildir"),
    )


def behind(tmp_path: Path) -> Path:
    """The same host before its newest mailbox was made."""
    now = host()
    files = {k: v for k, v in now.dotqmail.items() if not k.endswith("-new")}
    realqmail.lay_out(tmp_path / "behind", replace(now, dotqmail=files))
    return tmp_path / "behind"


class Logs(NamedTuple):
    """Ours, and qmail-send's without times and as multilog has them."""

    ours: Path
    plain: Path
    stamped: Path


@contextlib.asynccontextmanager
async def stamping(log: Path, stamped: Path) -> AsyncIterator[None]:
    """tai64n(8) on all that comes into ``log``; at the end it has it all."""
    with stamped.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'tail -n +1 -s 0.02 -f "$1" | tai64n', "sh", str(log)),
            stdout=output,
            start_new_session=True,
        )
        try:
            yield
            async with asyncio.timeout(PATIENCE):
                while len(lines(stamped)) < len(lines(log)):
                    await asyncio.sleep(0.02)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


async def mail(port: int, *recipients: bytes) -> list[int]:
    """The codes of each RCPT."""
    async with await RawClient.connect(port) as client:
        assert await client.code() == 220
        codes = await client.deliver(SENDER, list(recipients), b"Subject: x\r\n\r\n")
        await client.command(b"QUIT")
        return codes[1 : 1 + len(recipients)]


def settings_for(tmp_path: Path, qmail: RealQmail, **more: object) -> Settings:
    usual: dict[str, object] = {
        "qmail.root": str(tmp_path / "behind"),
        "backend.address": f"127.0.0.1:{qmail.port}",
        "status.address": None,
        "limits.harvest_defence": False,
    }
    return usual | more


async def exchange(tmp_path: Path) -> Logs:
    """Enforced, then only observed; and mail that does not come through us."""
    behind(tmp_path)
    said: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        qmail = await stack.enter_async_context(realqmail.running(tmp_path, host()))
        stamped = tmp_path / "stamped.log"
        await stack.enter_async_context(stamping(tmp_path / "send.log", stamped))
        async with serving(tmp_path, settings_for(tmp_path, qmail)) as served:
            assert await mail(
                served.port,
                b"alice@example.test",
                b"mary@shop.test",
                b"bob-no@example.test",
                b"alice-new@example.test",  # false, and nobody can tell yet
            ) == [250, 250, 550, 550]
            assert await mail(served.port, b"john-old1@shop.test") == [250]
            assert await mail(served.port, b"bob-to@example.test") == [250]
        said += served.lines
        # Past the front door: who was refused is there; who is not there is not ours.
        assert await mail(qmail.port, b"alice-new@example.test") == [250]
        assert await mail(qmail.port, b"bob-never@example.test") == [250]
        observing = settings_for(tmp_path, qmail, mode="observe")
        async with serving(tmp_path, observing) as served:
            assert await mail(
                served.port, b"alice-new@example.test", b"bob-no@example.test"
            ) == [250, 250]
        said += served.lines
        await qmail.until(lambda: len(qmail.logged("bounce msg")) == BOUNCES)
        await qmail.until(lambda: deferred(qmail) >= BOUNCES)
    ours = tmp_path / "ours.log"
    ours.write_text("".join(f"{line}\n" for line in said))
    return Logs(ours, tmp_path / "send.log", stamped)


def deferred(qmail: RealQmail) -> int:
    """Bounces whose host was found not to answer: nothing else is to come."""
    return sum("deferral:" in line for line in qmail.log)


def whom(cases: dict[str, Any]) -> list[tuple[str, str]]:
    return [(case["recipient"], case["rule"]) for case in cases["last"]]


async def found_in(ours: Path, theirs: Path) -> dict[str, Any]:
    """By the real command."""
    status, out, err = await run(
        "report", str(ours), "--qmail-log", str(theirs), "--json"
    )
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.skipif(not shutil.which("tai64n"), reason="daemontools: no tai64n")
async def test_the_report_finds_exactly_these(tmp_path: Path) -> None:
    logs = await exchange(tmp_path)
    for theirs in (logs.plain, logs.stamped):
        found = (await found_in(logs.ours, theirs))["qmail"]
        assert found["messages"]["accepted"] == found["messages"]["found"] == 4
        assert found["messages"]["found_by_envelope"] == 0
        assert whom(found["leaks"]) == [
            ("john-old1@shop.test", "qmail"),
            ("bob-to@example.test", "qmail"),
        ]
        assert [case["forwarded"] for case in found["leaks"]["last"]] == [False, True]
        assert "no_such_customer" in found["leaks"]["last"][0]["text"]
        assert whom(found["false_refusals"]) == [("alice-new@example.test", "qmail")]
        assert whom(found["suspects"]) == [("alice-new@example.test", "qmail")]
        assert found["not_through_us"]["total"] == 1
        assert found["bounces"] == {"of_ours": 3, "of_others": 1}


async def test_the_running_service_tells_of_it(tmp_path: Path) -> None:
    behind(tmp_path)
    async with realqmail.running(tmp_path, host()) as qmail:
        watched = {"leakwatch.log": str(tmp_path / "send.log")}
        settings = settings_for(tmp_path, qmail, **watched)
        async with serving(tmp_path, settings) as served:
            assert await mail(served.port, b"john-old1@shop.test") == [250]
            assert await mail(served.port, b"mary@shop.test") == [250]
            assert await mail(served.port, b"bob-to@example.test") == [250]
            assert "recipient=john-old1@shop.test" in await served.said("event=leak")
            line = await served.said("event=leak", times=2)
            assert "recipient=bob-to@example.test" in line
            assert "delivered=gone@example.test" in line
        assert served.log.count("event=leak") == 2
