"""Each mended fault of the trial of December 2026 (``data/faults.txt``) has a test that
failed before: ``pytest --fault N1`` runs those of one number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import faults_of

_LIST = (Path(__file__).parent / "data/faults.txt").read_text()
MENDED, OPEN = (part.split() for part in _LIST.split("# Open, or open in part\n"))


def test_every_fault_has_a_test(request: pytest.FixtureRequest) -> None:
    if request.config.args != request.config.getini("testpaths"):
        pytest.skip("only a part of the tests was asked for")
    guarded = {number for item in request.session.items for number in faults_of(item)}
    assert [number for number in MENDED if number not in guarded] == []


def test_marks_name_known_faults(request: pytest.FixtureRequest) -> None:
    named = {number for item in request.session.items for number in faults_of(item)}
    assert named <= {*MENDED, *OPEN}
