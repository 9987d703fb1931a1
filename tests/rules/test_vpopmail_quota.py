"""Counts of domains and the usage daemon, as sessions meet them: kept, made in a
thread, waited for only so long."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import proxy.rules.vpopmail
from proxy.qmail.questions import (
    NOTHING,
    AskCount,
    AskDaemon,
    AskLimits,
    Backend,
    Daemon,
    NoAnswer,
    Nothing,
    Quota,
    Stored,
)
from proxy.qmail.questions import Kind as Directory
from proxy.qmail.view import DirectoryView
from proxy.qmail.walk import SUPERUSER
from proxy.rules import vusaged
from proxy.rules.counts import AGE, SURE_AGE, Counts
from proxy.rules.needs import Needs
from proxy.rules.qmail import QmailRule
from proxy.rules.verdict import Kind, Question, Verdict
from proxy.rules.vpopmail import VpopmailDatabases, usable
from tests.support import mariadb
from tests.support.clock import Clock
from tests.support.files import Files
from tests.support.vpopmail_host import (
    DOMAIN,
    HOME,
    account,
    built,
    cdb_accounts,
    own,
    vpopmail_files,
    vpopmail_host,
    vpopmail_keys,
)


class Gate(DirectoryView):
    """A file system that stands still until it is let go; counts how often the
    domain itself is listed."""

    def __init__(self, root: Path) -> None:
        super().__init__(bytes(root))
        self.open_ = threading.Event()
        self.open_.set()
        self.begun = threading.Event()
        self.counts = 0
        self.error: OSError | None = None

    def listing(self, path: bytes) -> Iterator[bytes]:
        if path == b"/d":
            self.counts += 1
            self.begun.set()
        self.open_.wait()
        if self.error is not None:
            raise self.error
        return super().listing(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("new", "cur", "tmp"):
        (tmp_path / "d/ann/Maildir" / part).mkdir(parents=True)
    (tmp_path / "d/ann/Maildir/new/1.a.h,S=7").touch()
    return tmp_path


@pytest.fixture
def view(root: Path) -> Iterator[Gate]:
    it = Gate(root)
    yield it
    it.open_.set()  # else its thread would never end


@contextlib.asynccontextmanager
async def counting(
    view: Gate, clock: Clock, seconds: float = 60.0
) -> AsyncIterator[Counts]:
    counts = Counts(view, seconds, clock)
    try:
        yield counts
    finally:
        view.open_.set()
        await counts.close()


def ask(*, sure: bool = False, directory: bytes = b"/d") -> AskCount:
    return AskCount(directory, Directory.HASHED, SUPERUSER, sure)


async def test_a_count_serves_for_a_while(view: Gate, root: Path) -> None:
    clock = Clock()
    async with counting(view, clock) as counts:
        assert await counts.ask(ask()) == Stored(7, 1)
        (root / "d/ann/Maildir/cur/2.a.h,S=5:2,S").touch()
        clock.now += AGE
        assert await counts.ask(ask()) == Stored(7, 1)
        assert view.counts == 1
        clock.now += 0.001
        assert await counts.ask(ask()) == Stored(12, 2)
        assert view.counts == 2


async def test_a_refusal_wants_a_fresh_one(view: Gate, root: Path) -> None:
    clock = Clock()
    async with counting(view, clock) as counts:
        await counts.ask(ask())
        (root / "d/ann/Maildir/new/1.a.h,S=7").unlink()
        clock.now += SURE_AGE
        assert await counts.ask(ask(sure=True)) == Stored(7, 1)
        clock.now += 0.001
        assert await counts.ask(ask(sure=True)) == Stored(0, 0)


async def test_what_takes_long_is_done_more_rarely(view: Gate) -> None:
    clock = Clock()
    async with counting(view, clock) as counts:
        view.open_.clear()
        asked = asyncio.create_task(counts.ask(ask()))
        await asyncio.to_thread(view.begun.wait)
        clock.now += 20
        view.open_.set()
        await asked
        clock.now += 199
        await counts.ask(ask(sure=True))
        assert view.counts == 1
        clock.now += 2
        await counts.ask(ask(sure=True))
        assert view.counts == 2


async def test_nobody_waits_for_ever_and_the_count_goes_on(view: Gate) -> None:
    clock = Clock()
    async with counting(view, clock, seconds=0.01) as counts:
        view.open_.clear()
        for _ in range(3):
            answer = await counts.ask(ask())
            assert answer == NoAnswer("/d: not counted within 0.01 s")
        assert view.counts == 1
        view.open_.set()
        while isinstance(await counts.ask(ask()), NoAnswer):
            pass
        assert await counts.ask(ask()) == Stored(7, 1)
        assert view.counts == 1


async def test_many_that_ask_at_once_share_a_count(view: Gate) -> None:
    async with counting(view, Clock()) as counts:
        answers = await asyncio.gather(*(counts.ask(ask()) for _ in range(20)))
        assert set(answers) == {Stored(7, 1)}
        assert view.counts == 1


async def test_a_disk_that_stands_still_delays_nobody_else(view: Gate) -> None:
    async with counting(view, Clock()) as counts:
        view.open_.clear()
        asked = asyncio.create_task(counts.ask(ask()))
        await asyncio.to_thread(view.begun.wait)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not asked.done()
        view.open_.set()
        assert await asked == Stored(7, 1)


async def test_what_cannot_be_counted_is_not_tried_all_the_time(view: Gate) -> None:
    clock = Clock()
    async with counting(view, clock) as counts:
        view.error = PermissionError(13, "Permission denied")
        for _ in range(2):
            answer = await counts.ask(ask())
            assert isinstance(answer, NoAnswer)
            assert "/d" in answer.why
            assert "Permission denied" in answer.why
        assert view.counts == 1
        view.error = None
        clock.now += AGE + 1
        assert await counts.ask(ask()) == Stored(7, 1)


async def test_closing_does_not_wait(view: Gate) -> None:
    counts = Counts(view, 60.0)
    view.open_.clear()
    asked = asyncio.create_task(counts.ask(ask()))
    await asyncio.to_thread(view.begun.wait)
    await counts.close()
    view.open_.set()
    assert await asked == NoAnswer("no longer wanted")
    assert isinstance(await counts.ask(ask(directory=b"/other")), NoAnswer)


# vusaged.


class Served:
    """A daemon with its packets; ``answer`` is what it sends back."""

    def __init__(self, socket: Path, answer: bytes) -> None:
        self.socket, self.answer = socket, answer
        self.heard: list[bytes] = []
        self._serving: list[asyncio.Task[object]] = []

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            self.heard.append(await reader.readexactly(length))
            writer.write(self.answer)
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def __aenter__(self) -> Served:
        self.socket.parent.mkdir(exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._serving)


def daemon(timeout: float = 30.0) -> Daemon:
    return Daemon(b"conf", b"/run/v.sock", timeout=timeout)


async def test_the_daemon_is_asked_below_the_root(tmp_path: Path) -> None:
    packed = struct.pack("!QQ", 142264, 35)
    async with Served(tmp_path / "run/v.sock", packed) as served:
        question = AskDaemon(daemon(), b"@v.test")
        found = await vusaged.ask(question, bytes(tmp_path))
    assert found == Stored(142264, 35)
    assert served.heard == [b"@v.test"]


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "no answer within"), (b"x" * 15, "no answer within")]
)
async def test_a_silent_daemon(tmp_path: Path, answer: bytes, why: str) -> None:
    async with Served(tmp_path / "run/v.sock", answer):
        question = AskDaemon(daemon(0.05), b"@v.test")
        found = await vusaged.ask(question, bytes(tmp_path))
    assert isinstance(found, NoAnswer)
    assert why in found.why


async def test_no_daemon(tmp_path: Path) -> None:
    found = await vusaged.ask(AskDaemon(daemon(), b"@v.test"), bytes(tmp_path))
    assert isinstance(found, NoAnswer)
    assert "/run/v.sock" in found.why


# The rule.


@pytest.fixture
def full() -> Files:
    files = vpopmail_files()
    cdb_accounts(files, [account(b"ann")])
    built(files, b"USE_CDB", b"DOMAIN_QUOTAS")
    own(files, DOMAIN + b"/.qmailadmin-limits", b"maxmsgcount 1\n")
    own(files, DOMAIN + b"/ann/Maildir/new/1.a.h,S=7", b"")
    return files


async def said(rule: QmailRule, recipient: bytes = b"ann@v.test") -> Verdict:
    answer = rule.ask(Question(recipient, b"s@elsewhere.test"))
    return answer if isinstance(answer, Verdict) else await answer


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [("reject", Kind.REJECT, 552), ("defer", Kind.DEFER, 452)],
)
async def test_a_full_domain(full: Files, key: str, kind: Kind, code: int) -> None:
    heard: list[str] = []
    host = vpopmail_host(full, over_quota=key)
    needs = Needs(host, b"/", lambda name, answer, _: heard.append(f"{name} {answer}"))
    rule = QmailRule(host, needs=needs)
    verdict = await said(rule)
    assert (verdict.kind, verdict.reply.code) == (kind, code)
    assert heard == ["vpopmail-quota found"] * 2
    await rule.close()


async def test_a_domain_with_room_and_one_that_cannot_be_counted(full: Files) -> None:
    failed: list[str] = []
    own(full, DOMAIN + b"/.qmailadmin-limits", b"maxmsgcount 2\n")
    host = vpopmail_host(full, over_quota="reject")
    needs = Needs(host, on_error=lambda name, error: failed.append(f"{name}: {error}"))
    rule = QmailRule(host, needs=needs)
    verdict = await said(rule)
    assert (verdict.kind, verdict.undecided) == (Kind.ACCEPT, False)
    await rule.close()
    verdict = await said(rule)  # closed: counted no more, but the last one is there
    assert (verdict.kind, verdict.undecided) == (Kind.ACCEPT, False)
    assert not failed
    rule = QmailRule(host, needs=Needs(host, on_error=needs._on_error))
    await rule.close()
    verdict = await said(rule)
    assert (verdict.kind, verdict.undecided) == (Kind.ACCEPT, False)
    assert failed


# Limits in a database.


@pytest.fixture
def limits(maria: mariadb.MariaDB) -> Iterator[mariadb.MariaDB]:
    maria.sql(
        "create table limits (domain char(96) primary key, maxpopaccounts int(10)"
        " not null default -1, diskquota bigint(20) unsigned not null default 0,"
        " maxmsgcount bigint(20) unsigned not null default 0)"
    )
    maria.sql("insert into limits (domain, diskquota) values ('v.test', 3)")
    yield maria
    maria.sql("drop table if exists limits")


class Slow:
    """Stands for a database's tables; remembers where it was made."""

    made: ClassVar[list[int]] = []

    def __init__(self, *_: object) -> None:
        self.made.append(threading.get_ident())

    async def limits(self, question: AskLimits) -> Nothing:
        return NOTHING

    async def close(self) -> None:
        return


async def test_drivers_are_loaded_once_and_beside_the_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes half a second, in which others want to be served."""
    monkeypatch.setattr(proxy.rules.vpopmail, "_Tables", Slow)
    Slow.made.clear()
    databases = VpopmailDatabases(vpopmail_keys())
    question = AskLimits(Backend("mysql", b"", "h", 0, "u", "p"), b"v.test")
    await asyncio.gather(*(databases.ask(question) for _ in range(3)))
    (thread,) = Slow.made
    assert thread != threading.get_ident()
    await databases.close()


async def test_limits_in_mysql(limits: mariadb.MariaDB) -> None:
    databases = VpopmailDatabases(vpopmail_keys(usable=usable(), timeout=5.0))
    backend = Backend(
        "mysql",
        HOME + b"/etc/vpopmail.mysql",
        "localhost",
        0,
        mariadb.USER,
        mariadb.PASSWORD,
        mariadb.NAME,
        str(limits.socket),
    )
    try:
        found = await databases.ask(AskLimits(backend, b"v.test"))
        assert found == Quota(3 << 20, 0)
        assert isinstance(await databases.ask(AskLimits(backend, b"w.test")), Nothing)
        hostile = AskLimits(backend, b"' or '1'='1")
        assert isinstance(await databases.ask(hostile), Nothing)
        limits.sql("drop table limits")
        assert isinstance(await databases.ask(AskLimits(backend, b"v.test")), Nothing)
    finally:
        await databases.close()
