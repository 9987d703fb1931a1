"""Two network namespaces with a wire between them: clients, and a host.

Knows: how to make them and to run something within; what that takes.  The
clients' addresses are on no interface of the host, so that whoever connects
from them there needs IP_TRANSPARENT.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.live.surroundings import wants_root

HOST = "192.0.2.1"
CLIENTS = tuple(f"192.0.2.{last}" for last in range(10, 20))

_NEWNET = 0x40000000  # sched.h, CLONE_NEWNET


@contextlib.contextmanager
def network_of(process: int) -> Iterator[None]:
    """For a thread, which alone goes there; a socket stays where it was made."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        with open(f"/proc/{process}/ns/net") as there:
            assert libc.setns(there.fileno(), _NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(before.fileno(), _NEWNET) == 0


class Wire:
    """``host`` is a command that runs another one in the host's namespace."""

    def __init__(self, clients: int, host: int) -> None:
        self._clients, self._host = clients, host
        self.host = ["nsenter", "-t", str(host), "-n"]

    async def connect(self, source: str, port: int) -> socket.socket:
        """A client's connection to the host."""
        return await asyncio.to_thread(self._connect, source, port)

    def _connect(self, source: str, port: int) -> socket.socket:
        with network_of(self._clients):
            end = (source, 0)
            return socket.create_connection((HOST, port), 30, source_address=end)

    def listening(self, address: str, port: int) -> socket.socket:
        """A socket of one of the clients."""
        with network_of(self._clients):
            return socket.create_server((address, port))

    def behind(self, port: int) -> socket.socket:
        """A socket of the host's own, on its loopback address."""
        with network_of(self._host):
            return socket.create_server(("127.0.0.1", port))

    def route_back(self, port: int) -> None:
        """What 127.0.0.1:``port`` answers to the clients' addresses stays here."""
        rule = f"ip rule add from 127.0.0.1 iif lo ipproto tcp sport {port} lookup 100"
        _run(*self.host, *rule.split())
        _run(
            *self.host,
            *["ip", "route", "add", "local", "default", "dev", "lo", "table", "100"],
        )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def wants_namespaces() -> None:
    """Skip the test, saying why, where none can be made."""
    wants_root("unshare", "nsenter", "ip")
    allowed = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    if allowed.returncode:
        pytest.skip("namespaces may not be made: in a container, add CAP_SYS_ADMIN")


@contextlib.contextmanager
def wired() -> Iterator[Wire]:
    """Make them, and end them."""
    wants_namespaces()
    with contextlib.ExitStack() as stack:
        clients, host = (stack.enter_context(_namespace()) for _ in range(2))
        wire = Wire(clients, host)
        a, b = ["nsenter", "-t", str(clients), "-n"], wire.host
        _run(*a, *f"ip link add v0 type veth peer name v1 netns {host}".split())
        for address in CLIENTS:
            _run(*a, *f"ip addr add {address}/24 dev v0".split())
        _run(*b, *f"ip addr add {HOST}/24 dev v1".split())
        for side, names in ((a, ("v0", "lo")), (b, ("v1", "lo"))):
            for name in names:
                _run(*side, *f"ip link set {name} up".split())
        yield wire


@contextlib.contextmanager
def _namespace() -> Iterator[int]:
    """A process in a network namespace of its own; it is there as long as that."""
    program = ["unshare", "--net", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def tcpserver(
    log: Path, program: Sequence[str], within: Sequence[str] = ()
) -> Iterator[int]:
    """``program`` under tcpserver on 127.0.0.1; its port."""
    if shutil.which("tcpserver") is None:
        pytest.skip("tcpserver is not installed: apt-get install ucspi-tcp")
    command = ["tcpserver", "-1", "-H", "-R", "-l", "mx.example.test", "-c", "40"]
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [*within, *command, "127.0.0.1", "0", *program],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()
