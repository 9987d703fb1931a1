"""The pictures of the documentation, made from the running program.

Run as ``python -m bench.pictures``; writes docs/pictures.  Wants chromium and
chromium-driver for the status page.  A demonstration host is laid out, a front door
is started before a stand-in for qmail-smtpd, and clients guess.
"""

from __future__ import annotations

import asyncio
import io
import os
import pty
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text
from selenium import webdriver

from proxy.demo import lay_out
from tests.live.process import Served, Settings, environment, serving, write_config
from tests.live.test_page import QUIET
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

PLACE = Path(__file__).parent.parent / "docs/pictures"
COLUMNS = 100
SESSIONS = 60
NAMES = (b"info", b"sales", b"admin", b"webmaster", b"john", b"alice", b"test")


async def main() -> None:
    """Make them all."""
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lay_out(work / "host")
        fake = FakeQmail()
        await fake.start()
        settings: Settings = {
            "listen.hostname": "mx.example.test",
            "qmail.root": str(work / "host"),
            "backend.address": f"127.0.0.1:{fake.port}",
            "limits.harvest_defence": False,
        }
        async with serving(work, settings) as served:
            await guesses(served.port)
            await served.said("event=disconnect", SESSIONS)
            pages(served.status)
            await terminals(served, settings, work)
        await fake.stop()


async def guesses(port: int) -> None:
    """Clients that try names, some of which exist."""
    chance = random.Random(1)
    for _ in range(SESSIONS):
        source = f"127.0.0.{chance.choice([2, 2, 2, 3, 4, 9])}"
        async with await RawClient.connect(port, source) as client:
            await client.reply()
            await client.command(b"EHLO client.example.net")
            await client.command(b"MAIL FROM:<someone@example.net>")
            for _ in range(chance.randint(1, 8)):
                name = chance.choice(NAMES)
                await client.command(b"RCPT TO:<%s@example.test>" % name)
            await client.command(b"QUIT")


def pages(url: str) -> None:
    """The status page: a desk in the light, a phone in the dark."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in QUIET:
        options.add_argument(word)
    driver = shutil.which("chromedriver")
    browser = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=driver)
    )
    for name, width, height, scheme in (
        ("status-desktop", 1100, 1000, "light"),
        ("status-phone", 390, 1000, "dark"),
    ):
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": True}
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(url)
        browser.save_screenshot(str(PLACE / f"{name}.png"))
    browser.quit()


async def terminals(served: Served, settings: Settings, work: Path) -> None:
    """The commands, as a terminal shows them."""
    log = work / "backstop.log"
    log.write_text("".join(f"{line}\n" for line in served.lines))
    status = served.status.removeprefix("http://").rstrip("/")
    keys = {
        **settings,
        "listen.addresses": [f"127.0.0.1:{served.port}"],
        "status.address": status,
    }
    config = str(write_config(work / "terminal.toml", keys))
    asked = ("alice@example.test", "nobody@example.test", "bob@elsewhere.test")
    for name, arguments in {
        "explain": ("explain", "-c", config, *asked),
        "doctor": ("doctor", "-c", config),
        "report": ("report", str(log)),
    }.items():
        shown = await asyncio.to_thread(on_a_terminal, arguments)
        shown = shown.replace(str(work), "")
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        console.print(Text.from_ansi(shown))
        title = f"backstop {arguments[0]}"
        picture = console.export_svg(title=title)
        # Its fonts would come from elsewhere.
        picture = re.sub(r"@font-face \{.*?\n    \}\n", "", picture, flags=re.S)
        (PLACE / f"{name}.svg").write_text(picture)


def on_a_terminal(arguments: tuple[str, ...]) -> str:
    """What a command writes to a terminal, with its colours."""
    ours, its = pty.openpty()
    more = {"COLUMNS": str(COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *arguments],
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
        env=environment(more),
    )
    os.close(its)
    found = b""
    try:
        while block := os.read(ours, 65536):
            found += block
    except OSError:  # Linux, when the other side is closed
        pass
    process.wait()
    os.close(ours)
    return found.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    asyncio.run(main())
