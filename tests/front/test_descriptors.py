"""The cap on connections and the process's limit on descriptors."""

from __future__ import annotations

import resource

import pytest

from proxy.front.descriptors import connections_that_fit


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The process's limits, in memory: the last entry holds."""
    held = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: held[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, new: held.append(new))
    return held


@pytest.mark.parametrize(
    ("wanted", "fit", "soft"),
    [
        (100, 100, 1024),  # nothing to do
        (1000, 1000, 2128),  # the soft limit is raised
        (4000, 1984, 4096),  # as far as it goes
        (0, 1984, 4096),  # no cap: as many as there can be
    ],
)
def test_what_fits(
    wanted: int, fit: int, soft: int, held: list[tuple[int, int]]
) -> None:
    assert connections_that_fit(wanted) == fit
    assert held[-1] == (soft, 4096)


def test_unlimited_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda what: unlimited)
    assert connections_that_fit(4000) == 4000
    assert connections_that_fit(0) > 500_000


def test_a_limit_that_may_not_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: int, new: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert connections_that_fit(4000) == 448
