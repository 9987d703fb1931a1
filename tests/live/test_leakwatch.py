"""``leakwatch.log``: the running service follows a log of qmail-send's, which the
test writes line by line."""

from __future__ import annotations

import asyncio
import html
import os
import re
from pathlib import Path

import pytest

from tests.live.process import PATIENCE, Served, Settings, serving
from tests.live.surroundings import NOBODY, NOT_ALLOWED, opened
from tests.live.test_workers import children, one_session_each
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

WHEN = 1_795_398_287
SENDER = b"somebody@there.test"
NO_MAILBOX = "failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/"
GOOD = "success: did_1+0+0/"


class SendLog:
    """qmail-send's log, below multilog: a message, a delivery for each recipient."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._delivery = 0

    def write(self, *lines: str) -> None:
        stamp = f"@{(1 << 62) + 10 + WHEN + 1:016x}00000000"
        with self.path.open("a", encoding="latin-1") as file:
            for line in lines:
                file.write(f"{stamp} {line}\n")
                file.flush()

    def message(
        self, qp: int, *results: tuple[str, str], sender: bytes = SENDER
    ) -> None:
        number = 400_000 + qp
        self.write(
            f"new msg {number}",
            f"info msg {number}: bytes 99 from <{sender.decode()}> qp {qp} uid 64011",
        )
        for recipient, result in results:
            self._delivery += 1
            at = f"{self._delivery}"
            self.write(
                f"starting delivery {at}: msg {number} to local {recipient}",
                "status: local 1/10 remote 0/20",
                f"delivery {at}: {result}",
                "status: local 0/10 remote 0/20",
            )
        if any(result.startswith("failure") for _, result in results):
            self.write(f"bounce msg {number} qp {qp + 20_000}")
        self.write(f"end msg {number}")


def watching(settings: Settings, path: Path, **more: object) -> Settings:
    own = {"leakwatch.log": str(path), "limits.harvest_defence": False}
    return {**settings, **own, **{k.replace("__", "."): v for k, v in more.items()}}


async def deliver(
    client: RawClient, fake: FakeQmail, qp: int, *recipients: bytes
) -> None:
    fake.once["dot"] = b"250 ok %d qp %d\r\n" % (WHEN, qp)
    codes = await client.deliver(SENDER, list(recipients), b"x\r\n")
    assert codes[-1] == 250
    assert codes[1:-2] == [250] * len(recipients)


async def sends(served: Served, fake: FakeQmail, qp: int, *recipients: bytes) -> None:
    async with await RawClient.connect(served.port) as client:
        assert await client.code() == 220
        await deliver(client, fake, qp, *recipients)
        await client.command(b"QUIT")


async def metric(served: Served, name: str) -> int:
    _, text = await served.get("/metrics")
    found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.M)
    return sum(int(float(number)) for number in found)


async def leaked(served: Served, number: int) -> None:
    """Wait until the metric says so: other workers' numbers come a little later."""
    async with asyncio.timeout(PATIENCE):
        while await metric(served, "backstop_bounces_leaked_total") != number:
            await asyncio.sleep(0.05)


async def reading(served: Served, wanted: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await metric(served, "backstop_leakwatch_reading") != wanted:
            await asyncio.sleep(0.05)


async def followed(served: Served, path: Path) -> None:
    """Wait until every worker has this file open, and not one before it: of one
    that is renamed before that, nobody would hear."""
    async with asyncio.timeout(PATIENCE):
        for process in children(served) or [served.process.pid]:
            while str(path) not in opened(process):
                await asyncio.sleep(0.05)


async def tile(served: Served) -> str:
    """What the page says of leaks; empty if it has no such tile."""
    status, page = await served.get("/")
    assert status == 200
    found = re.search(r"<b>([\d,]+)</b> bounces this host still sent in 31 days", page)
    return html.unescape(found[1]) if found else ""


async def test_a_leak_is_logged_counted_and_shown(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    log = SendLog(tmp_path / "current")
    log.message(2, ("alice@example.test", NO_MAILBOX))  # before we were there
    async with serving(tmp_path, watching(settings, log.path)) as served:
        assert await tile(served) == "0"
        await sends(served, fake, 100, b"alice@example.test", b"bob@example.test")
        log.message(100, ("alice@example.test", GOOD), ("bob@example.test", NO_MAILBOX))
        # Not ours: the same qp, another sender; nobody's; a success.
        log.message(100, ("bob@example.test", NO_MAILBOX), sender=b"x@there.test")
        log.message(101, ("bob@example.test", NO_MAILBOX))
        line = await served.said("event=leak")
        for text in (
            "level=warning",
            f"sender={SENDER.decode()}",
            "recipient=bob@example.test",
            "rule=qmail",
            "qp=100",
            "no_mailbox_here_by_that_name",
        ):
            assert text in line
        await leaked(served, 1)
        assert await tile(served) == "1"
        await sends(served, fake, 102, b"alice@example.test")
        log.message(102, ("alice@example.test", NO_MAILBOX))
        await leaked(served, 2)
        assert await metric(served, "backstop_leakwatch_reading") == 1
    assert served.log.count("event=leak") == 2


async def test_what_is_in_the_log_at_the_end_is_told(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    log = SendLog(tmp_path / "current")
    log.write("status: local 0/10 remote 0/20")
    async with serving(tmp_path, watching(settings, log.path)) as served:
        await sends(served, fake, 100, b"alice@example.test")
        log.message(100, ("alice@example.test", NO_MAILBOX))
    assert served.log.count("event=leak") == 1


async def test_a_log_that_is_ahead_of_the_reply(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    """qmail-send is told of a message before qmail-smtpd says 250."""
    log = SendLog(tmp_path / "current")
    log.write("status: local 0/10 remote 0/20")
    async with serving(tmp_path, watching(settings, log.path)) as served:
        fake.gate = asyncio.Event()
        sending = asyncio.create_task(sends(served, fake, 9, b"alice@example.test"))
        async with asyncio.timeout(PATIENCE):
            while not fake.dots:
                await asyncio.sleep(0.01)
        log.message(9, ("alice@example.test", NO_MAILBOX))
        fake.gate.set()
        await sending
        await served.said("event=leak")


async def test_observe_mode_would_not_have_let_it_in(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    log = SendLog(tmp_path / "current")
    log.write("status: local 0/10 remote 0/20")
    observing = watching(settings, log.path, mode="observe")
    async with serving(tmp_path, observing) as served:
        await sends(served, fake, 7, b"nobody@example.test", b"bob@example.test")
        log.message(
            7, ("nobody@example.test", NO_MAILBOX), ("bob@example.test", NO_MAILBOX)
        )
        await served.said("event=leak")
    assert served.log.count("event=leak") == 1
    assert "recipient=bob@example.test" in await served.said("event=leak")


async def test_two_workers_each_find_their_own(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    log = SendLog(tmp_path / "current")
    log.write("status: local 0/10 remote 0/20")
    two = watching(settings, log.path, listen__workers=2)
    async with serving(tmp_path, two) as served:
        await served.said(" serves ", times=2)
        clients = await one_session_each(served)
        assert len(clients) == 2
        for number, client in enumerate(clients.values(), 200):
            await deliver(client, fake, number, b"alice@example.test")
            await client.close()
            log.message(number, ("alice@example.test", NO_MAILBOX))
        await leaked(served, 2)
        assert await tile(served) == "2"
    lines = [line for line in served.lines if "event=leak" in line]
    assert len({re.findall(r"session=(\w+)-", line)[0] for line in lines}) == 2
    assert sorted(re.findall(r" qp=(\d+)", line)[0] for line in lines) == ["200", "201"]


@pytest.mark.parametrize("workers", [1, 2])
async def test_rotation_by_rename(
    tmp_path: Path, settings: Settings, fake: FakeQmail, workers: int
) -> None:
    log = SendLog(tmp_path / "current")
    log.write("status: local 0/10 remote 0/20")
    several = watching(settings, log.path, listen__workers=workers)
    async with serving(tmp_path, several) as served:
        await served.said(" serves ", times=workers)
        for number in range(3):
            qp = 300 + 2 * number
            await sends(served, fake, qp, b"alice@example.test")
            await sends(served, fake, qp + 1, b"bob@example.test")
            # One before, one after, and nothing is waited for in between.
            log.message(qp, ("alice@example.test", NO_MAILBOX))
            log.path.rename(tmp_path / f"@{number}.s")
            log.message(qp + 1, ("bob@example.test", NO_MAILBOX))
            await leaked(served, 2 * number + 2)
            await followed(served, log.path)
    assert "leak watch" not in served.log
    assert served.log.count("event=leak") == 6


async def test_a_file_that_comes_later(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    log = SendLog(tmp_path / "qmail-send" / "current")
    async with serving(tmp_path, watching(settings, log.path)) as served:
        line = await served.said(f"leak watch: {log.path}: No such file")
        assert "level=warning" in line
        await reading(served, 0)
        assert await tile(served) == ""
        await sends(served, fake, 100, b"alice@example.test")
        log.path.parent.mkdir()
        log.message(100, ("alice@example.test", NO_MAILBOX))
        await served.said(f"leak watch: {log.path}: can be read now")
        await leaked(served, 1)
        await reading(served, 1)
    assert served.log.count("leak watch") == 2


async def test_a_file_that_may_not_be_read(
    public: Path, settings: Settings, fake: FakeQmail
) -> None:
    """The service's user is another one than its owner, where that can be."""
    log = SendLog(public / "current")
    log.write("status: local 0/10 remote 0/20")
    log.path.chmod(0o000)
    user: dict[str, object] = {"qmail__root": str(public / "host")}
    if os.geteuid() == 0:
        user |= {"process__user": str(NOBODY), "process__group": str(NOBODY)}
        user["process__keep_read_capability"] = False
    settings = watching(settings, log.path, **user)
    async with serving(public, settings, NOT_ALLOWED) as served:
        await served.said(f"leak watch: {log.path}: Permission denied")
        await reading(served, 0)
        await sends(served, fake, 100, b"bob@example.test")
        log.path.chmod(0o644)
        await served.said("can be read now")
        log.message(100, ("bob@example.test", NO_MAILBOX))
        await leaked(served, 1)
    assert served.log.count("Permission denied") == 1
