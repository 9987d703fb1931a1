"""F-breaker: when a backend that cannot be reached is left in peace."""

from __future__ import annotations

from proxy.backend.breaker import Attempt, Breaker

USUAL, PROBE, FORBIDDEN = Attempt.USUAL, Attempt.PROBE, Attempt.FORBIDDEN


def opened(now: float = 0.0) -> Breaker:
    """After three failures, for ten seconds."""
    breaker = Breaker(3, 10.0)
    for _ in range(3):
        assert not breaker.open
        breaker.failed(breaker.admit(now), now)
    assert breaker.open
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert breaker.admit(0.0) is FORBIDDEN
    assert breaker.admit(9.9) is FORBIDDEN


def test_a_success_between_them_counts() -> None:
    breaker = Breaker(3, 10.0)
    for _ in range(5):
        breaker.failed(breaker.admit(0.0), 0.0)
        breaker.failed(breaker.admit(0.0), 0.0)
        breaker.succeeded()
    assert breaker.admit(0.0) is USUAL


def test_one_probe_is_let_through() -> None:
    breaker = opened()
    assert breaker.admit(10.0) is PROBE
    assert breaker.admit(10.0) is FORBIDDEN
    assert breaker.admit(100.0) is FORBIDDEN
    breaker.succeeded()
    assert [breaker.admit(100.0) for _ in range(3)] == [USUAL] * 3


def test_a_probe_that_fails_begins_the_pause_anew() -> None:
    breaker = opened()
    breaker.failed(breaker.admit(12.0), 15.0)
    assert breaker.admit(24.9) is FORBIDDEN
    assert breaker.admit(25.0) is PROBE


def test_a_probe_that_is_given_up_makes_room_for_another() -> None:
    breaker = opened()
    breaker.abandoned(breaker.admit(10.0))
    assert breaker.admit(10.0) is PROBE


def test_attempts_from_before_neither_lengthen_the_pause_nor_end_the_probe() -> None:
    breaker = Breaker(3, 10.0)
    attempts = [breaker.admit(0.0) for _ in range(6)]
    assert attempts == [USUAL] * 6
    for attempt in attempts[:3]:
        breaker.failed(attempt, 0.0)
    breaker.failed(attempts[3], 5.0)
    assert breaker.admit(10.0) is PROBE
    breaker.failed(attempts[4], 11.0)
    breaker.abandoned(attempts[5])
    assert breaker.admit(11.0) is FORBIDDEN


def test_zero_never_opens() -> None:
    breaker = Breaker(0, 10.0)
    for _ in range(100):
        breaker.failed(breaker.admit(0.0), 0.0)
    assert breaker.admit(0.0) is USUAL


def test_another_backend_begins_with_nothing() -> None:
    breaker = opened()
    breaker.forget()
    assert breaker.admit(0.0) is USUAL
