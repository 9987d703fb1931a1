"""Haraka as a front door without a queue (``queue/smtp_forward``).

Knows: its configuration for the task of :mod:`bench.peers`.  One process of
Node.js; recipients in a set that a plugin of a few lines holds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.tools import DOMAIN

if TYPE_CHECKING:
    from bench.peers import Task

_PLUGIN = """\
'use strict'
let table
exports.register = function () {
    table = new Set(this.config.get('recipients', 'list'))
    this.register_hook('lookup_rdns', 'no_name_server')
    this.register_hook('rcpt', 'look_up')
}
exports.no_name_server = (next) => next(OK, 'client.test')
exports.look_up = (next, connection, params) => {
    const known = table.has(params[0].address.toLowerCase())
    return known ? next(OK) : next(DENY, 'no such user')
}
"""


def missing() -> str:
    """What keeps it from running here."""
    if shutil.which("haraka") is None:
        return "haraka is not installed: npm install -g Haraka"
    return ""


def _package() -> Path:
    return Path(shutil.which("haraka") or "haraka").resolve().parent.parent


def version() -> str:
    """As its package says."""
    about = json.loads((_package() / "package.json").read_text())
    node = subprocess.run(["node", "--version"], capture_output=True, text=True)
    return f"Haraka {about['version']}, Node.js {node.stdout.strip()}"


def prepare(task: Task, recipients: Sequence[str]) -> list[str]:
    """Write the configuration; the command."""
    here = task.directory
    for name in ("config", "plugins", "queue"):
        (here / name).mkdir()
    (here / "plugins/table.js").write_text(_PLUGIN)
    # Without a connection.ini of one's own it fails at the first client.
    shutil.copy(_package() / "config/connection.ini", here / "config")
    files = {
        "me": f"mx.{DOMAIN}",
        "plugins": "table\nqueue/smtp_forward",
        "recipients": "\n".join(recipients),
        "smtp.ini": f"listen=127.0.0.1:{task.port}\nnodes=0",
        "smtp_forward.ini": f"host=127.0.0.1\nport={task.backend}",
        "log.ini": "[main]\nlevel=notice\nformat=default",
    }
    for name, text in files.items():
        (here / "config" / name).write_text(text + "\n")
    return ["haraka", "-c", str(here)]
