"""Steps of pressure, the pace of a message, what workers count together."""

from __future__ import annotations

import os

import pytest

from proxy.front.common import _NEWS, DELIVERED, GUESSED, Common
from proxy.front.pace import WINDOW, Pace
from proxy.front.pressure import Patience, Pressure, limits_under
from proxy.smtp.driver import Limits


def levels(cap: int, counts: list[int]) -> list[int]:
    pressure = Pressure(cap)
    found = []
    for count in counts:
        if count >= pressure.up or count <= pressure.down:
            assert pressure.look(count)
        found.append(pressure.level)
    return found


def test_steps_are_entered_and_left_at_different_counts() -> None:
    assert levels(100, [74, 75, 89, 90, 80, 79, 65, 64, 0]) == [
        0,
        1,
        1,
        2,
        2,
        1,
        1,
        0,
        0,
    ]


def test_it_does_not_flicker() -> None:
    assert levels(100, [75, 74, 75, 74, 90, 89, 90, 89]) == [1, 1, 1, 1, 2, 2, 2, 2]


def test_several_steps_at_once() -> None:
    assert levels(100, [100, 0, 95]) == [2, 0, 2]


@pytest.mark.parametrize("cap", range(1, 60))
def test_small_caps_come_to_rest(cap: int) -> None:
    counts = [*range(cap + 1), *range(cap, -1, -1)]
    found = levels(cap, counts)
    assert found[cap] == 2
    assert found[0] == found[-1] == 0


def test_without_a_cap_there_is_no_pressure() -> None:
    assert set(levels(0, [0, 10, 10_000, 0])) == {0}


def test_patience_becomes_shorter_and_what_is_none_stays_none() -> None:
    pressure = Pressure(10)
    pressure.look(8)
    usual, none = Patience(300.0, 180.0, 100), Patience(0.0, 0.0, 0)
    assert usual.under(pressure.step) == (60.0, 60.0, 500)
    assert none.under(pressure.step) == none
    assert limits_under(Limits(), pressure.step) == Limits()
    pressure.look(9)
    assert usual.under(pressure.step) == (10.0, 30.0, 500)
    assert Patience(5.0, 5.0, 1).under(pressure.step) == (5.0, 5.0, 5)
    hard = limits_under(Limits(unknown_recipients=0), pressure.step)
    assert (hard.unknown_recipients, hard.errors) == (0, 3)


# The pace.


def test_the_first_window_is_free_and_each_next_one_counts() -> None:
    pace = Pace(1000.0, 100)
    assert pace.ends == 1000.0 + WINDOW
    assert not pace.too_slow(1060.0, 1)
    assert not pace.too_slow(1120.0, 6001)
    assert not pace.too_slow(1180.0, 12001)
    assert pace.too_slow(1240.0, 18000)


def test_time_in_which_the_client_is_not_read_is_not_counted() -> None:
    pace = Pace(0.0, 100)
    pace.read(10.0, False)
    pace.read(500.0, True)
    pace.read(501.0, True)
    assert pace.ends == WINDOW + 490.0


def test_no_rate_no_window() -> None:
    assert Pace(0.0, 0).ends == float("inf")


# What workers count together.


def test_columns_add_up() -> None:
    common = Common(3)
    one, two, three = map(common.column, range(3))
    one.enter(7)
    two.enter(7)
    two.enter(8)
    assert (one.elsewhere(), two.elsewhere(), three.elsewhere()) == (2, 1, 3)
    assert one.of_client_elsewhere(7) == 1
    assert three.of_client_elsewhere(7) == 2
    two.leave(7)
    assert three.of_client_elsewhere(7) == 1
    assert common.column(1).elsewhere() == 1  # its successor
    assert three.elsewhere() == 1


def test_news_are_read_once_and_the_oldest_are_lost() -> None:
    common = Common(2)
    one, two = common.column(0), common.column(1)
    one.tell((1 << 62) - 1, DELIVERED)
    one.tell(5, GUESSED)
    assert list(two.news()) == [((1 << 62) - 1, DELIVERED), (5, GUESSED)]
    assert list(two.news()) == list(one.news()) == []
    for client in range(_NEWS + 3):
        one.tell(client, GUESSED)
    assert [client for client, _ in two.news()] == list(range(3, _NEWS + 3))
    one.tell(9, GUESSED)
    assert list(common.column(1).news()) == []  # what was before is not told again


def test_the_memory_is_shared_with_a_fork() -> None:
    common = Common(2)
    one = common.column(0)
    process = os.fork()
    if process == 0:
        try:
            two = common.column(1)
            two.enter(3)
            two.tell(3, GUESSED)
        finally:
            os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    assert one.elsewhere() == one.of_client_elsewhere(3) == 1
    assert list(one.news()) == [(3, GUESSED)]
