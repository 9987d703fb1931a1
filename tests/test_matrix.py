"""The reliability matrix: every case that was agreed on has a test by its name.

A case is found by its name in a test's name, id or docstring, or in the name of
a readable dialogue; dots, dashes and underscores do not count.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.front.test_backend_faults import TABLE

HERE = Path(__file__).parent

CASES = (HERE / "data/matrix.txt").read_text().split()

# Not here: L-300tps, L-throughput and L-soak are rates and hours: bench/README.md.

# The table of backend faults: each of these, at each of these steps.
STEPS = ["greeting", "ehlo", "mail", "rcpt", "data", "dot"]
FAULTS = ["silent", "fin", "rst", "4xx", "5xx", "421", "wrong-class", "garbage"]
FAULTS += ["endless"]


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9\n]", "", text.lower())


SOURCES = [path for path in sorted(HERE.rglob("*.py")) if path != Path(__file__)]
DIALOGUES = sorted((HERE / "dialogs").glob("*.txt"))
TESTS = plain(
    "\n".join([*(p.read_text("utf-8") for p in SOURCES), *(p.stem for p in DIALOGUES)])
)


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_a_test(case: str) -> None:
    assert plain(case) in TESTS


def test_every_fault_at_every_step() -> None:
    rows = {str(row) for row in TABLE}
    assert {f"F-{step}-{fault}" for step in STEPS for fault in FAULTS} <= rows
