"""What a child without rights tells root."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from proxy.check.process import in_a_child, texts


@pytest.mark.fault("D6")
def test_an_answer_comes_as_it_is() -> None:
    rows = [["error", "f", "bytes \udcff and ü", "", 3]]
    assert in_a_child(lambda: rows) == rows


class _Evil:
    """Once unpickled, a directory."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


@pytest.mark.fault("D6")
@pytest.mark.parametrize("data", [None, b"", b"[" * 100_000, b"\xff", b"{"])
def test_nothing_else_is_believed(
    data: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    sent = pickle.dumps(_Evil(made)) if data is None else data
    pipes: list[tuple[int, int]] = []
    real = os.pipe

    def pipe() -> tuple[int, int]:
        pipes.append(real())
        return pipes[-1]

    def ask() -> object:
        """The child is in another's hands, and says what it likes."""
        os.write(pipes[-1][1], sent)
        os._exit(0)

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(ChildProcessError):
        in_a_child(ask)
    assert not made.exists()


@pytest.mark.fault("D6")
@pytest.mark.parametrize("row", [None, {}, [], ["a"], ["a", 1], ["a", None], "ab"])
def test_rows_of_texts_only(row: object) -> None:
    with pytest.raises(ChildProcessError):
        texts(row, 2)


@pytest.mark.fault("D6")
def test_a_terminal_obeys_nothing_of_it() -> None:
    hostile = "\x1b]0;title\x07 \r\n\x9b2J \u202e \udcff é"
    assert texts([hostile], 1) == [
        "\\x1b]0;title\\x07 \\x0d\\x0a\\x9b2J \\x202e \\xdcff é"
    ]
