"""Every target: on the inputs that are kept, and on some made of its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import CASES, NAMES, cases_of, guarded, load
from tests.support.fuzz import fuzz

KEPT = sorted(path for path in CASES.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_kept_case(path: Path) -> None:
    guarded(load(path.parent.name))(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_made_of_tokens(name: str) -> None:
    target = load(name)
    piece = st.sampled_from(target.TOKENS) | st.binary(max_size=8)

    @fuzz
    @given(st.lists(piece, max_size=40).map(b"".join))
    def run(data: bytes) -> None:
        guarded(target)(data)

    run()


@pytest.mark.parametrize("name", NAMES)
def test_there_are_cases_to_begin_with(name: str) -> None:
    assert list(cases_of(name).iterdir())
