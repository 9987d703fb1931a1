"""Memory: ``python -m bench.memory``.

What an idle session holds, and by how much the front door grows while fifty
messages of 20 MB pass through it at once; and how fast one of them passes alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.cpu import Peak
from bench.peers import Running, peer
from bench.side_by_side import circumstances
from bench.tools import build, load, median, scratch, write_out
from bench.workloads import measure, workload

_SIZE = 20_000_000
_MESSAGES = 50


def idle(directory: Path) -> float:
    """KiB of an idle session."""
    with Running(peer("backstop"), directory) as running:
        return measure(running, workload("hold"), seconds=0).cost


def growth(directory: Path, size: int = _SIZE, messages: int = _MESSAGES) -> float:
    """KiB by which the peak exceeds the rest, large messages at once."""
    with Running(peer("backstop"), directory) as running:
        load(running.port, "accept", count=200)
        time.sleep(0.5)
        before = running.tree.memory()
        peak = Peak(running.tree)
        peak.start()
        seen = load(running.port, "accept", count=messages, clients=messages, size=size)
        highest = peak.stop()
    if seen.good != messages:
        raise RuntimeError(f"only {seen.good} passed: {seen.first_error}")
    return highest - before


def throughput(directory: Path) -> float:
    """MB a second of one session at a time, in large messages."""
    with Running(peer("backstop"), directory) as running:
        seen = load(running.port, "accept", count=10, clients=1, size=_SIZE)
    if seen.good != 10:
        raise RuntimeError(f"only {seen.good} passed: {seen.first_error}")
    return 10 * _SIZE / seen.seconds / 1e6


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description="memory of the front door")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = range(parser.parse_args().rounds)
    build()
    with scratch() as directory:
        sessions = [idle(directory / f"idle-{number}") for number in rounds]
        grown = [growth(directory / f"large-{number}") for number in rounds]
        speed = [throughput(directory / f"one-{number}") for number in rounds]
    print(f"an idle session: {median(sessions):.1f} KiB")
    print(f"fifty messages of 20 MB at once: {median(grown) / 1024:.1f} MiB in all")
    print(f"one session: {median(speed):.0f} MB a second")
    about = circumstances([peer("backstop")])
    write_out("memory", {"about": about, "idle KiB": sessions, "growth KiB": grown})


if __name__ == "__main__":
    main()
