"""Names to files: links, permissions, limits; nothing but lstat and readlink."""

from __future__ import annotations

import errno
import os
import pathlib
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.view import DirectoryView
from proxy.qmail.walk import READ, SEARCH, SUPERUSER, WRITE, Identity, Missing, Walker
from tests.support.dictionary import FakeStatus
from tests.support.files import Files
from tests.support.fuzz import fuzz

JOE = Identity(1001, 100)


def walker(files: Files, identity: Identity = SUPERUSER) -> Walker:
    return Walker(files, identity)


def code(files: Files, path: bytes, identity: Identity = SUPERUSER) -> int:
    with pytest.raises(KernelError) as caught:
        walker(files, identity).stat(path)
    return caught.value.code


@pytest.mark.parametrize(
    "path",
    [
        b"/a/b/c",
        b"//a///b/./c",
        b"/a/../a/b/c",
        b"/../../a/b/c",
        b"/link/c",
        b"/absolute/c",
        b"/up/a/b/c",
        b"/a/b/back",
        b"/slashes/b/c",
    ],
)
def test_ways_to_one_file(path: bytes) -> None:
    files = Files()
    files.file(b"/a/b/c", b"x")
    files.link(b"/link", b"a/b")
    files.link(b"/absolute", b"/a/b")
    files.link(b"/a/b/back", b"../../link/c")
    files.link(b"/up", b"..")
    files.link(b"/slashes", b".//a/")
    assert walker(files).stat(path).path == b"/a/b/c"


def test_relative_to_a_directory() -> None:
    files = Files()
    files.file(b"/home/joe/.qmail", b"")
    home = walker(files).enter(b"/home/joe")
    assert walker(files).stat(b".qmail", home).path == b"/home/joe/.qmail"
    assert walker(files).stat(b"/home", home).path == b"/home"
    assert walker(files).stat(b"..", home).path == b"/home"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"", errno.ENOENT),
        (b"/absent", errno.ENOENT),
        (b"/absent/x", errno.ENOENT),
        (b"/file/", errno.ENOTDIR),
        (b"/file/x", errno.ENOTDIR),
        (b"/file/..", errno.ENOTDIR),
        (b"/file/.", errno.ENOTDIR),
        (b"/dangling", errno.ENOENT),
        (b"/loop", errno.ELOOP),
        (b"/ping", errno.ELOOP),
        (b"/loop/x", errno.ELOOP),
        (b"/" + b"n" * 256, errno.ENAMETOOLONG),
        (b"/" + b"n" * 255, errno.ENOENT),
        (b"/" + b"./" * 2047 + b".", errno.ENAMETOOLONG),
        (b"/" + b"./" * 2047, None),
    ],
)
def test_ways_that_fail(path: bytes, error: int | None) -> None:
    files = Files()
    files.file(b"/file", b"")
    files.link(b"/dangling", b"absent")
    files.link(b"/loop", b"loop")
    files.link(b"/ping", b"/pong")
    files.link(b"/pong", b"ping")
    if error is None:
        assert walker(files).stat(path).path == b"/"
    else:
        assert code(files, path) == error


def test_forty_links_and_no_more() -> None:
    files = Files()
    files.file(b"/0", b"")
    for number in range(1, 42):
        files.link(b"/%d" % number, b"%d" % (number - 1))
    assert walker(files).stat(b"/40").path == b"/0"
    assert code(files, b"/41") == errno.ELOOP


def test_links_that_double_at_every_step_end() -> None:
    files = Files()
    files.dir(b"/d")
    files.link(b"/d/0", b".")
    for number in range(1, 30):
        last = b"%d" % (number - 1)
        files.link(b"/d/%d" % number, last + b"/" + last)
    assert code(files, b"/d/29") == errno.ELOOP


def test_every_directory_has_to_be_searched() -> None:
    files = Files()
    files.dir(b"/a", 0o700, uid=1)
    files.file(b"/a/b", b"", uid=1001)
    assert code(files, b"/a/b", JOE) == errno.EACCES
    assert code(files, b"/a/absent", JOE) == errno.EACCES
    assert code(files, b"/a/../a", JOE) == errno.EACCES
    assert walker(files, JOE).stat(b"/a").path == b"/a"
    with pytest.raises(KernelError, match="Permission"):
        walker(files, JOE).enter(b"/a")
    files.change(b"/a", st_mode=stat.S_IFDIR | 0o701)
    assert walker(files, JOE).stat(b"/a/b").path == b"/a/b"


@pytest.mark.parametrize(
    ("owner", "group", "mode", "want", "granted"),
    [
        (1001, 100, 0o400, READ, True),
        (1001, 100, 0o077, READ, False),  # the owner's bits alone count
        (1, 100, 0o040, READ, True),
        (1, 100, 0o707, READ, False),  # then the group's
        (1, 1, 0o004, READ, True),
        (1, 1, 0o770, READ, False),
        (1001, 1, 0o300, WRITE | SEARCH, True),
        (1001, 1, 0o200, WRITE | SEARCH, False),
    ],
)
def test_mode_bits(owner: int, group: int, mode: int, want: int, granted: bool) -> None:
    status = FakeStatus(stat.S_IFREG | mode, owner, group, 1)
    assert JOE.may(status, want) is granted
    assert SUPERUSER.may(status, want)
    assert Identity(None, None).may(status, want)


def test_what_would_be_created_where() -> None:
    files = Files()
    files.dir(b"/home/joe", 0o700, uid=1001)
    files.link(b"/home/joe/box", b"mail/inbox")
    found = walker(files).walk(b"/home/joe/new")
    assert isinstance(found, Missing)
    assert (found.path, found.directory.st_uid) == (b"/home/joe/new", 1001)
    assert code(files, b"/home/joe/box") == errno.ENOENT
    files.dir(b"/home/joe/mail")
    found = walker(files).walk(b"/home/joe/box")
    assert isinstance(found, Missing)
    assert found.path == b"/home/joe/mail/inbox"
    with pytest.raises(KernelError):
        walker(files).walk(b"/home/joe/new/")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK])
def test_special_files_are_looked_at_and_not_opened(kind: int) -> None:
    files = Files()
    files.special(b"/x", kind)
    assert stat.S_IFMT(walker(files).readable(b"/x").status.st_mode) == kind
    assert files.opened == []


def test_a_socket_cannot_be_opened() -> None:
    files = Files()
    files.special(b"/x", stat.S_IFSOCK)
    with pytest.raises(KernelError) as caught:
        walker(files).readable(b"/x")
    assert caught.value.code == errno.ENXIO


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_the_front_door_cannot_see_is_not_absent(error: int) -> None:
    files = Files()
    files.file(b"/a/b", b"")
    files.errors[b"/a/b"] = OSError(error, os.strerror(error))
    with pytest.raises(CannotTell):
        walker(files).stat(b"/a/b")


def test_a_link_the_front_door_cannot_read(tmp_path: pathlib.Path) -> None:
    class Unreadable(Files):
        def readlink(self, path: bytes) -> bytes:
            raise OSError(errno.EIO, "broken")

    files = Unreadable()
    files.link(b"/x", b"y")
    with pytest.raises(CannotTell, match="broken"):
        walker(files).stat(b"/x")


def test_a_real_directory_is_the_root_of_absolute_links(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("inside")
    (tmp_path / "p").symlink_to("/etc/passwd")
    (tmp_path / "q").symlink_to("../../../../etc/passwd")
    real = Walker(DirectoryView(os.fsencode(tmp_path)), SUPERUSER)
    for name in (b"/p", b"/q"):
        place = real.readable(name)
        assert place.path == b"/etc/passwd"
        file = real.open(place)
        assert file.pread(100, 0) == b"inside"
        file.close()


def test_a_real_fifo_is_not_opened(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    view = DirectoryView(os.fsencode(tmp_path))
    for name in (b"/fifo", b"/link", b"/"):
        with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
            view.open(name)


NAMES = st.sampled_from([b"a", b"b", b"..", b".", b"", b"link", b"file", b"n" * 300])
PATHS = st.lists(NAMES, max_size=12).map(b"/".join)


@fuzz
@given(PATHS, st.lists(PATHS, min_size=3, max_size=3))
def test_walks_end_and_stay_on_the_map(path: bytes, targets: list[bytes]) -> None:
    files = Files()
    files.file(b"/a/b/file", b"")
    for place, target in zip(
        (b"/link", b"/a/link", b"/a/b/link"), targets, strict=True
    ):
        files.link(place, target)
    try:
        found = walker(files).walk(path)
    except KernelError:
        return
    assert b"/link" not in found.path or isinstance(found, Missing)
    assert os.path.normpath(found.path) == found.path
