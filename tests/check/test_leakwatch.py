"""``backstop check`` tells whether the leak watch can follow its log."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy.check.command import findings
from proxy.check.finding import WARNING
from proxy.cli import app
from proxy.config import load
from tests.live.surroundings import NOBODY, wants_root
from tests.support.small_host import lay_out

ROOT = {"BACKSTOP_PROCESS__ALLOW_ROOT": "true"}


def told(
    tmp_path: Path, log: Path, env: dict[str, str] | None = None, keys: str = ""
) -> list[str]:
    """What is said of the key, without the path of this machine."""
    config = tmp_path / "config.toml"
    if not config.exists():
        lay_out(tmp_path)
    text = config.read_text().partition("[leakwatch]")[0]
    config.write_text(f'{text}\n[leakwatch]\nlog = "{log}"\n{keys}')
    env = ROOT if env is None else env
    return [
        f"{found.problem.what}: {found.problem.remedy}"
        for found in findings(load(config, env), env)
        if found.problem.key == "leakwatch.log" and found.level == WARNING
    ]


def test_nothing_to_say(tmp_path: Path) -> None:
    log = tmp_path / "current"
    log.write_bytes(b"")  # just rotated
    assert told(tmp_path, log) == []
    for line in (
        "@40000000695fd4801b54d95c status: local 0/10 remote 0/20",
        "Jan  8 15:59:51 mx qmail: 1767887991.123456 end msg 7",
        "delivery 7: success: did_1+0+0/",
    ):
        log.write_text("x" * 100_000 + f"\n{line}\n")
        assert told(tmp_path, log) == []


def test_what_cannot_be_read(tmp_path: Path) -> None:
    cannot = "cannot be read by the front door's user"
    (line,) = told(tmp_path, tmp_path / "none")
    assert line == (
        f"{cannot}: No such file or directory: name the file that multilog, svlogd or"
        " syslog writes to"
    )
    (line,) = told(tmp_path, tmp_path)
    assert line == f"{cannot}: Is a directory: name the file current in it"
    os.mkfifo(tmp_path / "fifo")
    (line,) = told(tmp_path, tmp_path / "fifo")  # and does not wait for a writer
    assert line == f"{cannot}: not a regular file: see what it is"


def test_another_log(tmp_path: Path) -> None:
    log = tmp_path / "current"
    log.write_text("@40000000695fd4801b54d95c tcpserver: status: 1/40\n")
    (line,) = told(tmp_path, log)
    assert line.startswith("has no line of qmail-send's at its end: name")


def test_it_is_looked_at_as_the_run_user() -> None:
    wants_root()
    keys = f'[process]\nuser = "{NOBODY}"\ngroup = "{NOBODY}"\n'
    keys += "keep_read_capability = false\n"
    with tempfile.TemporaryDirectory() as name:  # not in a directory of root's
        place = Path(name)
        place.chmod(0o755)
        log = place / "current"
        log.write_text("status: local 0/10 remote 0/20\n")
        log.chmod(0o600)
        (line,) = told(place, log, {}, keys)
        assert "Permission denied: let that user read it" in line
        log.chmod(0o644)
        assert told(place, log, {}, keys) == []


def test_the_command_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTOP_PROCESS__ALLOW_ROOT", "true")
    told(tmp_path, tmp_path / "none")
    config = tmp_path / "config.toml"
    result = CliRunner().invoke(app, ["check", "-c", str(config)])
    assert result.exit_code == 0  # mail goes through all the same
    number = config.read_text().splitlines().index("[leakwatch]") + 2
    where = f"warning: {config}:{number}: leakwatch.log = "
    assert where in result.output
