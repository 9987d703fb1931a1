"""The numbers of before, in a file: kept, bounded, and begun anew when damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.observe.history import SLOTS, History, Numbers
from proxy.observe.kept import SIZE_MAX, Kept, trouble

DAY = 86400
NOON = 20_000.0 * DAY + DAY / 2


class Told(list[str]):
    """What was said."""

    def __call__(self, level: str, text: str) -> None:
        self.append(f"{level}: {text}")


def kept(path: Path, told: Told, now: float = NOON) -> Kept:
    return Kept(str(path), told, now=lambda: now)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path, told = tmp_path / "history", Told()
    history = kept(path, told).read()
    history.sample(Numbers(3, 2, 1, 4), NOON)
    kept(path, told).save(history)
    assert [each.name for each in tmp_path.iterdir()] == ["history"]
    again = kept(path, told, NOON + 700).read()
    assert again.since == NOON
    again.begin(Numbers(100, 0, 0))
    again.sample(Numbers(105, 0, 0), NOON + 700)
    assert again.days(1, NOON + 700) == Numbers(8, 2, 1, 4)
    numbers = [slot.numbers for slot in again.slots(NOON + 700)[-2:]]
    assert numbers == [Numbers(3, 2, 1, 4), Numbers(5, 0, 0)]
    assert told == []


def test_it_is_written_now_and_then(tmp_path: Path) -> None:
    path, now = tmp_path / "history", [NOON]
    keeper = Kept(str(path), Told(), now=lambda: now[0])
    history = keeper.read()
    keeper.tick(history)
    assert not path.exists()
    now[0] += 60
    keeper.tick(history)
    assert path.exists()
    path.unlink()
    now[0] += 60
    keeper.tick(history)  # nothing has changed
    assert not path.exists()


def test_its_size_is_bounded(tmp_path: Path) -> None:
    path, told = tmp_path / "history", Told()
    history = History(NOON)
    for number in range(SLOTS * 40):
        most = (1 << 53) - 1
        history.begin(Numbers())
        history.sample(Numbers(most, 0, 0, 0), NOON + number * 600)
    kept(path, told).save(history)
    assert path.stat().st_size < SIZE_MAX / 4


GOOD: dict[str, Any] = {"version": 1, "since": 5, "slots": [], "days": []}
ROW = [int(NOON) // DAY * DAY, 1, 2, 3, 4]
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "half": json.dumps(GOOD).encode()[:20],
    "zeros": bytes(4096),
    "no object": b"[1]",
    "no text": b"\xff\xfe{}",
    "deep": b"[" * 60_000,
    "too long": b" " * (SIZE_MAX + 1),
    "other version": json.dumps(GOOD | {"version": 2}).encode(),
    "no days": json.dumps({**GOOD, "days": None}).encode(),
    "short row": json.dumps(GOOD | {"days": [ROW[:3]]}).encode(),
    "text": json.dumps(GOOD | {"days": [[*ROW[:4], "4"]]}).encode(),
    "negative": json.dumps(GOOD | {"days": [[*ROW[:4], -1]]}).encode(),
    "fraction": json.dumps(GOOD | {"days": [[*ROW[:4], 1.5]]}).encode(),
    "truth": json.dumps(GOOD | {"days": [[*ROW[:4], True]]}).encode(),
    "huge": json.dumps(GOOD | {"days": [[*ROW[:4], 10**30]]}).encode(),
    "not a number": b'{"version": 1, "since": NaN, "slots": [], "days": []}',
    "twice": json.dumps(GOOD | {"days": [ROW, ROW]}).encode(),
    "within a day": json.dumps(GOOD | {"days": [[ROW[0] + 1, *ROW[1:]]]}).encode(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_told_and_begun_anew(tmp_path: Path, kind: str) -> None:
    path, told = tmp_path / "history", Told()
    path.write_bytes(DAMAGED[kind])
    history = kept(path, told).read()
    assert (history.since, history.days(31, NOON)) == (NOON, Numbers())
    assert len(told) == 1
    assert told[0].startswith(f"error: status.history: {path} is damaged (")
    assert trouble(str(path))
    kept(path, told).save(history)
    assert trouble(str(path)) == ""


def test_what_is_no_file(tmp_path: Path) -> None:
    told = Told()
    keeper = kept(tmp_path, told)
    history = keeper.read()
    assert "not a regular file" in told[0] or "Is a directory" in told[0]
    keeper.save(history)
    keeper._written = b""
    keeper.save(history)
    assert len(told) == 2
    assert "cannot be written" in told[1]


def test_times_to_come_are_left_out(tmp_path: Path) -> None:
    """A clock that was wrong must not hold what follows in a time to come."""
    later = int(NOON) // DAY * DAY + 300 * DAY
    rows = [ROW, [later, 9, 9, 9, 9]]
    path = tmp_path / "history"
    path.write_text(json.dumps(GOOD | {"since": later, "days": rows}))
    told = Told()
    history = kept(path, told).read()
    history.sample(Numbers(1), NOON)
    assert history.days(1, NOON) == Numbers(2, 2, 3, 4)
    assert history.since == NOON
    assert told == []
