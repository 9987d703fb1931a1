"""The units of deploy/ under a systemd that has booted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.live.booted import PREFIX, ROOT, Machine, booted
from tests.live.process import PATIENCE
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

pytestmark = pytest.mark.timeout(300)

UNITS = ROOT / "deploy/systemd"
PLACE = "/etc/systemd/system"
CONFIG = "/etc/backstop/config.toml"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
READ = "0" * 15 + "4"
NONE = "0" * 16

# Homes that only their owners may search, as on a real host.  The machine may have
# a qmail, and the users: what is made here is made in its copy.
HOST = """
id -u backstop || useradd --system --no-create-home --shell /usr/sbin/nologin backstop
rm -rf /var/qmail
mkdir -p /var/qmail/control /var/qmail/alias
id -u alias || useradd -d /var/qmail/alias alias
chown alias /var/qmail/alias
echo mx.example.test >/var/qmail/control/me
echo example.test >/var/qmail/control/rcpthosts
echo example.test >/var/qmail/control/locals
useradd -m backstop-alice
cd /home/backstop-alice
mkdir -p Maildir/cur Maildir/new Maildir/tmp
echo ./Maildir/ >.qmail
echo ./Maildir/ >.qmail-list
chown -R backstop-alice .
chmod 600 .qmail*
chmod 700 .
"""
ALICE, LIST, NO = (
    b"backstop-alice" + extension + b"@example.test"
    for extension in (b"", b"-list", b"-no")
)
SETTINGS = """
[listen]
addresses = ["0.0.0.0:25"]
[qmail]
default_delivery = "./Maildir/"
[backend]
address = "127.0.0.1:2525"
[[rules]]
type = "qmail"
[status]
address = "127.0.0.1:8025"
history = "/var/lib/backstop/history"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with booted(tmp_path) as made:
        made.must("sh", "-e", given=HOST)
        made.write(CONFIG, SETTINGS)
        for name in ("backstop.service", "backstop.socket"):
            made.write(f"{PLACE}/{name}", (UNITS / name).read_text())
        made.must("systemctl", "daemon-reload")
        yield made


@pytest.fixture
async def fake(machine: Machine) -> AsyncIterator[FakeQmail]:
    backend = FakeQmail(listener=machine.listening(2525))
    await backend.start()
    yield backend
    await backend.stop()


async def until(condition: Callable[[], bool], machine: Machine) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.1)
    assert condition(), machine.journal("backstop")


async def asked(machine: Machine, *recipients: bytes) -> list[int]:
    async with await RawClient.over(await machine.connect("127.0.0.1", 25)) as client:
        assert await client.code() == 220
        await client.command(b"HELO client.test")
        return (await client.deliver(b"", [*recipients], MESSAGE))[1:-2]


def main_process(machine: Machine) -> str:
    return machine.property("backstop", "MainPID")


def rights(machine: Machine) -> dict[str, str]:
    text = machine.must("cat", f"/proc/{main_process(machine)}/status")
    return dict(re.findall(r"^(\w+):\s*(.*?)\s*$", text, re.M))


async def test_its_life(machine: Machine, fake: FakeQmail) -> None:
    """Started, reloaded, died, stopped; it serves as soon as systemctl returns."""
    machine.must("systemctl", "enable", "--now", "backstop")
    assert machine.property("backstop", "StatusText") == "serves 0.0.0.0:25"
    assert await asked(machine, ALICE, LIST, NO, b"no@example.test") == [
        *(250, 250, 550, 550)
    ]
    (mail,) = fake.received
    assert mail.message.endswith(MESSAGE)
    status = rights(machine)
    assert status["CapEff"] == READ
    assert {status[name] for name in ("CapInh", "CapAmb")} == {NONE}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

    machine.must("systemctl", "reload", "backstop")
    await until(
        lambda: "configuration reloaded" in machine.journal("backstop"), machine
    )
    machine.write(CONFIG, SETTINGS.replace('"qmail"', '"qmial"'))
    assert machine.run("systemctl", "reload", "backstop").returncode
    assert 'rules[1].type = "qmial": unknown type' in machine.journal("backstop")
    machine.must("systemctl", "kill", "--kill-whom=main", "-s", "HUP", "backstop")
    await until(lambda: "level=error" in machine.journal("backstop"), machine)
    trouble = machine.journal("backstop", "-p", "warning", "-o", "cat")
    assert "\nlevel=error event=notice" in f"\n{trouble}"
    assert "level=info" not in trouble
    assert await asked(machine, ALICE, NO) == [250, 550]

    machine.write(CONFIG, SETTINGS)
    machine.must("kill", "-KILL", main_process(machine))
    await until(lambda: machine.property("backstop", "NRestarts") == "1", machine)
    await until(
        lambda: machine.property("backstop", "ActiveState") == "active", machine
    )
    assert await asked(machine, ALICE, NO) == [250, 550]

    machine.must("systemctl", "stop", "backstop")
    assert machine.property("backstop", "Result") == "success"
    assert machine.property("backstop", "ActiveState") == "inactive"
    assert "text=stopped" in machine.journal("backstop")
    state = ("stat", "-c", "%U %n", "/var/lib/backstop/history")
    assert machine.must(*state).startswith("backstop ")

    machine.write(CONFIG, SETTINGS.replace('"qmail"', '"qmial"'))
    assert machine.run("systemctl", "start", "backstop").returncode
    # For good: it could not the next time.
    assert machine.property("backstop", "SubState") == "failed"


async def test_a_worker_that_hangs(machine: Machine, fake: FakeQmail) -> None:
    """The watchdog, with a shorter time than the unit's."""
    workers = "Environment=BACKSTOP_LISTEN__WORKERS=2\n"
    short = f"[Service]\nWatchdogSec=3\nRestartSec=1\n{workers}"
    machine.write(f"{PLACE}/backstop.service.d/short.conf", short)
    machine.must("systemctl", "daemon-reload")
    machine.must("systemctl", "start", "backstop")
    children = machine.must("pgrep", "-P", main_process(machine)).split()
    assert len(children) == 2
    machine.must("kill", "-STOP", children[0])
    await until(lambda: machine.property("backstop", "NRestarts") != "0", machine)
    assert "Watchdog timeout" in machine.journal("backstop")
    await until(
        lambda: machine.property("backstop", "ActiveState") == "active", machine
    )
    assert await asked(machine, ALICE, NO) == [250, 550]


async def test_sockets_of_systemd(machine: Machine, fake: FakeQmail) -> None:
    """As backstop.socket says: without the right to bind."""
    unit = (UNITS / "backstop.service").read_text()
    without = unit.replace("CAP_NET_BIND_SERVICE ", "")
    assert without.count("CAP_") == unit.count("CAP_") - 2
    machine.write(f"{PLACE}/backstop.service", without)
    machine.must("systemctl", "daemon-reload")
    machine.must("systemctl", "enable", "--now", "backstop.socket")
    assert machine.property("backstop", "ActiveState") == "inactive"
    # The first call starts it.
    assert await asked(machine, ALICE, LIST, NO) == [250, 250, 550]
    assert machine.property("backstop", "StatusText") == "serves 0.0.0.0:25 [::]:25"
    status = rights(machine)
    assert status["CapEff"] == READ
    assert {status[name] for name in ("CapInh", "CapAmb")} == {NONE}
    # Who calls while nobody serves waits.
    machine.must("systemctl", "stop", "backstop")
    async with await RawClient.over(await machine.connect("::1", 25)) as client:
        assert await client.code() == 220


COMMAND = f"""
[listen]
addresses = ["0.0.0.0:25"]
[qmail]
default_delivery = "./Maildir/"
[backend]
command = ["/bin/sh", "-c", '''
    /var/qmail/bin/qmail-queue /var/qmail/queue/mark && id -nu >/var/qmail/queue/id/nu
    exec /usr/bin/env python3 -I {PREFIX}/project/tests/support/standin.py \\
        /var/qmail/queue/mails
''']
[[rules]]
type = "qmail"
"""
# touch(1) stands for qmail-queue: set-id, of an account that alone may write there.
QUEUE = """
mkdir -p /var/qmail/bin /var/qmail/queue/mails /var/qmail/queue/id
chmod 777 /var/qmail/queue/mails /var/qmail/queue/id
chown alias /var/qmail/queue
cp /usr/bin/touch /var/qmail/bin/qmail-queue
chown alias /var/qmail/bin/qmail-queue
chmod 4711 /var/qmail/bin/qmail-queue
"""


async def test_the_drop_in_for_a_command(machine: Machine) -> None:
    machine.must("sh", "-e", given=QUEUE)
    machine.write(CONFIG, COMMAND)
    drop_in = (UNITS / "command.conf").read_text()
    machine.write(f"{PLACE}/backstop.service.d/command.conf", drop_in)
    machine.must("systemctl", "daemon-reload")
    machine.must("systemctl", "start", "backstop")
    assert await asked(machine, ALICE, NO) == [250, 550]
    assert machine.must("stat", "-c", "%U", "/var/qmail/queue/mark") == "alias"
    assert machine.must("cat", "/var/qmail/queue/id/nu") == "backstop"
    found = machine.must("sh", "-c", "cat /var/qmail/queue/mails/mail-*")
    assert "Tbackstop-alice@example.test" in found
