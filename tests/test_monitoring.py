"""What others watch us with: alert rules, the dashboard, the filter for fail2ban."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.observe.catalogue import TABLE

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "deploy/monitoring/alerts.yml"
DASHBOARD = ROOT / "deploy/monitoring/grafana.json"
FILTER = ROOT / "deploy/fail2ban/backstop.conf"
GOLDEN = ROOT / "tests/observe/golden"

LABELS = {entry.name: {*entry.labels, "job", "instance"} for entry in TABLE}
# Of prometheus-client's ProcessCollector.
LABELS |= {
    f"process_{name}": {"job", "instance"}
    for name in ("cpu_seconds_total", "resident_memory_bytes")
}


def alert_expressions() -> Iterator[str]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def panel_expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


EXPRESSIONS = [*alert_expressions(), *panel_expressions()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_is_one_of_ours_with_such_labels(expression: str) -> None:
    used = re.findall(r"\b((?:backstop|process)_\w+)(?:\{([^}]*)\})?", expression)
    assert used or "up{" in expression
    for name, conditions in used:
        names = re.findall(r"(\w+)\s*(?:=|!)", conditions)
        assert set(names) <= LABELS[name], name
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    labels = set().union(*(LABELS[name] for name, _ in used)) if used else set()
    assert {g.strip() for each in grouped for g in each.split(",")} <= labels


@pytest.mark.skipif(not shutil.which("promtool"), reason="apt-get install prometheus")
def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    records = [
        {
            "record": f"panel:{number}",
            "expr": expression.replace("$__rate_interval", "5m"),
        }
        for number, expression in enumerate(panel_expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": records}]}))
    command = ["promtool", "check", "rules", str(ALERTS), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    """Ids are different, nothing overlaps, every panel shows something."""
    shown = panels()
    assert len({panel["id"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in shown:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["targets"]


# fail2ban

BAD = "limit=unknown_per_session"
FOUND = [
    "time=2026-11-23T01:44:47.250Z level=info event=limit session=s client=192.0.2.9 "
    + BAD,
    f"level=info event=limit session=4ff983-1 client=2001:db8::1 {BAD}",
    f"@400000006553f1a01a2b3c4d level=info event=limit session=s client=::1 {BAD}",
    f"2026-11-23_01:44:47.25000 level=info event=limit session=s client=::1 {BAD}",
    "Nov 23 01:44:47 mx backstop[4711]: level=info event=limit session=s client=::1 "
    + BAD,
    "level=info event=limit session=s client=192.0.2.9 limit=harvest_refuse_after",
    "level=info event=auth session=s client=192.0.2.9 mechanism=LOGIN outcome=refused"
    " code=535",
    '{"time":"2026-11-23T01:44:47.250Z","level":"info","event":"limit","session":"s",'
    '"client":"192.0.2.9","limit":"unknown_per_session"}',
    '{"time":"2026-11-23T01:44:47.250Z","level":"info","event":"auth","session":"s",'
    '"client":"192.0.2.9","mechanism":"LOGIN","outcome":"refused","code":535}',
]
HOSTILE = "event=limit session=s client=198.51.100.7 " + BAD
SPARED = [
    "level=info event=limit session=s client=192.0.2.9 limit=message_size",
    "level=info event=auth session=s client=192.0.2.9 mechanism=PLAIN outcome=accepted"
    " code=235",
    # A client that writes such a line into its HELO or address.
    "level=info event=recipient session=s client=192.0.2.9 "
    f'helo="level=info {HOSTILE}" recipient=a@example.test verdict=reject',
    f'level=info event=auth session=s client=192.0.2.9 mechanism="{HOSTILE}"'
    " outcome=lost code=421",
    '{"level":"info","event":"recipient","session":"s","client":"192.0.2.9",'
    '"helo":"{\\"level\\":\\"info\\",\\"event\\":\\"limit\\",\\"session\\":\\"s\\",'
    '\\"client\\":\\"198.51.100.7\\",\\"limit\\":\\"unknown_per_session\\"}"}',
]


SHOWN = ("--print-all-matched", "--print-no-missed", "--print-no-ignored")


def matched(lines: list[str], directory: Path) -> list[str]:
    log = directory / "log"
    # Without a time of its own a line has that of its file.
    log.write_text("".join(f"{line}\n" for line in lines))
    command = ["fail2ban-regex", *SHOWN, str(log), str(FILTER)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in lines if f"|  {line}" in done.stdout.splitlines()]


needs_fail2ban = pytest.mark.skipif(
    not shutil.which("fail2ban-regex"), reason="apt-get install fail2ban"
)


@needs_fail2ban
@pytest.mark.parametrize("line", FOUND)
def test_fail2ban_finds_who_guesses(line: str, tmp_path: Path) -> None:
    assert matched([line], tmp_path) == [line]


@needs_fail2ban
def test_fail2ban_spares_everybody_else(tmp_path: Path) -> None:
    assert matched(SPARED, tmp_path) == []


@needs_fail2ban
@pytest.mark.parametrize("name", ["logfmt", "json", "bare"])
def test_fail2ban_on_the_lines_that_we_write(name: str, tmp_path: Path) -> None:
    lines = (GOLDEN / f"{name}.txt").read_text("latin-1").splitlines()
    expected = [
        line
        for line in lines
        if BAD in line
        or '"limit":"unknown_per_session"' in line
        or ("535" in line and "refused" in line)
    ]
    assert len(expected) == 2
    assert matched(lines, tmp_path) == expected
