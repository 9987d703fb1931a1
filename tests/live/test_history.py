"""``status.history``: the page's numbers of days outlive the service."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.live.process import PATIENCE, Served, Settings, run, serving
from tests.live.process import write_config as write
from tests.live.test_serve import codes_for
from tests.live.test_workers import children


async def tile(served: Served, label: str) -> int:
    _, page = await served.get("/")
    found = re.search(rf"<b>([\d,]+)</b> {label}<", page)
    assert found, page
    return int(found[1].replace(",", ""))


async def shown(served: Served, wanted: int) -> None:
    """Other workers' numbers come a little later."""
    async with asyncio.timeout(PATIENCE):
        while await tile(served, "bounces prevented today") != wanted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_restart_keeps_the_numbers(
    tmp_path: Path, settings: Settings, workers: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    kept = {
        **settings,
        "listen.workers": workers,
        "status.history": str(state / "history"),
    }
    for times in (1, 2, 3):
        async with serving(tmp_path, kept) as served:
            await served.said(" serves ", times=workers)
            assert await codes_for(served, b"nobody@example.test") == [550]
            await shown(served, times)
            assert await tile(served, "bounces prevented in 31 days") == times
            assert "kept over restarts" in (await served.get("/"))[1]
        assert [each.name for each in state.iterdir()] == ["history"]


async def test_a_worker_that_is_replaced_counts_nothing_twice(
    tmp_path: Path, settings: Settings
) -> None:
    """It reads what the last service left, not what it had itself."""
    kept = {**settings, "status.history": str(tmp_path / "history")}
    async with serving(tmp_path, kept) as served:
        assert await codes_for(served, b"nobody@example.test") == [550]
        await shown(served, 1)
    async with serving(tmp_path, {**kept, "listen.workers": 2}) as served:
        await served.said(" serves ", times=2)
        for pid in children(served):
            os.kill(pid, SIGKILL)
        await served.said(" serves ", times=4)
        assert await codes_for(served, b"nobody@example.test") == [550]
        await shown(served, 2)


async def test_what_is_wrong_with_it_is_told(
    tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "history"
    path.write_text("{")
    kept = {**settings, "status.history": str(path)}
    async with serving(tmp_path, kept) as served:
        line = await served.said(f"status.history: {path} is damaged (not JSON)")
        assert "level=error" in line
        assert await codes_for(served, b"nobody@example.test") == [550]
        await shown(served, 1)
    gone = tmp_path / "gone/history"
    async with serving(tmp_path, {**kept, "status.history": str(gone)}) as served:
        served.signal(SIGTERM)
        await served.said(f"status.history: {gone} cannot be written: No such file")
        await served.finished()
    config = write(tmp_path / "config.toml", {**kept, "status.history": str(gone)})
    _, out, _ = await run("check", "-c", str(config))
    assert f"{gone.parent} is no directory" in out


def files(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))


async def test_nothing_is_written_without_it(
    tmp_path: Path, settings: Settings
) -> None:
    async with serving(tmp_path, settings) as served:
        assert await codes_for(served, b"nobody@example.test") == [550]
        await shown(served, 1)
        assert "UTC, the last start" in (await served.get("/"))[1]
        before = files(tmp_path)
    assert files(tmp_path) == before
