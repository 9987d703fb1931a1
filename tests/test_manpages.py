"""The manual pages are what commands and models say, and are good roff."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.config.keys import key_paths
from proxy.manpages import commands_page, configuration_page, write

MAN = Path(__file__).parent.parent / "docs/man"
PAGES = ("backstop.1", "backstop.toml.5")


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_what_the_program_says(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    assert (MAN / name).read_text() == (tmp_path / name).read_text()


def test_every_key_is_in_its_page() -> None:
    page = configuration_page().replace("\\-", "-")
    for path in key_paths():
        assert f"\\fB{path[-1]}\\fR" in page, path


def test_every_command_is_in_its_page() -> None:
    page = commands_page()
    for name in ("serve", "explain", "check", "demo", "ready"):
        assert f".SS \\fBbackstop {name}\\fR" in page


@pytest.mark.skipif(not shutil.which("mandoc"), reason="apt-get install mandoc")
@pytest.mark.parametrize("name", PAGES)
def test_they_are_good_roff(name: str) -> None:
    page = str(MAN / name)
    found = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "error", page], capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (0, "")
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", page], capture_output=True, text=True, check=True
    )
    assert "\\" not in shown.stdout.replace("\\-", "")
