"""The numbers of before: what is kept, and for how long."""

from __future__ import annotations

import itertools

import pytest

from proxy.observe.events import RecipientDecided
from proxy.observe.history import SLOTS, History, Numbers
from proxy.observe.recent import AT_ONCE, LAST, Recent, together

DAY = 86400.0
NOON = 20_000 * DAY + DAY / 2


def test_slots_are_without_gaps_and_end_now() -> None:
    history = History()
    history.sample(Numbers(3, 2, 1), NOON)
    history.sample(Numbers(5, 2, 1), NOON + 1300)
    slots = history.slots(NOON + 1300)
    assert len(slots) == SLOTS
    assert [slot.numbers for slot in slots[-3:]] == [
        Numbers(3, 2, 1),
        Numbers(),
        Numbers(2, 0, 0),
    ]
    assert [b.began - a.began for a, b in itertools.pairwise(slots)] == [600] * (
        SLOTS - 1
    )


def test_days() -> None:
    history = History()
    history.sample(Numbers(1, 0, 0), NOON)
    history.sample(Numbers(11, 5, 0), NOON + DAY)
    assert history.days(1, NOON + DAY) == Numbers(10, 5, 0)
    assert history.days(31, NOON + DAY) == Numbers(11, 5, 0)
    assert history.days(31, NOON + 31 * DAY) == Numbers(10, 5, 0)
    assert history.days(31, NOON + 40 * DAY) == Numbers()


def test_what_is_old_is_forgotten() -> None:
    history = History()
    for number in range(1000):
        history.sample(Numbers(number, 0, 0), NOON + number * 600)
    assert len(history._slots) == SLOTS
    for number in range(100):
        history.sample(Numbers(1000 + number, 0, 0), NOON + number * DAY * 10)
    assert len(history._days) <= 31


@pytest.mark.parametrize("back", [1.0, 7200.0, 3 * DAY])
def test_a_clock_that_is_set_back(back: float) -> None:
    history = History()
    history.sample(Numbers(1, 0, 0), NOON)
    history.sample(Numbers(3, 0, 0), NOON - back)
    assert history.days(31, NOON) == Numbers(3, 0, 0)


def test_a_worker_that_is_new_takes_nothing_away() -> None:
    """Its numbers begin anew where those of before are not carried over."""
    history = History()
    history.sample(Numbers(100, 0, 0), NOON)
    history.sample(Numbers(60, 0, 0), NOON + 1)
    history.sample(Numbers(65, 0, 0), NOON + 2)
    assert history.days(1, NOON) == Numbers(105, 0, 0)


def test_the_frequent_is_kept_in_bounded_memory() -> None:
    recent = Recent()
    for number in range(30_000):
        name = b"often@y" if number % 3 == 0 else b"rare%d@y" % number
        recent(decided(name, "192.0.2.1"))
        if number % AT_ONCE == 0:
            recent.count()
    assert len(recent._recipients.items()) <= 2000
    shown, count = recent.seen().recipients[0]
    assert shown == "often@y"
    assert count <= 10_000


def test_what_workers_saw_together() -> None:
    workers = []
    for worker in range(3):
        clock = iter(range(worker, 1000, 3))
        recent = Recent(now=lambda clock=clock: float(next(clock)))  # type: ignore[misc]
        for number in range(15):
            recent(decided(b"u%d@y\x1b" % (number % 2), f"192.0.2.{worker}"))
        workers.append(recent)
    first, *others = workers
    seen = together(first.seen(), [each.snapshot() for each in others])
    times = [refusal.when for refusal in seen.refusals]
    assert times == [float(n) for n in range(44, 44 - LAST, -1)]
    assert seen.recipients == [("u0@y\\x1b", 24), ("u1@y\\x1b", 21)]
    assert dict(seen.clients) == {f"192.0.2.{worker}": 15 for worker in range(3)}


def decided(recipient: bytes, client: str) -> RecipientDecided:
    said = "550 5.1.1 no"
    return RecipientDecided(
        "s", client, b"", b"", recipient, "reject", "", False, "qmail", "no", said
    )


def test_in_a_flood_a_part_is_counted() -> None:
    recent = Recent()
    for number in range(3 * AT_ONCE):
        recent(decided(b"u%d@y" % (number % 2), "192.0.2.1"))
    recent.count()
    recent(decided(b"u0@y", "192.0.2.1"))
    assert recent.seen().clients == [("192.0.2.1", AT_ONCE + 1)]
    assert recent.seen().refusals[0].recipient == "u0@y"
