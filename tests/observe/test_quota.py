"""What strangers can bring about again and again is told so often, no more."""

from __future__ import annotations

import pytest

from proxy.observe import events
from proxy.observe.quota import KINDS_MAX, LINES_MAX, Limiter, Quota


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen() -> list[events.Event]:
    return []


@pytest.fixture
def limiter(seen: list[events.Event], clock: Clock) -> Limiter:
    return Limiter(seen.append, now=clock)


def texts(seen: list[events.Event]) -> list[str]:
    return [event.text for event in seen if isinstance(event, events.Notice)]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (
            events.BackendFailed("s", "b", "connect", "refused"),
            "backend-failed step=connect",
        ),
        (events.Turned("192.0.2.1", "connections"), "turned-away limit=connections"),
        (
            events.LimitHit("s", "c", "unknown_per_session"),
            "limit limit=unknown_per_session",
        ),
    ],
)
def test_repetitions_are_counted(
    event: events.Event,
    kind: str,
    limiter: Limiter,
    seen: list[events.Event],
    clock: Clock,
) -> None:
    for _ in range(LINES_MAX + 5):
        limiter(event)
    assert seen == [event] * LINES_MAX
    clock.time += 59.9
    limiter.turn()
    assert len(seen) == LINES_MAX
    clock.time += 0.1
    limiter.turn()
    assert seen[LINES_MAX:] == [
        events.Notice("warning", f"5 more lines left out: {kind}")
    ]
    limiter(event)  # a new minute
    assert seen[-1] == event


def test_kinds_have_quotas_of_their_own(
    limiter: Limiter, seen: list[events.Event]
) -> None:
    for _ in range(1000):
        limiter(events.Turned("192.0.2.1", "connections"))
    limiter(events.Turned("192.0.2.2", "connections_per_client"))
    limiter(events.BackendFailed("s", "b", "DATA", "gone"))
    assert len(seen) == LINES_MAX + 2


def test_the_record_has_no_limit(limiter: Limiter, seen: list[events.Event]) -> None:
    decided = events.RecipientDecided(
        "s", "c", b"", b"", b"x@y", "reject", "", False, "qmail", "no", "550 no"
    )
    record: list[events.Event] = [
        events.Connected("s", "c"),
        decided,
        events.BackendRefusedRecipient("s", "c", b"x@y", "550 no"),
        events.MessageEnded("s", "c", b"", 1, 1, "unknown", "451", "", True, 0.1),
        events.Disconnected("s", "c", "quit", 0.1, 1, 1, 0),
        events.Notice("info", "started"),
    ]
    for event in record * 500:
        limiter(event)
    assert seen == record * 500


def test_notices_of_a_kind(
    limiter: Limiter, seen: list[events.Event], clock: Clock
) -> None:
    """The kind, not the text, is counted: a text may have an address in it."""
    for number in range(LINES_MAX + 1):
        limiter.notice("rule x: ValueError", "error", f"rule x: ValueError: {number}")
    limiter.notice("rule x: KeyError", "error", "rule x: KeyError: k")
    assert texts(seen)[-2:] == [
        f"rule x: ValueError: {LINES_MAX - 1}",
        "rule x: KeyError: k",
    ]
    limiter.close()
    assert texts(seen)[-1] == "1 more lines left out: rule x: ValueError"
    limiter.close()
    assert len(seen) == LINES_MAX + 2


def test_nothing_left_out_is_nothing_told(
    limiter: Limiter, seen: list[events.Event], clock: Clock
) -> None:
    limiter(events.Turned("192.0.2.1", "connections"))
    clock.time += 1000
    limiter.turn()
    limiter.close()
    assert len(seen) == 1


def test_endless_kinds_share_a_quota(clock: Clock) -> None:
    told: list[str] = []
    quota = Quota(told.append, lines=3, now=clock)
    admitted = [quota.admits(f"kind {number}") for number in range(KINDS_MAX + 10)]
    assert admitted.count(True) == KINDS_MAX + 3
    assert len(quota._counts) == KINDS_MAX + 1
    quota.settle()
    assert told == ["7 more lines left out: lines of other kinds"]


def test_a_clock_that_jumps_ahead_begins_one_window(clock: Clock) -> None:
    told: list[str] = []
    quota = Quota(told.append, lines=1, now=clock)
    for _ in range(3):
        quota.admits("x")
    clock.time += 1e6
    assert quota.admits("x")
    assert told == ["2 more lines left out: x"]
    assert not quota.admits("x")
