"""Below a root that is not ``/``, what is not there may still be on the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.qmail.decide import Decision, Outcome, decide
from proxy.qmail.host import QmailHost
from proxy.qmail.view import DirectoryView
from tests.support.files import Files, ask, mail_host_files

LINES = [
    b"|test -f /usr/bin/spamc || exit 100\n./Maildir/\n",
    b"|[ -d /var/vmail/joe ] || exit 100\n./Maildir/\n",
    b"|test ! -e /etc/open && exit 100\n./Maildir/\n",
    b"|test -f ../../../etc/open || exit 100\n./Maildir/\n",
]


def decided(root: Path, line: bytes) -> Decision:
    """What becomes of mail to ``root``'s alias ``x``, whose dot-qmail file it is."""
    files = {
        "etc/passwd": b"alias:x:7790:7791::/var/qmail/alias:\n",
        "etc/group": b"qmail:x:7792:\nnofiles:x:7791:\n",
        "var/qmail/control/me": b"mx.test\n",
        "var/qmail/alias/.qmail-x": line,
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    root.chmod(0o755)
    if os.getuid() == 0:
        os.chown(root / "var/qmail/alias", 7790, 7791)
    return decide(QmailHost(DirectoryView(bytes(root))), b"x@mx.test")


@pytest.mark.root
@pytest.mark.fault("F2")
@pytest.mark.parametrize("line", LINES)
def test_what_cannot_be_seen_refuses_nobody(tmp_path: Path, line: bytes) -> None:
    if os.getuid():
        pytest.skip("run as root to give a home to its user")
    assert decided(tmp_path, line).undecided


@pytest.mark.root
@pytest.mark.fault("F2")
@pytest.mark.parametrize("name", [b".gone", b"/var/qmail/alias/.gone"])
def test_what_is_not_in_the_home_is_not_there(tmp_path: Path, name: bytes) -> None:
    if os.getuid():
        pytest.skip("run as root to give a home to its user")
    found = decided(tmp_path, b"|test -f %s || exit 100\n" % name)
    assert found.outcome is Outcome.BOUNCE


@pytest.mark.fault("F2")
def test_a_whole_host_is_believed() -> None:
    files: Files = mail_host_files()
    files.file(b"/var/qmail/alias/.qmail-x", LINES[0])
    assert ask(files, b"x@example.test").outcome in (Outcome.BOUNCE, Outcome.DEFER)
