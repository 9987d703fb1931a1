"""``backstop report`` on large logs: ``python -m bench.report``.

Writes logs as the service and qmail-send would (mostly guessed recipients, as on
a host that is found), runs the command on them, and prints MB a second, processor
time and the most memory it had.  ``--distinct`` makes every guessed recipient
another one, which is the worst case for its tables.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bench.tools import scratch
from proxy.observe.events import Disconnected, MessageEnded, RecipientDecided
from proxy.observe.lines import Form, Formatter

_BEGIN = 1_795_398_287
_ONE_IN = 10  # sessions that bring mail; the others guess
_MB = 1_000_000
_UNKNOWN = "no mailbox here by that name"


class Writer:
    """One day of a host's logs, as many bytes of it as are wanted."""

    def __init__(self, form: Form, *, distinct: bool) -> None:
        self._line = Formatter(form).line
        self._distinct = distinct
        self._random = random.Random(7)
        self._number = 0
        self._delivery = 0

    def session(self) -> tuple[str, str]:
        """Our lines and qmail-send's of one session."""
        self._number += 1
        number, choose = self._number, self._random
        when = _BEGIN + number * 0.01
        client = f"198.51.{choose.randrange(100)}.{choose.randrange(250)}"
        name = f"{number:x}-1"
        guess = number % _ONE_IN != 0
        known = f"user{choose.randrange(10_000):05}@example.test"
        unknown = number if self._distinct else int(choose.paretovariate(0.5))
        decided = RecipientDecided(
            session=name,
            client=client,
            helo=b"mail.there.test",
            sender=b"somebody@there.test",
            recipient=f"guess{unknown}@example.test".encode()
            if guess
            else known.encode(),
            verdict="reject" if guess else "accept",
            observed="",
            undecided=False,
            rule="qmail",
            reason=_UNKNOWN if guess else "delivered",
            reply="550 5.1.1 no such recipient here" if guess else "250 2.1.5 ok",
        )
        ours = self._line(decided, when)
        theirs = ""
        if not guess:
            reply = f"250 ok {int(when)} qp {number % 30_000 + 2}"
            ended = MessageEnded(
                *(name, client, decided.sender, 1, 2300, "accepted", reply, "", True),
                *(0.02, "127.0.0.1:2525"),
            )
            ours += self._line(ended, when)
            theirs = self._queued(known, when)
        end = Disconnected(name, client, "quit", 0.3, 1, int(guess), int(not guess))
        return ours + self._line(end, when), theirs

    def _queued(self, recipient: str, when: float) -> str:
        self._delivery += 1
        number, qp = self._delivery, self._number % 30_000 + 2
        message = 400_000 + number % 5000
        at = f"@{(1 << 62) + 10 + int(when):016x}{0:08x} "
        failed = number % 200 == 0
        report = "failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/"
        lines = (
            f"new msg {message}",
            f"info msg {message}: bytes 2391 from <somebody@there.test> qp {qp}"
            " uid 64011",
            f"starting delivery {number}: msg {message} to local {recipient}",
            "status: local 1/10 remote 0/20",
            f"delivery {number}: {report if failed else 'success: did_1+0+0/'}",
            "status: local 0/10 remote 0/20",
            *((f"bounce msg {message} qp {qp + 1}",) if failed else ()),
            f"end msg {message}",
        )
        return "".join(f"{at}{line}\n" for line in lines)


def write(
    ours: BinaryIO, theirs: BinaryIO, form: Form, size: int, *, distinct: bool
) -> None:
    """At least ``size`` bytes of our log, and qmail-send's that belongs to it."""
    writer = Writer(form, distinct=distinct)
    written = 0
    while written < size:
        pairs = [writer.session() for _ in range(2000)]
        data = "".join(own for own, _ in pairs).encode()
        written += ours.write(data)
        theirs.write("".join(other for _, other in pairs).encode())


def measure(arguments: list[str]) -> tuple[float, float, int, dict[str, object]]:
    """Seconds, seconds of processor, KiB at most, what it found."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    command = [sys.executable, "-c", _PEAK, "report", "--json", *arguments]
    ended = subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(ended.stderr.split()[-1])
    return seconds, used, peak, json.loads(ended.stdout)


_PEAK = """
import resource, sys
from proxy.cli import app
try:
    app(prog_name="backstop")
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def _cases(directory: Path, form: Form, size: int, distinct: bool) -> Iterator[str]:
    ours, theirs = directory / "ours", directory / "qmail"
    with ours.open("wb") as one, theirs.open("wb") as other:
        write(one, other, form, size, distinct=distinct)
    sizes = [os.path.getsize(path) / _MB for path in (ours, theirs)]
    what = f"{form}{', every recipient another' if distinct else ''}"
    for name, arguments, megabytes in (
        (what, [str(ours)], sizes[0]),
        (f"{what}, joined", [str(ours), "--qmail-log", str(theirs)], sum(sizes)),
    ):
        seconds, used, peak, found = measure(arguments)
        counts = found["recipients"]
        assert isinstance(counts, dict)
        yield (
            f"{name:44} {megabytes:7.0f} MB {seconds:6.1f} s {megabytes / used:6.0f}"
            f" MB/s of processor {peak / 1024:5.0f} MiB  {counts['refused']} refused"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--form", choices=("logfmt", "json", "bare"), default="logfmt")
    parser.add_argument("--distinct", action="store_true")
    given = parser.parse_args()
    with scratch() as directory:
        for line in _cases(
            directory, given.form, given.megabytes * _MB, given.distinct
        ):
            print(line, flush=True)


if __name__ == "__main__":
    main()
