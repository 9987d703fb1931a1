"""What lies in deploy/: scripts that are well-formed, a unit that systemd takes."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy/systemd/backstop.service"
OURS = "/usr/local/backstop/bin/backstop"


@functools.cache
def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a command that this machine has."""
    true = shutil.which("true") or "/bin/true"
    for unit in UNIT.parent.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(OURS, true))
    return tmp_path


@pytest.mark.parametrize("name", ["backstop.service", "backstop.socket"])
def test_systemd_takes_the_unit(units: Path, name: str) -> None:
    done = _analyze("verify", "--man=no", str(units / name))
    told = done.stdout + done.stderr
    assert "backstop" not in told, told
    assert done.returncode == 0


def test_the_pages_that_the_unit_names_are_ours() -> None:
    named = re.findall(r"man:([\w.]+)\((\d)\)", UNIT.read_text())
    assert len(named) == 2
    for name, section in named:
        assert (ROOT / f"docs/man/{name}.{section}").is_file()


def test_systemd_takes_the_drop_in_for_a_command(units: Path) -> None:
    place = units / "backstop.service.d"
    place.mkdir()
    (units / "command.conf").rename(place / "command.conf")
    done = _analyze("verify", "--man=no", str(units / "backstop.service"))
    told = done.stdout + done.stderr
    assert "backstop" not in told, told
    assert "command.conf" not in told, told
    assert done.returncode == 0


def test_the_sandbox_is_strict(units: Path) -> None:
    """The exposure that deploy/README.md states, of 10."""
    unit = str(units / "backstop.service")
    done = _analyze("security", "--offline=true", "--no-pager", unit)
    if "nrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze knows no --offline")
    found = re.search(r"exposure level for backstop.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 2.5
    assert f"says {found[1]}, of 10" in (ROOT / "deploy/README.md").read_text()


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("deploy/*/**/run")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_run_scripts_are_shell(path: Path) -> None:
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=60)
    if "log" not in path.parts:
        assert f"exec {OURS} serve\n" in path.read_text()


def test_no_supervisor_sends_term_to_the_workers() -> None:
    """The main process passes it on, and the second ends them at once."""
    text = UNIT.read_text()
    assert "\nKillMode=mixed\n" in text
    assert "\nRestartPreventExitStatus=2\n" in text


def allowed_calls() -> set[str]:
    """The system calls that the unit allows, by systemd's own groups."""
    groups: dict[str, list[str]] = {"": []}
    name = ""
    for line in _analyze("syscall-filter", "--no-pager").stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
            groups[name] = []
        elif word and not word.startswith("#"):
            groups[name].append(word)

    def expanded(word: str) -> set[str]:
        if not word.startswith("@"):
            return {word}
        return set().union(*map(expanded, groups[word]))

    allowed = expanded("@default")
    for filter_ in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.M):
        calls = set().union(*map(expanded, filter_.lstrip("~").split()))
        allowed = allowed - calls if filter_.startswith("~") else allowed | calls
    return allowed


@pytest.mark.fault("P5")
def test_a_rules_author_is_told_our_types() -> None:
    """PEP 561: mypy reads the types of a package only with this file."""
    assert (ROOT / "proxy/py.typed").read_text() == ""


@pytest.mark.fault("C4")
def test_nothing_is_installed_from_where_it_is_not() -> None:
    """No index has the project: extras are installed from a checkout."""
    told = [ROOT / "README.md", ROOT / "config.example.toml", ROOT / "Dockerfile"]
    for pattern in ("proxy/**/*.py", "docs/**/*.md", "docs/man/*", "deploy/**/*.md"):
        told += ROOT.glob(pattern)
    assert len(told) > 100
    for path in told:
        text = path.read_text("utf-8").replace("\\-", "-")
        assert not re.search(r"install\s+'?qmail-backstop", text), path
