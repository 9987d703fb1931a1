"""Which change times can be trusted, on which file system."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.qmail.decide import Outcome, decide
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.view import DirectoryView
from proxy.system.file_clock import settled

SECOND = 10**9
NOW = 1_795_392_000 * SECOND + 123_456_789


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("changed", "good"),
    [
        (NOW - 1_000_000, False),  # nanoseconds: a tick of the kernel's clock
        (NOW - 60_000_000, True),
        (NOW // SECOND * SECOND, False),  # whole seconds: the second is not over
        (NOW // SECOND * SECOND - SECOND, False),
        (NOW // SECOND * SECOND - 2 * SECOND, True),
    ],
)
def test_a_stamp_is_trusted_when_its_clock_has_gone_on(
    changed: int, good: bool
) -> None:
    assert settled(changed, NOW) is good


@pytest.mark.fault("F6")
@pytest.mark.parametrize("ahead", [3 * 3600 * SECOND, 60 * SECOND + 1])
def test_a_stamp_far_in_the_future_is_anothers_clock(ahead: int) -> None:
    assert settled(NOW + ahead, NOW)
    assert not settled(NOW + 1_000_000, NOW)


@pytest.fixture
def ext3(tmp_path: Path) -> Iterator[Path]:
    """A file system with inodes of 128 bytes, which have whole seconds."""
    if shutil.which("mkfs.ext3") is None:
        pytest.skip("mkfs.ext3 is not installed: apt-get install e2fsprogs")
    image, there = tmp_path / "image", tmp_path / "there"
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext3", "-q", "-I", "128", image], check=True)
    there.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, there], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not allowed here: run as root, with loop devices")
    yield there
    subprocess.run(["umount", there], check=True)


@pytest.mark.root
@pytest.mark.fault("F1")
def test_an_alias_made_in_the_second_of_the_listing_counts(ext3: Path) -> None:
    for name, content in {
        "etc/passwd": "alias:x:7790:7791::/var/qmail/alias:\n",
        "etc/group": "qmail:x:0:\nnofiles:x:7791:\n",
        "var/qmail/control/me": "mx.test\n",
        "var/qmail/control/rcpthosts": "mx.test\n",
        "var/qmail/alias/.qmail-first": "/dev/null\n",
    }.items():
        (ext3 / name).parent.mkdir(parents=True, exist_ok=True)
        (ext3 / name).write_text(content)
    alias = ext3 / "var/qmail/alias"
    os.chown(alias, 7790, 7791)
    host = QmailHost(DirectoryView(bytes(ext3)), HostSettings())

    def known(name: str) -> bool:
        found = decide(host, f"{name}@mx.test".encode())
        assert found.outcome in (Outcome.DELIVER, Outcome.BOUNCE), found
        return found.outcome is Outcome.DELIVER

    for number in range(30):
        name = f"a{number}"
        known(f"guess{number}")
        known(f"guess{number}")  # the home is listed
        (alias / f".qmail-{name}").write_text("|exit 0\n")
        assert known(name), name
