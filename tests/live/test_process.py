"""What tests learn of a running service: all of its log, or nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.process import Settings, serving


async def test_a_log_is_there_when_it_is_whole(
    tmp_path: Path, settings: Settings
) -> None:
    """Else what is counted in it, or missed, depends on the machine's mood."""
    async with serving(tmp_path, settings) as served:
        for early in ("log", "lines"):
            with pytest.raises(AssertionError, match=r"wait with said\(\)"):
                getattr(served, early)
        assert " serves " in await served.said(" serves ")
        assert "qmail-backstop" in served.so_far
    assert served.lines[-1].endswith("text=stopped")
    assert served.log.splitlines() == served.lines


async def test_what_is_never_said_is_told_at_the_end(
    tmp_path: Path, settings: Settings
) -> None:
    """Without a time-out: it can not come any more."""
    async with serving(tmp_path, settings) as served:
        pass
    with pytest.raises(AssertionError, match="serves"):
        await served.said("no such line")
