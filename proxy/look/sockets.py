"""Who listens, on a live machine: /proc/net/tcp and the processes' descriptors.

Knows: proc(5).  Knows not: what should listen.  Called by ``init`` and
``doctor``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h


class Listener(NamedTuple):
    """A listening socket; ``pid`` 0 and ``program`` ``""`` where they cannot be
    found out."""

    host: str
    port: int
    pid: int = 0
    program: str = ""

    @property
    def address(self) -> str:
        """Host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def who(self) -> str:
        """Program and process in words."""
        return f"{self.program} (process {self.pid})" if self.pid else "somebody"


def listeners(port: int, proc: str = "/proc") -> list[Listener] | None:
    """Who listens on that port; ``None`` where that cannot be seen."""
    found: list[tuple[str, str]] = []
    seen = False
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{proc}/net/{name}") as file:
            seen = True
            found += _listening(file, port)
    if not seen:
        return None
    owners = _owners({inode for _, inode in found}, proc) if found else {}
    return [Listener(host, port, *owners.get(inode, ())) for host, inode in found]


def _listening(lines: Iterable[str], port: int) -> Iterator[tuple[str, str]]:
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or fields[3] != _LISTEN:
            continue
        host, _, number = fields[1].partition(":")
        if int(number, 16) == port:
            yield _address(host), fields[9]


def _address(text: str) -> str:
    """Words of 32 bits in the machine's order; IPv4 within IPv6 is IPv4."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    swapped = sys.byteorder == "little"
    packed = b"".join(word[::-1] if swapped else word for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _owners(inodes: set[str], proc: str) -> dict[str, tuple[int, str]]:
    """The first process that has each socket open."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, tuple[int, str]] = {}
    for pid in processes(proc):
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"{proc}/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(f"{proc}/{pid}/fd/{descriptor}"))
                    if inode is not None:
                        found.setdefault(inode, (pid, program(pid, proc)))
    return found


def processes(proc: str = "/proc") -> list[int]:
    """The processes that are there, the oldest numbers first."""
    try:
        return sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    except OSError:
        return []


def words(pid: int, proc: str = "/proc") -> list[str]:
    """Its command line; empty where that cannot be read."""
    try:
        with open(f"{proc}/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read(1 << 16)).split("\0")[:-1]
    except OSError:
        return []


def program(pid: int, proc: str = "/proc") -> str:
    """The name of what it runs: of a Python program, the program's."""
    if is_us(words(pid, proc)):
        return "qmail-backstop"
    try:
        with open(f"{proc}/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_us(command: list[str]) -> bool:
    """Whether it is ``backstop serve``, by its words."""
    if "serve" not in command:
        return False
    before = command[: command.index("serve")]
    ours = any(os.path.basename(word) == "backstop" for word in before)
    return ours or before[-2:] == ["-m", "proxy"]


def running(name: str, proc: str = "/proc") -> int:
    """The process of that program, 0 without one."""
    for pid in processes(proc):
        command = words(pid, proc)
        if command and os.path.basename(command[0]) == name:
            return pid
    return 0


def qmail_home(proc: str = "/proc") -> str:
    """The home of the qmail-send that runs, ``""`` if there is none or it cannot
    be seen: qmail-send lives in ``queue`` of it (qmail-send.c)."""
    pid = running("qmail-send", proc)
    try:
        where = os.readlink(f"{proc}/{pid}/cwd") if pid else ""
    except OSError:
        return ""
    return os.path.dirname(where) if os.path.basename(where) == "queue" else ""
