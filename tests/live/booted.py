"""A machine that systemd has booted: this one's files under a layer of its own.

Knows: how to make one out of namespaces (unshare(1)) and overlayfs, how to run
commands in it, how to end it.  Knows not: what is tried there.  What is written
there is in memory, and gone with it.  No unit and no generator of this machine's
administrator takes part; the network is its own, so that port 25 is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.netspaces import network_of
from tests.live.process import PATIENCE
from tests.live.surroundings import as_nobody, wants_root

ROOT = Path(__file__).parent.parent.parent
PREFIX = "/usr/local/backstop"
_SYSTEMD = "/usr/lib/systemd/systemd"

# A cgroup for all that happens there: systemd sees it as the root.
_GROUP = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/group"
mount -t cgroup2 cgroup2 "$1/group"
mkdir "$1/group/$2"
echo $$ >"$1/group/$2/cgroup.procs"
umount "$1/group"
work=$1; script=$3; shift 3
exec unshare --cgroup --mount --uts --ipc --net --pid --fork --kill-child=KILL \\
    --propagation private sh -ec "$script" sh "$work" "$@"
"""

_BOOT = """
root=$1/root
mkdir "$1/upper" "$1/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$root"
mkdir -p "$root$2/project" "$root$2/modules" "$root$2/bin"
mount --bind "$3" "$root$2/project"
mount --bind "$4" "$root$2/modules"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for place in dev run etc/systemd usr/lib/systemd/system-generators; do
  mount -t tmpfs -o mode=755 tmpfs "$root/$place"
done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for node in null zero full random urandom tty; do cp -a "/dev/$node" "$root/dev"; done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/etc/systemd/system" "$root/run/old"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
rm -f "$root/etc/machine-id"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
cd "$root"
pivot_root . run/old
umount -l /run/old
exec env -i container=test PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd \\
    --unit=basic.target
"""

# An installed command, without an installation.
_COMMAND = f"""#!/bin/sh
PYTHONPATH={PREFIX}/project:{PREFIX}/modules exec @python@ -m proxy "$@"
"""


class Machine:
    """One that has booted; ``init`` is its first process, seen from here."""

    def __init__(self, init: int) -> None:
        self.init = init
        self._inside = [
            "nsenter",
            "-t",
            str(init),
            *["-m", "-C", "-u", "-i", "-n", "-p", "-r", "-w"],
        ]

    def run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A command, as root, to its end."""
        return subprocess.run(
            [*self._inside, "env", "-i", "PATH=/usr/sbin:/usr/bin", *command],
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def must(self, *command: str, given: str = "") -> str:
        """A command that has to end well; what it says."""
        done = self.run(*command, given=given)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        self.must("sh", "-c", 'mkdir -p "${1%/*}"; cat >"$1"', "sh", path, given=text)

    def property(self, unit: str, name: str) -> str:
        return self.must("systemctl", "show", "-P", name, unit)

    def journal(self, unit: str, *options: str) -> str:
        self.must("journalctl", "--sync")
        return self.must("journalctl", "--no-pager", "-u", unit, *options)

    def listening(self, port: int) -> socket.socket:
        """A socket of the machine's 127.0.0.1, for this process."""
        with network_of(self.init):
            return socket.create_server(("127.0.0.1", port))

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection of the machine to itself."""

        def connected() -> socket.socket:
            with network_of(self.init):
                return socket.create_connection((host, port), PATIENCE)

        return await asyncio.to_thread(connected)


@contextlib.contextmanager
def booted(directory: Path) -> Iterator[Machine]:
    """Boot, and end it; the test is skipped where that cannot be."""
    wants_root("unshare", "nsenter", "pivot_root", "systemctl")
    if not os.access(_SYSTEMD, os.X_OK):
        pytest.skip("systemd is not installed: apt-get install systemd")
    python = _python()
    group, log = f"backstop-test-{time.time_ns()}", directory / "boot.log"
    place = directory / "machine"
    place.mkdir()
    before = ["unshare", "--mount", "sh", "-ec", _GROUP, "sh", str(place), group, _BOOT]
    modules = sysconfig.get_path("purelib")
    with (
        log.open("wb") as told,
        subprocess.Popen(
            [*before, PREFIX, str(ROOT), modules],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
        ) as process,
    ):
        try:
            machine = _started(process, log)
            command = f"{PREFIX}/bin/backstop"
            machine.write(command, _COMMAND.replace("@python@", python))
            machine.must("chmod", "755", command)
            yield machine
        finally:
            for init in _children(process):  # all others end with it
                os.kill(init, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            _forget(group)


def _python() -> str:
    """A Python of this version that any user may start, also where there are no
    homes."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [*as_nobody(), python, "-c", ""]
        if Path(python).exists() and subprocess.run(command).returncode == 0:
            return python
    pytest.skip(f"{version} lies neither in /usr/bin nor in /usr/local/bin")


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):
        return [int(word) for word in path.read_text().split()]
    return []


def _started(process: subprocess.Popen[bytes], log: Path) -> Machine:
    until = time.monotonic() + PATIENCE
    state = ""
    while state not in ("running", "degraded"):
        if process.poll() is not None:
            pytest.skip(f"systemd cannot be booted here: {log.read_text().strip()}")
        assert time.monotonic() < until, f"{state}: {log.read_text()}"
        time.sleep(0.05)
        for init in _children(process):
            machine = Machine(init)
            state = machine.run("systemctl", "is-system-running").stdout.strip()
    return machine


def _forget(group: str) -> None:
    """The cgroup that is left, and those in it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", _FORGET, "sh", group],
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )


_FORGET = """
mount -t tmpfs tmpfs /mnt && mkdir /mnt/group && mount -t cgroup2 cgroup2 /mnt/group
find "/mnt/group/$1" -depth -type d -exec rmdir {} +
"""
