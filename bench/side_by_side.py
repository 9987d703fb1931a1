"""The front door and its peers on the same task: ``python -m bench.side_by_side``.

Rounds are interleaved and start every server afresh, so that a machine that is
slow for a while is slow for all.  Only the ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.peers import PEERS, Peer, Running, peer
from bench.picture import Group, bars
from bench.tools import build, median, say_if_busy, scratch, write_out
from bench.workloads import WORKLOADS, Row, Workload, measure, workload

Results = dict[str, dict[str, list[Row]]]
"""Rows by peer and workload."""

_AGAINST = ("nginx", "postfix")
_QUIET = 0.2  # cores that others may use
_ATTEMPTS = 4


class Plan(NamedTuple):
    """What is run."""

    peers: Sequence[Peer]
    workloads: Sequence[Workload]
    rounds: int
    seconds: int
    clients: int = 16
    awake: bool = False


def run(plan: Plan) -> Results:
    """All rounds."""
    results: Results = {each.name: {} for each in plan.peers}
    with scratch() as directory:
        for number in range(plan.rounds):
            for each in plan.peers:
                place = directory / f"{each.name}-{number}"
                with Running(each, place) as running:
                    _one_round(plan, each, running, results[each.name], number + 1)
    return results


def _one_round(
    plan: Plan, which: Peer, running: Running, rows: dict[str, list[Row]], number: int
) -> None:
    for each in plan.workloads:
        if each.name in which.skips:
            continue
        row = _undisturbed(plan, running, each)
        rows.setdefault(each.name, []).append(row)
        unit = "KiB" if each.name == "hold" else "us"
        print(
            f"{number} {which.name:9} {each.name:10} {row.cost:8.1f} {unit}"
            f" {row.rate:8.0f}/s  others {row.others:.2f} {row.trouble}",
            file=sys.stderr,
        )


def _undisturbed(plan: Plan, running: Running, which: Workload) -> Row:
    """The row; taken again while others keep the machine busy, some times."""
    rows: list[Row] = []
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(attempt)
        row = measure(
            running,
            which,
            seconds=plan.seconds,
            clients=plan.clients,
            awake=plan.awake,
        )
        rows.append(row)
        if row.others < _QUIET:
            break
    return min(rows, key=lambda each: each.others)


def cost(results: Results, name: str, which: str) -> float:
    """The median cost; not a number where nothing was measured."""
    rows = results.get(name, {}).get(which, [])
    return median(row.cost for row in rows if not row.trouble)


def table(results: Results, workloads: Sequence[Workload]) -> str:
    """Medians and ratios, in Markdown."""
    names = list(results)
    against = [n for n in _AGAINST if n in names and "backstop" in names]
    head = ["processor us per", *names, *(f"backstop / {n}" for n in against)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for each in workloads:
        costs = {name: cost(results, name, each.name) for name in names}
        cells = [
            _number(costs[name], 1 if each.name == "hold" else 0) for name in names
        ]
        cells += [_number(costs["backstop"] / costs[name], 2) for name in against]
        lines.append(f"| {each.meaning} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(results: Results, workloads: Sequence[Workload]) -> str:
    """Spread, where the time goes, and latency, in Markdown."""
    lines = [
        "| workload | server | us | least to most | user | system | a second"
        " | p50 ms | p99 ms | backend connections a unit | cores of others |",
        "|---|---|" + "--:|" * 9,
    ]
    for each in workloads:
        if each.name == "hold":
            continue
        for name, found in results.items():
            rows = [row for row in found.get(each.name, []) if not row.trouble]
            if rows:
                lines.append(f"| {each.name} | {name} | {_details(rows)} |")
    return "\n".join(lines)


def _details(rows: Sequence[Row]) -> str:
    costs = [row.cost for row in rows]
    return " | ".join(
        [
            _number(median(costs)),
            f"{min(costs):.0f} to {max(costs):.0f}",
            _number(median(row.user for row in rows)),
            _number(median(row.system for row in rows)),
            _number(median(row.rate for row in rows)),
            _number(median(row.p50 for row in rows), 2),
            _number(median(row.p99 for row in rows), 2),
            _number(median(row.connections / row.count for row in rows), 2),
            _number(median(row.others for row in rows), 2),
        ]
    )


def _number(value: float, digits: int = 0) -> str:
    return "-" if value != value else f"{value:.{digits}f}"


def circumstances(peers: Sequence[Peer]) -> dict[str, object]:
    """When, on what and with which versions."""
    packages = ("uvloop", "aiosmtpd", "aiosmtplib")
    versions = [f"{name} {_package(name)}" for name in packages]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": versions,
        "servers": [each.version() for each in peers],
        "load average": round(os.getloadavg()[0], 2),
    }


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def picture(results: Results, workloads: Sequence[Workload]) -> str:
    """The same as an SVG."""
    groups = [
        Group(
            each.meaning, [(name, cost(results, name, each.name)) for name in results]
        )
        for each in workloads
        if each.name != "hold"
    ]
    return bars("Processor microseconds (shorter is better)", groups)


def present(wanted: Sequence[str]) -> list[Peer]:
    """Those of the peers that can run here; the others are named."""
    found = []
    for each in map(peer, wanted):
        if why := each.missing():
            print(f"skipped: {each.name}: {why}", file=sys.stderr)
        else:
            found.append(each)
    return found


def arguments(description: str) -> argparse.ArgumentParser:
    """What this and ``alone`` have in common."""
    parser = argparse.ArgumentParser(description=description)
    names = ",".join(each.name for each in WORKLOADS)
    parser.add_argument("--workloads", default=names, help="of " + names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="each workload")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument(
        "--awake",
        action="store_true",
        help="clients never sleep: no server has to wake them, as over a network",
    )
    return parser


def plan_of(
    given: argparse.Namespace, peers: Sequence[Peer], workloads: Sequence[Workload]
) -> Plan:
    """What :func:`arguments` were given."""
    rounds, seconds, clients = given.rounds, given.seconds, given.clients
    return Plan(peers, workloads, rounds, seconds, clients, given.awake)


def main() -> None:
    """Run, print, and keep the result."""
    parser = arguments("the front door and its peers on the same task")
    names = ",".join(each.name for each in PEERS if each.name != "sink")
    parser.add_argument("--peers", default=names, help=f"of {names},sink")
    parser.add_argument("--out", default="side_by_side", help="out/NAME.json")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    build()
    say_if_busy()
    peers = present(given.peers.split(","))
    workloads = [workload(name) for name in given.workloads.split(",")]
    about = circumstances(peers)
    results = run(plan_of(given, peers, workloads))
    print(table(results, workloads), details(results, workloads), sep="\n\n")
    print("\n" + "\n".join(f"- {name}: {value}" for name, value in about.items()))
    rows = {
        name: {key: [row.as_dict() for row in rows] for key, rows in found.items()}
        for name, found in results.items()
    }
    write_out(given.out, {"about": about, "rows": rows})
    if given.picture:
        given.picture.write_text(picture(results, workloads))


if __name__ == "__main__":
    main()
