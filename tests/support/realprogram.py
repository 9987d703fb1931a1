"""The real programs of dot-qmail lines, run beside the machine's own qmail.

Knows: how to lay out recorded files below a directory, and to run a program on
them as qmail-local would: its user, its environment, the home as current
directory, with a qmail-queue that writes down what it is given.  Run by itself
(``python -m tests.support.realprogram``) it does so in a mount namespace, where the
directory's ``home`` is /home and its ``var/lib/qmail`` is /var/lib/qmail, which is
where Debian's programs look.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.recorded import content_of

QMAIL = "/var/lib/qmail"

# The envelope, whatever it is; and preline, which Debian has in no package.
_QUEUE = '#!/bin/sh\ncat >/dev/null\ncat <&1 >>"$RECORD"\n'
_PRELINE = '#!/bin/sh\ncat | "$@"\n'
_MESSAGE = b"Subject: test\n\nhello\n"


@functools.cache
def missing(program: str) -> str:
    """What keeps the real ``program`` from running here; ``""`` if nothing does."""
    if shutil.which(program) is None or not Path(QMAIL).is_dir():
        return f"{program} is not installed: apt-get install {program}"
    if os.geteuid() != 0:
        return "run as root to run programs as another user"
    try:
        allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    except FileNotFoundError:
        return "unshare is not installed: apt-get install util-linux"
    if allowed.returncode:
        return "namespaces may not be made: in a container, add CAP_SYS_ADMIN"
    return ""


def run_all(root: Path, world: dict[str, Any]) -> list[dict[str, Any]]:
    """What the real programs do with every case of ``world``, in order.

    ``root`` is an empty directory.
    """
    _lay_out(root, world["files"])
    for name, script in (("qmail-queue", _QUEUE), ("preline", _PRELINE)):
        path = root / "var/lib/qmail/bin" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(script)
        path.chmod(0o755)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-m", __name__, str(root)],
        input=json.dumps(world["cases"]).encode(),
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode("latin-1")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _lay_out(root: Path, files: list[dict[str, Any]]) -> None:
    """Modes last: the content of a directory that nobody may enter comes first."""
    for entry in files:
        path = root / entry["path"].lstrip("/")
        if entry["type"] == "dir":
            path.mkdir(parents=True, exist_ok=True)
        elif entry["type"] == "symlink":
            path.symlink_to(entry["target"])
            continue
        else:
            path.write_bytes(content_of(entry))
        os.chown(path, entry["uid"], entry["gid"])
        path.chmod(int(entry["mode"], 8))


def _main(root: Path) -> None:
    for source, target in ((root / "home", "/home"), (root / QMAIL[1:], QMAIL)):
        subprocess.run(["mount", "--bind", source, target], check=True)
    record = Path("/home/.record")
    results = [_run(case, record) for case in json.load(sys.stdin)]
    json.dump(results, sys.stdout)


def _run(case: dict[str, Any], record: Path) -> dict[str, Any]:
    record.write_bytes(b"")
    record.chmod(0o666)
    message = Path("/home/.message")
    message.write_bytes(_MESSAGE)
    message.chmod(0o444)
    environment = {k: v.encode("latin-1") for k, v in case["environment"].items()}
    with message.open("rb") as stream:
        done = subprocess.run(
            [os.fsencode(word) for word in (case["program"],)]
            + [word.encode("latin-1") for word in case["arguments"]],
            stdin=stream,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=case["environment"]["HOME"],
            env={
                **environment,
                "RECORD": str(record),
                "PATH": f"{QMAIL}/bin:/usr/bin:/bin",
            },
            user=case["uid"],
            group=case["gid"],
            extra_groups=[],
            timeout=30,
        )
    return {
        "exit": done.returncode,
        "queued": [_envelope(each) for each in _envelopes(record.read_bytes())],
        "says": re.sub(r"qp [0-9]+", "qp", done.stderr.decode("latin-1"))[:200],
    }


def _envelopes(text: bytes) -> list[bytes]:
    """qmail-queue.8: ``Fsender NUL Trecipient NUL ... NUL``, one after another."""
    found = []
    while text:
        one, _, text = text.partition(b"\0\0")
        # An empty recipient is "T", which ends in the NUL that was cut off.
        found.append(one)
    return found


def _envelope(text: bytes) -> dict[str, Any]:
    sender, *recipients = text.decode("latin-1").split("\0")
    assert sender.startswith("F"), text
    return {"sender": sender[1:], "recipients": [each[1:] for each in recipients]}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
