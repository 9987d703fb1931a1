"""Files are kept while they are the same files, and not a moment longer."""

from __future__ import annotations

import os
import pathlib

import pytest

from proxy.qmail.cache import FileCache, identity
from proxy.qmail.decide import Outcome, decide
from proxy.qmail.host import QmailHost
from proxy.qmail.view import DirectoryView
from proxy.qmail.walk import SUPERUSER, Walker
from tests.support.cdbmake import make_users_cdb
from tests.support.files import ALIAS, CONTROL, Files, ask, mail_host_files

SECOND = 1_000_000_000
PATH = b"/x"


class Clock:
    now = 100 * SECOND + 123_456_789  # of a file system with nanoseconds

    def __call__(self) -> int:
        return self.now


class Reader:
    """A cache on one file, and how often the file is opened."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.files = Files()
        self.cache = FileCache(clock=self.clock, entries=3)
        self.walker = Walker(self.files, SUPERUSER)

    def write(self, content: bytes, path: bytes = PATH) -> None:
        self.files.now_ns = self.clock.now
        self.files.file(path, content)

    def read(self, path: bytes = PATH) -> bytes:
        return self.cache.parsed(self.walker, self.walker.stat(path), bytes.upper, 99)

    @property
    def opened(self) -> int:
        return len(self.files.opened)


def test_a_settled_file_is_read_once() -> None:
    reader = Reader()
    reader.write(b"a")
    reader.clock.now += SECOND
    assert [reader.read() for _ in range(5)] == [b"A"] * 5
    assert reader.opened == 1


def test_a_file_just_written_is_read_again_until_it_has_settled() -> None:
    reader = Reader()
    reader.write(b"a")
    assert reader.read() == b"A"
    reader.write(b"b")  # same size, same instant, same inode
    assert reader.read() == b"B"
    reader.clock.now += SECOND
    assert reader.read() == b"B"
    opened = reader.opened
    assert reader.read() == b"B"
    assert reader.opened == opened == 3


@pytest.mark.fault("F6")
def test_a_file_of_another_clock_is_kept() -> None:
    """Our clock is hours behind: the next change has another time all the same."""
    reader = Reader()
    reader.write(b"a")
    reader.clock.now -= 10_000 * SECOND
    assert [reader.read(), reader.read()] == [b"A", b"A"]
    assert reader.opened == 1


@pytest.mark.fault("F1")
def test_a_file_with_whole_seconds_is_kept_when_they_are_over() -> None:
    reader = Reader()
    reader.clock.now = 100 * SECOND
    reader.write(b"a")
    for later, opened in ((0.5, 1), (1.0, 2), (2.0, 3), (2.2, 4), (2.2, 4)):
        reader.clock.now = round((100 + later) * SECOND)
        reader.read()
        assert reader.opened == opened


@pytest.mark.parametrize(
    "what", ["st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"]
)
def test_whatever_changes_is_noticed(what: str) -> None:
    reader = Reader()
    reader.write(b"a")
    reader.clock.now += SECOND
    reader.read()
    before = identity(reader.files.lstat(PATH))
    reader.files.change(PATH, **{what: 12345})
    assert identity(reader.files.lstat(PATH)) != before
    reader.read()
    assert reader.opened == 2


def test_two_meanings_of_one_file_are_kept_apart() -> None:
    reader = Reader()
    reader.write(b"a")
    reader.clock.now += SECOND
    place = reader.walker.stat(PATH)
    assert reader.cache.parsed(reader.walker, place, bytes.upper, 9) == b"A"
    assert reader.cache.parsed(reader.walker, place, len, 9) == 1


def test_the_number_of_kept_files_is_bounded() -> None:
    reader = Reader()
    paths = [b"/%d" % number for number in range(5)]
    for path in paths:
        reader.write(path, path)
    reader.clock.now += SECOND
    for path in paths:
        reader.read(path)
    assert reader.opened == 5
    reader.read(paths[-1])
    assert reader.opened == 5
    reader.read(paths[0])
    assert reader.opened == 6


def test_open_files_are_bounded_and_closed() -> None:
    reader = Reader()
    paths = [b"/%d" % number for number in range(70)]
    opened = []
    for path in paths:
        reader.write(path, path)
        opened.append(reader.cache.opened(reader.walker, reader.walker.stat(path)))
    again = reader.cache.opened(reader.walker, reader.walker.stat(paths[-1]))
    assert again is opened[-1]
    assert [getattr(file, "closed", None) for file in opened] == [1] * 6 + [0] * 64
    reader.cache.close()
    assert [getattr(file, "closed", None) for file in opened] == [1] * 70


def test_an_open_file_that_was_replaced() -> None:
    reader = Reader()
    reader.write(b"old")
    old = reader.cache.opened(reader.walker, reader.walker.stat(PATH))
    reader.clock.now += SECOND
    reader.write(b"new")
    new = reader.cache.opened(reader.walker, reader.walker.stat(PATH))
    assert (old.pread(9, 0), new.pread(9, 0)) == (b"old", b"new")
    assert getattr(old, "closed", None) == 1


def test_every_kind_of_change_is_seen_at_the_next_decision() -> None:
    files = mail_host_files()
    clock = Clock()
    host = QmailHost(files, cache=FileCache(clock=clock), clock=clock)
    box = b"/var/qmail/alias/.qmail-sales"

    def outcome() -> Outcome:
        clock.now += SECOND
        files.now_ns = clock.now
        found = decide(host, b"sales@example.test", traced=False).outcome
        assert ask(files, b"sales@example.test", host=host).outcome is found
        return found

    assert outcome() is Outcome.BOUNCE
    files.file(box, b"&alice@example.test\n", uid=ALIAS)
    assert outcome() is Outcome.FORWARD
    files.file(box, b"|exit 100\n", uid=ALIAS)
    assert outcome() is Outcome.BOUNCE
    files.file(box, b"", uid=ALIAS)
    assert outcome() is Outcome.DELIVER
    files.change(box, st_mode=0o100666)
    assert outcome() is Outcome.DEFER
    files.remove(box)
    assert outcome() is Outcome.BOUNCE
    files.file(b"/var/qmail/users/cdb", make_users_cdb([(b"=sales", b"a:5:5:/:::")]))
    assert outcome() is Outcome.DEFER
    files.file(b"/var/qmail/users/cdb", make_users_cdb([(b"=other", b"a:5:5:/:::")]))
    assert outcome() is Outcome.BOUNCE
    files.control(b"virtualdomains", b"example.test:alice\n")
    files.remove(CONTROL + b"locals")
    files.file(b"/home/alice/.qmail-default", b"./Mailbox\n", uid=1001)
    assert outcome() is Outcome.DELIVER
    files.control(b"rcpthosts", b"virt.test\n")
    assert outcome() is Outcome.NOT_RELAYED


def test_real_files_rewritten_at_once(tmp_path: pathlib.Path) -> None:
    """Same size, same inode, as fast as this machine writes."""
    tmp_path.chmod(0o755)
    control = tmp_path / "var/qmail/control"
    alias = tmp_path / "var/qmail/alias"
    for directory in (control, alias, tmp_path / "etc"):
        directory.mkdir(parents=True)
        directory.chmod(0o755)
    (tmp_path / "etc/passwd").write_bytes(b"alias:x:7790:2108::/var/qmail/alias:\n")
    (control / "me").write_bytes(b"h.test\n")
    box = alias / ".qmail-x"
    host = QmailHost(DirectoryView(os.fsencode(tmp_path)))
    lines = {
        b"&x@elsewhere.test\n": Outcome.FORWARD,
        b"|bouncesaying 'x'\n": Outcome.BOUNCE,
    }
    assert len({len(line) for line in lines}) == 1
    for _ in range(50):
        for line, outcome in lines.items():
            box.write_bytes(line)
            box.chmod(0o644)
            assert decide(host, b"x@h.test", traced=False).outcome is outcome
            assert decide(host, b"x@h.test").outcome is outcome
        box.unlink()
        assert decide(host, b"x@h.test", traced=False).outcome is Outcome.BOUNCE
        assert decide(host, b"x@h.test").outcome is Outcome.BOUNCE
    host.cache.close()
