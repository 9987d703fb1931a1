"""What each worker has of what is for all of them."""

from __future__ import annotations

import pytest

from proxy.backend.settings import BackendSettings


@pytest.mark.fault("N17")
@pytest.mark.parametrize(
    ("whole", "workers", "parts"),
    [
        (40, 1, [40]),
        (40, 3, [14, 13, 13]),
        (4, 4, [1, 1, 1, 1]),
        (2, 4, [1, 1, 1, 1]),  # one at least: else nobody there is served
    ],
)
def test_parts_are_the_whole(whole: int, workers: int, parts: list[int]) -> None:
    settings = BackendSettings(connections=whole, command_concurrency=whole, kept=whole)
    got = [settings.part(worker, workers) for worker in range(workers)]
    assert [each.connections for each in got] == parts
    assert [each.command_concurrency for each in got] == parts
    assert [each.kept for each in got] == parts


def test_no_limit_stays_none() -> None:
    assert BackendSettings(connections=0).part(1, 4).connections == 0
    assert BackendSettings(kept=0).part(1, 4).kept == 0
