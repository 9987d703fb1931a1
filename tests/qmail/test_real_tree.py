"""The recorded hosts once more, as files of this machine."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator

import pytest

from proxy.qmail.host import QmailHost
from proxy.qmail.view import DirectoryView
from tests.support.expected import mismatches
from tests.support.layout import lay_out
from tests.support.recorded import RecordedView, load, settings, world_names
from tests.support.rights import with_the_right_to_read

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="run as root to change owners"),
]


@pytest.fixture
def root(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Removed at once: a hundred hosts with odd modes are a nuisance."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", world_names())
@pytest.mark.parametrize("who", ["root", "reader"])
def test_every_recipient_on_a_real_tree(
    name: str, root: pathlib.Path, who: str
) -> None:
    """Also as the service asks, with CAP_DAC_READ_SEARCH and nothing else."""
    world = load(name)
    lay_out(world, root)
    host = QmailHost(DirectoryView(os.fsencode(root)), settings(world))
    try:
        if who == "root":
            assert mismatches(world, host) == []
        else:
            assert with_the_right_to_read(lambda: mismatches(world, host)) == []
    finally:
        host.cache.close()


@pytest.mark.parametrize("name", ["dotqmail-types", "home-modes", "assign-odd"])
def test_the_tree_is_what_was_recorded(name: str, root: pathlib.Path) -> None:
    world = load(name)
    lay_out(world, root)
    real, recorded = DirectoryView(os.fsencode(root)), RecordedView(world)
    for entry in world["files"]:
        if entry["type"] == "chardev":
            continue  # a FIFO may stand in
        path = entry["path"].encode("latin-1")
        if path.startswith(b"/etc"):
            continue
        there, here = recorded.lstat(path), real.lstat(path)
        if entry["type"] == "symlink":
            assert real.readlink(path) == recorded.readlink(path)
        else:
            assert here.st_mode == there.st_mode, path
        assert (here.st_uid, here.st_gid) == (there.st_uid, there.st_gid), path
