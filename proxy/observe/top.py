"""Who comes up most often, in bounded memory.

Knows: how to count many names with few places.  Knows not: what the names are.
Used by :mod:`proxy.observe.recent`.
"""

from __future__ import annotations

from collections.abc import Iterable

Counts = list[tuple[str, int]]


class Top:
    """Counts names.  With more than ``places`` of them the rarer ones are forgotten,
    so that a count may be too low, and never is too high."""

    def __init__(self, places: int = 2000) -> None:
        self._places = places
        self._counts: dict[str, int] = {}

    def add(self, name: str, number: int = 1) -> None:
        """``name`` came up."""
        counts = self._counts
        counts[name] = counts.get(name, 0) + number
        if len(counts) > self._places:
            kept = sorted(counts.items(), key=lambda item: item[1], reverse=True)
            self._counts = dict(kept[: self._places // 2])

    def most(self, number: int) -> Counts:
        """The most frequent names with their counts."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return ordered[:number]


def added(lists: Iterable[Counts], number: int) -> Counts:
    """The most frequent names of several lists."""
    top = Top()
    for counts in lists:
        for name, count in counts:
            top.add(name, count)
    return top.most(number)
