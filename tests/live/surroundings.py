"""Whose rights a test's process has, and in what surroundings it runs.

Knows: which tools and rights that takes, and to say which are missing; commands
to be put before another one (``within`` of :func:`tests.live.process.serving`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.live.process import environment

NOBODY = 65534
NOT_ALLOWED = {"BACKSTOP_PROCESS__ALLOW_ROOT": "false"}

# Every file system of a mount namespace of its own, read-only; then the rest.
_READ_ONLY = """
set -e
mount --make-rprivate /
cut -d ' ' -f 5 /proc/self/mountinfo | sort -r | while read -r place; do
  mount -o remount,bind,ro "$place" 2>/dev/null || :
done
if touch "$PROBE" 2>/dev/null; then echo "still writable: $PROBE" >&2; exit 1; fi
exec "$@"
"""


def wants_root(*tools: str) -> None:
    """Skip the test, saying why, where this cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("run as root")
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def as_nobody(*capabilities: str) -> list[str]:
    """A user without rights but these capabilities, which are ambient."""
    wants_root("setpriv")
    granted = "".join(f",+{name}" for name in capabilities)
    sets = [f"--{which}-caps=-all{granted}" for which in ("inh", "ambient")]
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return ["setpriv", *user, *sets, f"--bounding-set=-all{granted}"]


def read_only(probe: Path) -> list[str]:
    """Nothing can be written, as is seen at ``probe``."""
    wants_root("unshare", "mount")
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    if allowed.returncode:
        pytest.skip("namespaces may not be made: in a container, add CAP_SYS_ADMIN")
    script = _READ_ONLY.replace("$PROBE", str(probe))
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def modules() -> dict[str, str]:
    """An environment in which another Python finds the same packages."""
    usual = environment()["PYTHONPATH"]
    return {"PYTHONPATH": f"{usual}{os.pathsep}{sysconfig.get_path('purelib')}"}


@functools.cache
def open_python() -> str:
    """A Python of this version that everybody may run; ``""`` without one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [*as_nobody(), python, "-c", "import proxy.process.serve"]
        try:
            tried = subprocess.run(
                command, env=environment(modules()), capture_output=True, timeout=60
            )
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    return ""


def public_python() -> str:
    """For processes that may read nothing of root's."""
    wants_root("setpriv")
    python = open_python()
    if not python:
        pytest.skip("this Python lies where other users may not look")
    return python


def opened(process: int) -> list[str]:
    """The files and sockets that it has open, as proc_pid_fd(5) names them now."""
    found = []
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(entry))
    return found


def status_of(process: int) -> dict[str, str]:
    """proc_pid_status(5)."""
    text = Path(f"/proc/{process}/status").read_text()
    return dict(re.findall(r"^(\w+):[ \t]*(.*?)[ \t]*$", text, re.M))
