"""A small qmail host as a real directory tree, and a configuration for it.

For tests that read files as the commands do.  Homes belong to whoever runs
the tests, since qmail-getpw wants a home to belong to its user; as root, to
another user, since qmail delivers nothing as root.
"""

from __future__ import annotations

import os
from pathlib import Path

OWNER = os.getuid() or 20001

CONTROL = {
    "me": "mx.example.test\n",
    "rcpthosts": "example.test\nvirt.test\nmore.test\n",
    "locals": "example.test\n",
    "virtualdomains": "virt.test:alice-virt\n",
}
FILES = {
    "home/alice/.qmail": "./Maildir/\n",
    "home/alice/.qmail-virt-sales": "./Maildir/\n",
    "home/alice/.qmail-program": "|./decide\n",
    "home/alice/.qmail-broken": "./nowhere/Maildir/\n",
    "home/alice/.qmail-two:3": "./Maildir/\n",
}
USERS = ("alice", "alias", "qmaild", "qmails", "qmailp")


def lay_out(root: Path, **control: str | None) -> Path:
    """Make the host below ``root``; the configuration file for it.

    ``control`` has contents of further control files, ``None`` for none.
    """
    for name, content in (CONTROL | control).items():
        if content is not None:
            write(root / "host/var/qmail/control" / name, content)
    for name, content in FILES.items():
        write(root / "host" / name, content)
    for part in ("cur", "new", "tmp"):
        (root / "host/home/alice/Maildir" / part).mkdir(parents=True)
    (root / "host/var/qmail/alias").mkdir()
    homes = {"alice": "/home/alice", "alias": "/var/qmail/alias"}
    rows = [f"{u}:x:{OWNER}:{OWNER}::{homes.get(u, '/var/qmail')}:" for u in USERS]
    write(root / "host/etc/passwd", "\n".join(rows) + "\n")
    write(root / "host/etc/group", f"qmail:x:{OWNER}:\nnofiles:x:{OWNER}:\n")
    for path in (root / "host").rglob("*"):
        if os.getuid() == 0:
            os.chown(path, OWNER, OWNER)
        path.chmod(0o755 if path.is_dir() else 0o644)
    return config(root)


def config(root: Path, more: str = "") -> Path:
    """The smallest configuration for the host below ``root``."""
    path = root / "config.toml"
    write(
        path,
        f'[qmail]\nroot = "{root}/host"\nlocal_ips = ["192.0.2.1"]\n'
        '[backend]\naddress = "127.0.0.1:2525"\n[[rules]]\ntype = "qmail"\n' + more,
    )
    return path


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "latin-1")
