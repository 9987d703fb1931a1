"""The distribution: built, installed where nothing else is, and started."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.live.process import Settings, serving
from tests.support.small_host import config, lay_out

ROOT = Path(__file__).parent.parent.parent
# The shell is named, not to be found out.
DETECTED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
MAN_PAGES = ("share/man/man1/backstop.1", "share/man/man5/backstop.toml.5")


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def built(place: Path) -> Path:
    """The wheel, made from the source distribution, as ``python -m build`` does."""
    run(sys.executable, "-m", "build", "--outdir", place, ROOT)
    (source,) = place.glob("*.tar.gz")
    assert source.stat().st_size > 100_000
    (wheel,) = place.glob("*.whl")
    return wheel


def installed(wheel: Path, place: Path) -> Path:
    """A new environment with the wheel and what it needs, and nothing else."""
    venv.create(place, with_pip=True)
    run(place / "bin/pip", "install", "--quiet", wheel)
    return place


@pytest.mark.timeout(900)
async def test_it_is_whole_where_nothing_else_is(tmp_path: Path) -> None:
    """One test: what it builds takes half a minute."""
    place = installed(built(tmp_path / "dist"), tmp_path / "clean")
    backstop = place / "bin/backstop"
    assert run(backstop, "--version").startswith("backstop ")
    for page in MAN_PAGES:
        assert (place / page).read_text().startswith(".TH")
    completes(backstop)
    lay_out(tmp_path)
    told = run(
        backstop, "explain", "--json", "-c", config(tmp_path), "alice@example.test"
    )
    assert '"verdict": "accept"' in told
    settings: Settings = {"qmail.root": str(tmp_path / "host")}
    python = str(place / "bin/python")
    alone = {"PYTHONPATH": ""}
    async with serving(tmp_path, settings, alone, python=python) as served:
        assert await served.get("/healthz") == (200, "ok\n")


def completes(backstop: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = run(backstop, "--show-completion", shell, **DETECTED)
        assert "_BACKSTOP_COMPLETE" in script
    words = run(
        backstop,
        _BACKSTOP_COMPLETE="complete_bash",
        COMP_WORDS="backstop ex",
        COMP_CWORD="1",
    )
    assert words.split() == ["explain"]
