"""Idle sessions: ``python -m bench.idle``.

What each of 2,000 holds, and how soon a new client is greeted beside them.
"""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path

from bench.peers import Running, peer
from bench.side_by_side import circumstances
from bench.tools import build, held, load, median, scratch, write_out

SESSIONS = 2000
_GREETINGS = 50


def greeting(port: int) -> float:
    """Milliseconds from connect to the greeting."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        said = connection.recv(512)
        taken = time.perf_counter() - began
        if not said.startswith(b"220 "):
            raise RuntimeError(f"no greeting: {said!r}")
        connection.sendall(b"QUIT\r\n")
        connection.recv(512)
    return taken * 1000


def measure(directory: Path, sessions: int = SESSIONS) -> tuple[float, list[float]]:
    """KiB of each idle session; milliseconds of each greeting beside them."""
    with Running(peer("backstop"), directory) as running:
        load(running.port, "reject", count=200)
        time.sleep(1.5)  # what is done once a second is done
        before = running.tree.memory()
        with held(running.port, sessions) as count:
            if count != sessions:
                raise RuntimeError(f"only {count} of {sessions} could be opened")
            time.sleep(1.5)
            each = (running.tree.memory() - before) / sessions
            times = [greeting(running.port) for _ in range(_GREETINGS)]
    return each, times


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description="idle sessions")
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    sessions = parser.parse_args().sessions
    build()
    with scratch() as directory:
        each, times = measure(directory / "idle", sessions)
    print(f"{sessions} idle sessions: {each:.1f} KiB each")
    print(f"a new client is greeted after {median(times):.1f} ms (median of 50,"
          f" at most {max(times):.1f} ms)")  # fmt: skip
    about = circumstances([peer("backstop")])
    write_out("idle", {"about": about, "KiB": each, "greeting ms": times})


if __name__ == "__main__":
    main()
