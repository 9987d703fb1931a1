"""A dictionary attack: ``python -m bench.flood``.

200 clients at once ask for 100,000 unknown recipients, beside one client that
sends mail: once with limits that are never reached, so that every guess is
answered, and once as configured by default, where guessers are slowed down and
refused.  Fails if the backend was bothered by a guesser, or the good client was
not served, or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import smtplib
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.cpu import Peak
from bench.peers import Running, peer
from bench.side_by_side import circumstances
from bench.tools import DOMAIN, build, load, median, scratch, user_name, write_out

CLIENTS = 200
_EACH = 20  # recipients of a session
_GOOD = "127.9.9.9"
_GROWTH_KIB = 16 * 1024


@dataclass
class Flood:
    """What came of one attack; memory in KiB, times in milliseconds."""

    guesses: int
    seconds: float
    answers: dict[str, int]
    served: int = 0
    failed: int = 0
    median_ms: float = 0.0
    slowest_ms: float = 0.0
    before: float = 0.0
    peak: float = 0.0
    backend_connections: int = 0
    backend_messages: int = 0

    @property
    def trouble(self) -> str:
        """What is not as it should be, in words."""
        if self.backend_messages != self.served:
            return f"{self.served} messages sent, {self.backend_messages} arrived"
        if self.backend_connections > 1 + self.failed:
            return f"{self.backend_connections} connections to the backend"
        if self.failed or not self.served:
            return f"the good client: {self.served} served, {self.failed} not"
        if self.peak - self.before > _GROWTH_KIB:
            return f"memory grew from {self.before:.0f} to {self.peak:.0f} KiB"
        return ""


@dataclass
class GoodClient(threading.Thread):
    """Sends one message after the other until it is told to stop."""

    port: int
    times: list[float] = field(default_factory=list)
    failed: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()

    # A dataclass with equality is not hashable, a thread has to be.
    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Until :meth:`stop`; at least one."""
        while True:
            began = time.perf_counter()
            try:
                self.send()
            except (OSError, smtplib.SMTPException):
                self.failed += 1
            else:
                self.times.append((time.perf_counter() - began) * 1000)
            if self._over.wait(0.02):
                return

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()

    def send(self) -> None:
        """One message."""
        source = (_GOOD, 0)
        with smtplib.SMTP(
            "127.0.0.1", self.port, "good.test", 30, source_address=source
        ) as smtp:
            to = f"{user_name(7)}@{DOMAIN}"
            smtp.sendmail("me@good.test", [to], "Subject: x\r\n\r\nhello\r\n")


def flood(directory: Path, guesses: int, *, defended: bool, seconds: int) -> Flood:
    """One attack: so many guesses, or for so many seconds if ``defended``."""
    limits = "" if defended else None
    with Running(peer("backstop"), directory, limits=limits) as running:
        good = GoodClient(running.port)
        good.send()  # one connection to the backend is there from now on
        before = running.sink.counts()
        good.start()
        memory = running.tree.memory()
        peak = Peak(running.tree, 0.2)
        peak.start()
        if defended:
            seen = asyncio.run(_attack(running.port, seconds))
        else:
            seen = _everything(running.port, guesses)
        good.stop()
        highest, after = peak.stop(), running.sink.counts()
    times = good.times
    seen.served, seen.failed = len(times), good.failed
    seen.median_ms, seen.slowest_ms = median(times), max(times, default=0.0)
    seen.before, seen.peak = memory, highest
    seen.backend_connections = after.connections - before.connections - 1
    seen.backend_messages = after.messages - before.messages
    return seen


def _everything(port: int, guesses: int) -> Flood:
    """Every guess is answered."""
    values = {"clients": CLIENTS, "sources": CLIENTS, "recipients": _EACH}
    seen = load(port, "dict", count=guesses // _EACH, **values)
    if seen.failed:
        raise RuntimeError(f"{seen.failed} sessions failed: {seen.first_error}")
    return Flood(seen.refused, seen.seconds, dict(seen.codes))


async def _attack(port: int, seconds: int) -> Flood:
    """Guess for so long, as fast as it is answered; connect again at once."""
    answers: Counter[str] = Counter()
    began = time.monotonic()

    async def client(number: int) -> None:
        source = f"127.3.{number // 250}.{number % 250 + 1}"
        while True:
            try:
                await _guess(port, source, answers)
            except (OSError, EOFError):
                answers["cut off"] += 1

    tasks = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    guesses = answers["550"]
    return Flood(guesses, time.monotonic() - began, dict(answers))


async def _guess(port: int, source: str, answers: Counter[str]) -> None:
    """One session, until it is ended."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(source, 0)
    )
    try:
        code = (await reader.readline())[:3].decode()
        if code != "220":
            answers[f"{code} at the door"] += 1
            return
        writer.write(b"MAIL FROM:<>\r\n")
        await reader.readline()
        for number in range(1000):
            writer.write(b"RCPT TO:<guess%d@%s>\r\n" % (number, DOMAIN.encode()))
            code = (await reader.readline())[:3].decode()
            answers[code or "cut off"] += 1
            if code != "550":
                return
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description="a dictionary attack")
    parser.add_argument("--guesses", type=int, default=100_000)
    parser.add_argument(
        "--seconds", type=int, default=20, help="against the limits of every day"
    )
    given = parser.parse_args()
    build()
    with scratch() as directory:
        found = {
            "answered": flood(
                directory / "all", given.guesses, defended=False, seconds=0
            ),
            "defended": flood(
                directory / "few", 0, defended=True, seconds=given.seconds
            ),
        }
    heads = ("guesses answered", "seconds", "KiB before", "KiB at most")
    goods = ("good client: messages", "median ms", "slowest ms")
    print(f"| | {' | '.join(heads + goods)} |\n|---|{'--:|' * 7}")
    for name, seen in found.items():
        print(
            f"| {name} | {seen.guesses} | {seen.seconds:.1f} | {seen.before:.0f} |"
            f" {seen.peak:.0f} | {seen.served} | {seen.median_ms:.1f} |"
            f" {seen.slowest_ms:.1f} |"
        )
    print(f"\nwhat guessers were told by default: {found['defended'].answers}")
    about = circumstances([peer("backstop")])
    results = {name: asdict(seen) for name, seen in found.items()}
    write_out("flood", {"about": about, **results})
    troubles = [f"{name}: {f.trouble}" for name, f in found.items() if f.trouble]
    if troubles:
        sys.exit("flood: " + "; ".join(troubles))


if __name__ == "__main__":
    main()
