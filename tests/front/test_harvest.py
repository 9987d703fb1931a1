"""Who is suspected of guessing, for how long, and who never is."""

from __future__ import annotations

import pytest

from proxy.front import harvest
from proxy.front.client import client_key, client_number
from proxy.front.harvest import DELAY_MAX, REFUSE, Harvest, HarvestSettings

USUAL = HarvestSettings()
A, B = 1, 2


def guesses(
    table: Harvest, count: int, now: float = 0.0, client: int = A
) -> list[float]:
    return [table.guessed(client, now) for _ in range(count)]


def test_a_typo_costs_nothing() -> None:
    assert guesses(Harvest(USUAL), 10) == [0.0] * 10


def test_then_each_refusal_waits_longer_and_then_it_is_421() -> None:
    table = Harvest(USUAL)
    guesses(table, 10)
    waits = guesses(table, 40)
    assert waits == [min(float(n), DELAY_MAX) for n in range(1, 41)]
    assert not table.refuses(A, 0.0)
    assert table.guessed(A, 0.0) == REFUSE
    assert table.refuses(A, 0.0)
    assert not table.refuses(B, 0.0)


def test_a_refusal_ends_and_the_rest_is_remembered() -> None:
    table = Harvest(USUAL)
    guesses(table, 51)
    assert table.refuses(A, 899.0)
    assert not table.refuses(A, 900.0)
    table.sweep(900.0)
    assert not table.refused
    # Fifteen minutes are fifteen guesses; the next one is not free.
    assert table.guessed(A, 900.0) == 26.0
    assert REFUSE in guesses(table, 15, 900.0)


def test_guesses_are_forgiven_one_a_minute() -> None:
    table = Harvest(USUAL)
    guesses(table, 10)
    assert table.guessed(A, 60.0) == 0.0
    assert table.guessed(A, 90.0) == 0.5
    assert guesses(table, 10, 3600.0) == [0.0] * 10


def test_one_guess_a_minute_goes_on_for_ever() -> None:
    table = Harvest(USUAL)
    assert {table.guessed(A, 60.0 * n) for n in range(1000)} == {0.0}


def test_accepted_mail_lets_a_refused_client_in_again() -> None:
    table = Harvest(USUAL)
    guesses(table, 51)
    assert table.delivered(A, 10.0)  # from a session that was open
    assert not table.refuses(A, 11.0)
    assert guesses(table, 20, 11.0) == [0.0] * 20  # its credit
    day = 86400.0
    assert table.delivered(A, 20.0)
    assert guesses(table, 11, day + 21.0)[-1] > 0  # which ends


def test_a_flood_of_guessers_pushes_no_good_client_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harvest, "CLIENTS_MAX", 100)
    table = Harvest(USUAL)
    table.delivered(A, 0.0)
    for client in range(10, 10_010):
        guesses(table, 51, 1.0, client)
    assert len(table._guessers) == len(table.refused) == 100
    assert guesses(table, 20, 2.0) == [0.0] * 20


def test_the_longest_unseen_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest, "CLIENTS_MAX", 2)
    table = Harvest(USUAL)
    for client in (1, 2, 1, 3):
        table.guessed(client, 0.0)
        table.delivered(client + 10, 0.0)
    assert list(table._guessers) == [1, 3]
    assert list(table._good) == [11, 13]


@pytest.mark.parametrize("part", ["delay_after", "refuse_after"])
def test_zero_is_none(part: str) -> None:
    settings = HarvestSettings(**{part: 0})
    found = set(guesses(Harvest(settings), 200))
    assert (REFUSE in found) == (part == "delay_after")
    assert bool(found - {REFUSE, 0.0}) == (part == "refuse_after")


def test_without_settings_nobody_is_suspected() -> None:
    table = Harvest(USUAL)
    guesses(table, 51)
    table.configure(None)
    assert not table.refuses(A, 0.0)
    assert guesses(table, 100) == [0.0] * 100
    table.configure(USUAL)
    assert guesses(table, 10) == [0.0] * 10


def test_memory_of_a_full_table_is_small() -> None:
    """Twenty thousand guessers: some megabytes, whatever comes after."""
    table = Harvest(USUAL)
    for client in range(harvest.CLIENTS_MAX + 5000):
        table.guessed(client, 0.0)
    assert len(table._guessers) == harvest.CLIENTS_MAX


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
    ],
)
def test_what_one_client_is(one: str, other: str, same: bool) -> None:
    assert (client_key(one) == client_key(other)) is same
    assert (client_number(one) == client_number(other)) is same
    assert 0 <= client_number(one) < 1 << 62
