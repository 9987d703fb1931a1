"""What every measurement here needs: the two C programs, ports, medians.

Knows: how to build and call ``load`` and ``sink``.  Knows not: any server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.cpu import Tree, cores, pinned

HERE = Path(__file__).parent
OUT = HERE / "out"
LOAD = HERE / "bin/load"
SINK = HERE / "bin/sink"

DOMAIN = "example.test"
USERS = 10_000
_PATIENCE = 30.0


def missing_tools() -> str:
    """What is needed to build the C programs; ``""`` if nothing."""
    for name, package in (("cc", "gcc"), ("make", "make")):
        if shutil.which(name) is None:
            return f"{name} is not installed: apt-get install {package}"
    return ""


def build() -> None:
    """Compile what has changed."""
    if LOAD.exists() and SINK.exists() and missing_tools():
        return
    subprocess.run(["make", "-s", "-C", str(HERE), "all"], check=True)


def user_name(number: int) -> str:
    """The known users, as ``load`` numbers them."""
    return f"user{number:05}"


@dataclass
class Load:
    """What the load generator saw; see load.c.  Times in ms, but ``seconds``."""

    mode: str
    sessions: int
    good: int
    failed: int
    early: int
    dropped: int
    held: int
    messages: int
    accepted: int
    refused: int
    seconds: float
    rate: float
    p50: float
    p95: float
    p99: float
    first_error: str
    codes: dict[str, int] = field(default_factory=dict)


def read_load(text: str) -> Load:
    """The JSON object that ``load`` prints at its end."""
    found: dict[str, Any] = json.loads(text)
    return Load(**{f.name: found[f.name] for f in fields(Load)})


def _load_command(port: int, mode: str, values: Mapping[str, int]) -> list[str]:
    words = [f"{name}={value}" for name, value in values.items()]
    return pinned([str(LOAD), str(port), mode, *words], cores()[1])


def load(port: int, mode: str, **values: int) -> Load:
    """Run the load generator to its end."""
    command = _load_command(port, mode, values)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return read_load(done.stdout)


@contextlib.contextmanager
def held(port: int, count: int, clients: int = 50) -> Iterator[int]:
    """Idle sessions, open within the block; gives their number."""
    values = {"count": count, "clients": clients, "sources": 1000}
    process = subprocess.Popen(
        _load_command(port, "hold", values),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(json.loads(process.stdout.readline())["held"])
    finally:
        process.communicate()  # ends standard input, and so the sessions


_KEPT: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody else gets meanwhile: a socket that does not
    listen keeps it.  Who listens there has to set SO_REUSEADDR, as servers do."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _KEPT.append(sock)
    return int(sock.getsockname()[1])


def wait_for_greeting(port: int, tree: Tree | None = None) -> None:
    """Until whatever is on ``port`` has greeted and said goodbye."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ask(port, b"QUIT").startswith(b"221"):
                return
        if tree is not None and tree.process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"nobody greets on port {port}")


def ask(port: int, command: bytes) -> bytes:
    """The reply to one command after the greeting."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as connection,
        connection.makefile("rb") as replies,
    ):
        replies.readline()
        connection.sendall(command + b"\r\n")
        return replies.readline()


@dataclass(frozen=True)
class SinkCounts:
    """What the backend has taken."""

    connections: int
    messages: int
    recipients: int
    bytes: int


class Sink:
    """The backend: ``sink`` on a port of its own."""

    def __init__(self, *, refusing: bool = False, where: str | None = None) -> None:
        self.port = free_port()
        flags = ["-r"] if refusing else []
        self.tree = Tree(
            [str(SINK), str(self.port), *flags],
            where=cores()[1] if where is None else where,
            grouped=False,
        )
        wait_for_greeting(self.port, self.tree)

    def counts(self) -> SinkCounts:
        """So far, this question's own connection included."""
        words = ask(self.port, b"STAT").split()[1:]
        return SinkCounts(*(int(word) for word in words))

    def close(self) -> None:
        """End it."""
        self.tree.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary directory that servers' own users may pass."""
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def median(values: Iterable[float]) -> float:
    """The median; not a number of nothing."""
    found = list(values)
    return statistics.median(found) if found else float("nan")


def write_out(name: str, content: object) -> Path:
    """Keep a result as JSON below ``out``."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def say_if_busy() -> None:
    """Figures of a busy machine mean little."""
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"note: the machine is busy (load {busy:.1f})", file=sys.stderr)
