"""For all tests: hypothesis has no clock, since a loaded machine is no failure;
``--fault N1`` runs the tests that guard the mend of one fault."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault",
        action="append",
        default=[],
        metavar="NUMBER",
        help="only tests that guard this fault (N1, F3, ...); may be repeated",
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    wanted = set(config.getoption("fault"))
    if wanted:
        items[:] = [item for item in items if wanted & faults_of(item)]


def faults_of(item: pytest.Item) -> set[str]:
    """The numbers in ``@pytest.mark.fault(...)`` of a test, its class and module."""
    marks = item.iter_markers("fault")
    return {number for mark in marks for number in mark.args}
