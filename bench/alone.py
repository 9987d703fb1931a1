"""The front door alone, workload by workload: ``python -m bench.alone``.

Quick, for work on the front door: its cost in user and in system mode, its rate
and latency.  Two runs can be compared on a quiet machine only; ``side_by_side``
says more.
"""

from __future__ import annotations

from bench.peers import peer
from bench.side_by_side import arguments, circumstances, details, plan_of, run, table
from bench.tools import build, say_if_busy, write_out
from bench.workloads import workload


def main() -> None:
    """Run, print, and keep the result."""
    given = arguments("the front door alone").parse_args()
    build()
    say_if_busy()
    workloads = [workload(name) for name in given.workloads.split(",")]
    peers = [peer("backstop")]
    about = circumstances(peers)
    results = run(plan_of(given, peers, workloads))
    print(table(results, workloads), details(results, workloads), sep="\n\n")
    rows = {
        name: [row.as_dict() for row in found]
        for name, found in results["backstop"].items()
    }
    write_out("alone", {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
