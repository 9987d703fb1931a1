"""In front of qmail-smtpd, against directly: ``python -m bench.direct``.

Messages a second of ten clients with one message each, when tcpserver starts a
process for each connection.  The front door keeps its connections, so most of
those processes need not be started.

The backend is a stand-in that answers as qmail-smtpd does and starts one more
process a message, as for qmail-queue; ``--real`` takes the installed qmail
instead (root; it runs beside itself, the machine's own is not touched), whose
queue waits for the disk.  Nothing is pinned: it is one machine, as in life.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bench.cpu import Tree
from bench.peers import Running, peer
from bench.side_by_side import circumstances
from bench.tools import (
    DOMAIN,
    SINK,
    build,
    free_port,
    load,
    median,
    say_if_busy,
    scratch,
    user_name,
    wait_for_greeting,
    write_out,
)

CLIENTS = 10
_USERS = 20


def missing() -> str:
    """What keeps this from running; ``""`` if nothing."""
    if shutil.which("tcpserver") is None:
        return "tcpserver is not installed: apt-get install ucspi-tcp"
    return ""


@contextlib.asynccontextmanager
async def stand_in() -> AsyncIterator[int]:
    """tcpserver with a process for each connection; gives its port."""
    port = free_port()
    where = ["127.0.0.1", str(port)]
    flags = ["-H", "-R", "-l", "0", "-c", "100"]
    tree = Tree(["tcpserver", *flags, *where, str(SINK), "-i", "-q"])
    try:
        wait_for_greeting(port, tree)
        yield port
    finally:
        tree.close()


@contextlib.asynccontextmanager
async def real(directory: Path) -> AsyncIterator[int]:
    """The installed qmail on a host of its own; gives qmail-smtpd's port."""
    from tests.live.realqmail import Host, running

    users = tuple(map(user_name, range(_USERS)))
    control = dict.fromkeys(("me", "rcpthosts", "locals"), f"{DOMAIN}\n")
    maildirs = tuple(f"home/{name}/Maildir" for name in users)
    async with running(directory, Host(control, users, {}, maildirs)) as qmail:
        yield qmail.port


def rate(port: int, seconds: int) -> float:
    """Messages a second."""
    values = {"clients": CLIENTS, "table": _USERS, "size": 2048}
    load(port, "accept", count=5 * CLIENTS, **values)
    seen = load(port, "accept", seconds=seconds, **values)
    if seen.failed:
        raise RuntimeError(f"{seen.failed} failed: {seen.first_error}")
    return seen.rate


async def rounds(count: int, seconds: int, of_real: bool) -> dict[str, list[float]]:
    """The rates, in turn."""
    ways: dict[str, int | None] = {"kept connections": None, "pool = 0": 0}
    found: dict[str, list[float]] = {"directly": [], **{way: [] for way in ways}}
    with scratch() as directory:
        for number in range(count):
            place = _directory(directory / f"qmail-{number}")
            qmail = real(place) if of_real else stand_in()
            async with qmail as port:
                found["directly"].append(rate(port, seconds))
                for way, pool in ways.items():
                    front = directory / f"front-{number}-{pool}"
                    found[way].append(_through(front, port, pool, seconds))
    return found


def _through(directory: Path, backend: int, pool: int | None, seconds: int) -> float:
    """Messages a second with the front door in between."""
    door = peer("backstop")
    with Running(door, directory, where="", backend=backend, pool=pool) as running:
        return rate(running.port, seconds)


def _directory(path: Path) -> Path:
    """A new one, that qmail's users may pass."""
    path.mkdir()
    path.chmod(0o755)
    return path


def _why_not(of_real: bool) -> str:
    if not of_real:
        return missing()
    from tests.live import realqmail

    return realqmail.missing()


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description="in front of qmail, and directly")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--real", action="store_true", help="the installed qmail")
    given = parser.parse_args()
    if why := _why_not(given.real):
        sys.exit(f"direct: {why}")
    build()
    say_if_busy()
    found = asyncio.run(rounds(given.rounds, given.seconds, given.real))
    directly = median(found["directly"])
    print("| way | messages a second | ratio |\n|---|--:|--:|")
    for way, rates in found.items():
        print(f"| {way} | {median(rates):.0f} | {median(rates) / directly:.2f} |")
    name = "direct-real" if given.real else "direct"
    about = circumstances([peer("backstop")])
    write_out(name, {"about": about, "cores": os.cpu_count(), "rates": found})


if __name__ == "__main__":
    main()
