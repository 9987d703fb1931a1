"""The measuring tools measure what they say; nothing is timed here."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import decisions, flood, host, idle, peers, soak, tools
from bench.cpu import Peak, Tree
from bench.picture import Group, bars
from bench.side_by_side import details, table
from bench.tools import Sink, held, load
from bench.workloads import Row, measure, workload
from proxy.qmail.cdb import cdb_get
from proxy.qmail.users import assigned
from tests.support.ports import own_port


@pytest.fixture(scope="session")
def built() -> None:
    """The C programs."""
    if why := tools.missing_tools():
        pytest.skip(why)
    tools.build()


@pytest.fixture
def sink(built: None) -> Iterator[Sink]:
    """A backend that refuses "nobody"."""
    with Sink(refusing=True) as running:
        yield running


def test_reject(sink: Sink) -> None:
    seen = load(sink.port, "reject", count=20, clients=4)
    assert (seen.good, seen.failed, seen.refused) == (20, 0, 20)
    assert seen.codes["rcpt 550"] == 20
    assert seen.codes["quit 221"] == 20


@pytest.mark.parametrize("size", [100, 2048, 65536, 1_000_000])
def test_accept(sink: Sink, size: int) -> None:
    before = sink.counts()
    seen = load(sink.port, "accept", count=10, clients=3, size=size)
    after = sink.counts()
    assert (seen.good, seen.messages) == (10, 10)
    assert after.messages - before.messages == 10
    assert after.connections - before.connections == 11  # the question's own
    taken = (after.bytes - before.bytes) / 10
    assert max(size, 128) - 2 <= taken <= max(size, 128) + 3


def test_reuse(sink: Sink) -> None:
    seen = load(sink.port, "reuse", count=3, clients=2, messages=7)
    assert (seen.good, seen.messages, sink.counts().messages) == (3, 21, 21)


def test_dict(sink: Sink) -> None:
    seen = load(sink.port, "dict", count=5, clients=5, recipients=20)
    assert (seen.good, seen.refused, seen.codes["mail 250"]) == (5, 100, 5)


def test_mix(sink: Sink) -> None:
    seen = load(sink.port, "mix", count=200, clients=8, unknown=80)
    assert seen.good == seen.refused + seen.messages == 200
    assert 120 < seen.refused < 190


def test_hold(sink: Sink) -> None:
    with held(sink.port, 30) as count:
        assert count == 30
        assert sink.counts().connections >= 30


def test_a_failure_is_told(built: None) -> None:
    """Nobody listens."""
    seen = load(own_port(), "reject", count=2, clients=1)
    assert (seen.good, seen.failed) == (0, 2)
    assert "refused" in seen.first_error


def test_an_accepting_server_fails_reject(built: None) -> None:
    with Sink() as sink:
        seen = load(sink.port, "reject", count=3, clients=1)
    assert (seen.good, seen.failed) == (0, 3)
    assert seen.first_error == "250 at rcpt"


def test_peers_are_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "apt-get install haproxy" in peers.peer("haproxy").missing()


@pytest.mark.timeout(120)
def test_the_front_door(
    built: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "USERS", 3)
    with peers.Running(peers.peer("backstop"), tmp_path / "front") as running:
        few = {"count": 10, "clients": 2, "table": 3}
        assert load(running.port, "reject", **few).refused == 10
        assert load(running.port, "accept", **few).messages == 10
        assert running.sink.counts().messages == 10
        assert running.tree.times().total > 0
        assert running.tree.memory() > 1000


def test_a_row(built: None, tmp_path: Path) -> None:
    """The backend alone as a peer."""
    with peers.Running(peers.peer("sink"), tmp_path / "floor") as running:
        row = measure(running, workload("reuse2k"), seconds=1, clients=2)
    assert row.trouble == ""
    assert row.count > 0
    assert row.cost > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("defended", [True, False])
def test_a_flood(
    built: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    monkeypatch.setattr(peers, "USERS", 10)
    seen = flood.flood(tmp_path / "flood", 400, defended=defended, seconds=1)
    assert seen.guesses == 400 or defended
    assert 0 < seen.guesses <= flood.CLIENTS * 51
    assert seen.trouble == ""


@pytest.mark.timeout(120)
def test_idle_sessions(
    built: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "USERS", 3)
    each, times = idle.measure(tmp_path / "idle", 20)
    assert each < 1000
    assert len(times) == 50


@pytest.mark.timeout(120)
async def test_a_soak(
    built: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "USERS", 100)
    found = await soak.soak(tmp_path / "soak", seconds=2, restart=0.5)
    assert found.wrong == []
    assert found.messages > 0
    assert found.answers["250"] > 0
    assert found.restarts > 0


def test_the_soak_sees_what_is_wrong() -> None:
    told = {
        b"good": soak.Told(1),
        b"twice, told 4xx": soak.Told(1, excused=True),
        b"never taken": soak.Told(0, excused=True),
        b"missing": soak.Told(1, excused=True),
        b"twice": soak.Told(1),
    }
    taken = Counter({b"good": 1, b"twice, told 4xx": 2, b"twice": 2, b"who": 1})
    assert soak.judge(told, taken) == [
        "missing was answered 250 and is missing",
        "twice is there 2 times without excuse",
        "b'who' was sent by nobody",
    ]


@pytest.mark.parametrize("grouped", [True, False])
def test_the_time_of_children_counts(grouped: bool) -> None:
    """A shell that waits for a busy child."""
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    script = '"$0" -c "$1"; sleep 60'
    tree = Tree(["sh", "-c", script, sys.executable, busy], grouped=grouped)
    try:
        end = time.monotonic() + 30
        while tree.times().total < 250_000 and time.monotonic() < end:
            time.sleep(0.05)
        assert tree.times().total >= 250_000
        peak = Peak(tree)
        peak.start()
        assert peak.stop() > 0
    finally:
        tree.close()
    assert tree.pids() == []


def test_the_cdb_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "cdb"
    records = [(b"key%d" % n, b"data%d" % n) for n in range(2000)]
    host.write_cdb(path, records)
    with path.open("rb") as file:
        reader = _Reader(file.fileno())
        assert all(cdb_get(reader, key) == data for key, data in records)
        assert cdb_get(reader, b"no such key") is None


def test_users_cdb(tmp_path: Path) -> None:
    path = tmp_path / "cdb"
    host.write_users_cdb(path, ["joe", "sue"], "vmail", 5000, "/home/vmail")
    with path.open("rb") as file:
        reader = _Reader(file.fileno())
        found = assigned(reader, b"Sue")
        assert found is not None
        assert found[1].home == b"/home/vmail"
        assert found[1].uid == 5000
        assert assigned(reader, b"bob") is None


class _Reader:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


@pytest.mark.parametrize("large", decisions.HOSTS, ids=lambda large: large.name)
def test_the_hosts_of_decisions(large: decisions.Large, tmp_path: Path) -> None:
    """Half of the addresses are refused, else it raises."""
    root = tmp_path / "host"
    large.make(root, 50)
    asked = decisions.addresses(large, 50, 40)
    rates = decisions.measure(root, large, asked, rounds=1)
    assert rates.warm > 0
    assert rates.cold > 0


def test_the_picture_is_sound() -> None:
    groups = [
        Group("a < b & c", [("one", 3.0), ("two", 1.5), ("none", float("nan"))]),
        Group("nothing", [("one", float("nan"))]),
    ]
    root = ElementTree.fromstring(bars('The "title"', groups))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter() if element.text]
    assert "a < b & c" in texts
    assert "nothing" not in texts
    rectangles = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(rectangles) == 3  # the ground and two bars


def test_the_table() -> None:
    results = {
        "backstop": {"reject": [Row(30.0, count=1), Row(60.0, count=1)]},
        "nginx": {"reject": [Row(90.0, count=1), Row(0.0, trouble="failed")]},
    }
    lines = table(results, [workload("reject")]).splitlines()
    assert lines[-1] == "| refused session | 45 | 90 | 0.50 |"
    assert "30 to 60" in details(results, [workload("reject")])
