"""A real qmail's log with ours, as tests/live/test_real_leaks.py makes them (names,
times and uids changed): what the report makes of it, in whatever form it comes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proxy.cli import app
from proxy.report.command import Asked, report
from proxy.report.stamp import Clock

DATA = Path(__file__).parents[1] / "data/report"
OURS, THEIRS = DATA / "ours.log", DATA / "qmail-send.log"
EXPECTED: dict[str, Any] = json.loads((DATA / "report.json").read_text())
_TAI = (1 << 62) + 10
NOW = 1_767_900_000.0  # some hours later


def command(*options: str) -> str:
    asked = ["report", str(OURS), "--qmail-log", str(THEIRS), *options]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_text() -> None:
    assert command() == (DATA / "report.txt").read_text()


def test_json() -> None:
    assert json.loads(command("--json")) == EXPECTED


def test_both_kinds_of_error_are_in_it() -> None:
    """So that the recording goes on showing something."""
    found = EXPECTED["qmail"]
    totals = {kind: found[kind]["total"] for kind in found if "total" in found[kind]}
    assert totals == {
        "leaks": 2,
        "bounced_elsewhere": 0,
        "false_refusals": 1,
        "false_deferrals": 0,
        "suspects": 1,
        "not_through_us": 1,
    }


def test_another_log_is_no_good_news(tmp_path: Path) -> None:
    other = tmp_path / "current"
    other.write_text("@40000000695fd4801b54d95c tcpserver: status: 1/40\n")
    asked = ["report", str(OURS), "--qmail-log", str(other)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "none of our 4 messages is in qmail-send's log" in result.output


Restamp = Callable[[int, str], str]
"""Takes seconds since 1970 and nanoseconds as eight hexadecimal digits."""


def _syslog(when: int, _: str) -> str:
    at = time.strftime("%b %e %H:%M:%S", time.localtime(when))
    return f"{at} mx qmail-send[99]: "


def _splogger(when: int, fraction: str) -> str:
    return _syslog(when, fraction) + f"{when}.{int(fraction, 16) // 1000:06} "


def _local(when: int, fraction: str) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    return f"{at}.{int(fraction, 16):09} "


def _utc(form: str) -> Restamp:
    return lambda when, _: time.strftime(form, time.gmtime(when))


FORMS: dict[str, Restamp] = {
    "multilog t, svlogd -t": lambda when, f: f"@{when + _TAI:016x}{f} ",
    "tai64nlocal": _local,
    "svlogd -tt": _utc("%Y-%m-%d_%H:%M:%S.12345 "),
    "svlogd -ttt": _utc("%Y-%m-%dT%H:%M:%S.12345 "),
    "syslog": _syslog,
    "syslog with splogger's number": _splogger,
    "rsyslog's new form": _utc("%Y-%m-%dT%H:%M:%S.123456+00:00 mx qmail: "),
    "journalctl -o short-iso": _utc("%Y-%m-%dT%H:%M:%S+0000 mx qmail[7]: "),
    "journalctl -o short-unix": lambda when, _: f"{when}.123456 mx qmail[7]: ",
    "none": lambda when, f: "",
}


def restamped(text: str, restamp: Restamp) -> str:
    return re.sub(
        r"(?m)^@([0-9a-f]{16})([0-9a-f]{8}) ",
        lambda match: restamp(int(match[1], 16) - _TAI, match[2]),
        text,
    )


def without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {k: without_times(v) for k, v in found.items() if k != "time"}
    return [without_times(v) for v in found] if isinstance(found, list) else found


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/St_Johns"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The machine's time zone, and the time."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    later = partial(Clock, lambda: NOW)
    monkeypatch.setattr("proxy.report.command.Clock", later)
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("form", FORMS)
def test_each_kind_of_time_stamp(tmp_path: Path, zone: str, form: str) -> None:
    theirs = tmp_path / "maillog"
    theirs.write_text(restamped(THEIRS.read_text(), FORMS[form]))
    assert theirs.read_text() != THEIRS.read_text() or "-t" in form
    found = report(Asked([str(OURS)], [str(theirs)]))
    if form == "none":
        assert without_times(found) == without_times(EXPECTED)
    else:
        assert found == EXPECTED


def test_our_log_below_other_loggers(tmp_path: Path) -> None:
    for form in FORMS:
        ours = tmp_path / "backstop.log"
        stamp = FORMS[form](1_767_887_991, "00000000")
        text = OURS.read_text()
        ours.write_text("".join(stamp + line for line in text.splitlines(True)))
        assert report(Asked([str(ours)], [str(THEIRS)])) == EXPECTED, form


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    "": bytes,
}


def later(line: str, seconds: int) -> str:
    """The recording is of one second: pieces of it need times of their own."""
    line = line.replace("T15:59:51.", f"T15:59:{51 + seconds}.")
    return restamped(line, lambda when, f: f"@{when + seconds + _TAI:016x}{f} ")


@pytest.mark.parametrize("suffix", PACKERS)
def test_rotated_and_compressed(tmp_path: Path, suffix: str) -> None:
    """Both logs in three files, the newest named first, all others packed."""
    asked: list[list[str]] = []
    for path in (OURS, THEIRS):
        lines = path.read_text().splitlines(keepends=True)
        third = len(lines) // 3
        asked.append([])
        for age in range(3):
            first = (2 - age) * third
            piece = lines[first : first + third if age else None]
            content = "".join(later(line, 2 - age) for line in piece).encode()
            name = tmp_path / f"{path.name}.{age}{suffix if age else ''}"
            name.write_bytes(PACKERS[suffix](content) if age else content)
            asked[-1].append(str(name))
    found = report(Asked(asked[0], asked[1]))
    assert without_times(found["qmail"]) == without_times(EXPECTED["qmail"])
    assert found["recipients"] == EXPECTED["recipients"]
    assert found["to"] == "2026-01-08T15:59:53Z"


def test_a_directory_of_multilog(tmp_path: Path) -> None:
    lines = THEIRS.read_bytes().splitlines(keepends=True)
    (tmp_path / "lock").write_bytes(b"")
    (tmp_path / "state").write_bytes(b"status: not for us\n")
    (tmp_path / f"@{lines[30][1:25].decode()}.s").write_bytes(b"".join(lines[:31]))
    (tmp_path / f"@{lines[50][1:25].decode()}.u").write_bytes(b"".join(lines[31:51]))
    (tmp_path / "current").write_bytes(b"".join(lines[51:]))
    assert report(Asked([str(OURS)], [str(tmp_path)])) == EXPECTED


def test_small_blocks_and_a_last_line_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a block ends makes no difference, but to who is ahead of whom."""
    monkeypatch.setattr("proxy.report.sources.BLOCK", 300)
    theirs = tmp_path / "current"
    theirs.write_bytes(THEIRS.read_bytes().rstrip(b"\n"))
    assert report(Asked([str(OURS)], [str(theirs)])) == EXPECTED
