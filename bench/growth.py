"""Does the cost stay the same when there is more? ``python -m bench.growth``

The cost of a refused session while 10, 1,000 and 5,000 others are open and
idle; and what two workers do compared with one.

Workers are compared by what the busiest of them needs for a session, so that
the load generator, which needs a core too, does not bound the result: with two
workers that share evenly it is one half.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from bench.cpu import Times
from bench.peers import Running, peer
from bench.side_by_side import circumstances
from bench.tools import build, held, load, median, say_if_busy, scratch, write_out
from bench.workloads import measure, workload

OPEN = (10, 1000, 5000)


def cost_with_open(directory: Path, count: int, seconds: int) -> float:
    """Microseconds of a refused session while ``count`` others are open."""
    with (
        Running(peer("backstop"), directory) as running,
        held(running.port, count) as n,
    ):
        if n != count:
            raise RuntimeError(f"only {n} of {count} sessions could be opened")
        return measure(running, workload("reject"), seconds=seconds).cost


class Workers(NamedTuple):
    """``busiest`` is microseconds of one worker for each session of all."""

    serving: int
    busiest: float
    rate: float


def workers(directory: Path, count: int, seconds: int) -> Workers:
    """Refused sessions with ``count`` workers, on all cores."""
    with Running(peer("backstop"), directory, where="", workers=count) as running:
        load(running.port, "reject", count=500)
        before = running.tree.each()
        seen = load(running.port, "reject", seconds=seconds, clients=32)
        nothing = Times(0, 0)
        used = [
            times.since(before.get(pid, nothing)).total
            for pid, times in running.tree.each().items()
        ]
    # A parent that only supervises serves nothing.
    serving = sum(each > 0.05 * max(used) for each in used)
    return Workers(serving, max(used) / seen.good, seen.rate)


def _print_open(costs: dict[int, list[float]]) -> None:
    first = median(costs[OPEN[0]])
    print("| open sessions | us a refused session | ratio |\n|--:|--:|--:|")
    for count, found in costs.items():
        print(f"| {count} | {median(found):.0f} | {median(found) / first:.2f} |")


def _print_workers(one: list[Workers], two: list[Workers]) -> None:
    if two[0].serving < 2:
        print("\nworkers: this version serves with one process")
        return
    for name, found in (("one worker", one), ("two workers", two)):
        busiest = median(each.busiest for each in found)
        rate = median(each.rate for each in found)
        print(f"\n{name}: {busiest:.0f} us a session on the busiest, {rate:.0f}/s")
    gain = median(each.busiest for each in one) / median(each.busiest for each in two)
    print(f"\ntwo workers do {gain:.2f} times as much as one")


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description="cost by open sessions and workers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    given = parser.parse_args()
    build()
    say_if_busy()
    costs: dict[int, list[float]] = {count: [] for count in OPEN}
    by_workers: dict[int, list[Workers]] = {1: [], 2: []}
    with scratch() as directory:
        for number in range(given.rounds):
            for count, found in costs.items():
                place = directory / f"open-{count}-{number}"
                found.append(cost_with_open(place, count, given.seconds))
            for count, rows in by_workers.items():
                place = directory / f"workers-{count}-{number}"
                rows.append(workers(place, count, given.seconds))
    _print_open(costs)
    _print_workers(by_workers[1], by_workers[2])
    about = circumstances([peer("backstop")])
    write_out("growth", {"about": about, "open": costs, "workers": by_workers})


if __name__ == "__main__":
    main()
