"""A real qmail-smtpd reads its control files at its start: what is changed there counts
for the next message, although connections are kept."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.live import realqmail
from tests.live.process import Served, serving
from tests.live.realqmail import RealQmail
from tests.live.surroundings import NOT_ALLOWED
from tests.live.test_real_qmail import host
from tests.support.smtp_client import RawClient

pytestmark = [
    pytest.mark.qmail,
    pytest.mark.fault("N21"),
    pytest.mark.skipif(bool(realqmail.missing()), reason=realqmail.missing()),
]

DELIVERED = [250, 250, 354, 250]


async def told(
    served: Served, to: bytes, sender: bytes = b"s@senders.test", size: int = 10
) -> list[int]:
    async with await RawClient.connect(served.port) as client:
        await client.reply()
        await client.command(b"EHLO client.test")
        got = await client.deliver(sender, [to], b"x" * 70 + b"\r\n" + b"y\r\n" * size)
        await client.command(b"QUIT")
        return got


def write(qmail: RealQmail, name: str, content: str) -> None:
    """In place, as an editor does."""
    path = qmail.root / "var/qmail/control" / name
    path.write_text(content)
    path.chmod(0o644)


async def test_a_change_counts_for_the_next_message(tmp_path: Path) -> None:
    account = pwd.getpwnam("qmaild")
    async with realqmail.running(tmp_path, host()) as qmail:
        control = qmail.root / "var/qmail/control"
        settings = {
            "qmail.root": str(qmail.root),
            "backend.address": f"127.0.0.1:{qmail.port}",
            "process.user": str(account.pw_uid),
            "process.group": str(account.pw_gid),
            "status.address": None,
            "limits.harvest_defence": False,
        }
        async with serving(tmp_path, settings, NOT_ALLOWED) as served:
            alice, new = b"alice@example.test", b"alice@new.test"
            for _ in range(3):  # one is kept
                assert await told(served, alice) == DELIVERED
            assert (await told(served, new))[1] == 553

            for name in ("rcpthosts", "locals"):
                before = (control / name).read_text()
                write(qmail, name, f"{before}new.test\n")
            assert await told(served, new) == DELIVERED

            write(qmail, "badmailfrom", "@bad.test\n")
            assert (await told(served, alice, b"x@bad.test"))[1] == 553
            assert await told(served, alice) == DELIVERED
            (control / "badmailfrom").unlink()
            assert await told(served, alice, b"x@bad.test") == DELIVERED

            write(qmail, "databytes", "5000\n")
            assert (await told(served, alice, size=4000))[-1] == 552
            assert await told(served, alice) == DELIVERED
            os.replace(control / "databytes", control / "databytes.old")
            assert await told(served, alice, size=4000) == DELIVERED
