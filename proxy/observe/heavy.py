"""Who comes up most, in bounded memory.

Knows: the Misra-Gries summary ("Finding repeated elements", 1982), merged in
batches as in "Mergeable summaries" (Agarwal and others, 2012).  Knows not: what
is counted.  Called by the report and by :mod:`proxy.observe.recent`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping


class Heavy:
    """Counts of values, of which at most ``2 * size`` are kept.

    ``total`` is exact.  A count that is shown is at most the true one, and less
    than that by at most ``error``; a value that is not shown has come up at most
    ``error`` times.  ``error`` is 0 as long as there are few values, and never
    more than ``total / (size + 1)``.
    """

    __slots__ = ("_counts", "error", "size", "total")

    def __init__(self, size: int = 10_000) -> None:
        self.size = size
        self.total = 0
        self.error = 0
        self._counts: dict[bytes, int] = {}

    def add(self, counts: Mapping[bytes, int]) -> None:
        """Count each value so many times more."""
        kept = self._counts
        get = kept.get
        for value, number in counts.items():
            kept[value] = get(value, 0) + number
        self.total += sum(counts.values())
        if len(kept) > 2 * self.size:
            self._shorten()

    def _shorten(self) -> None:
        """Take what the first that is left out has off from everybody."""
        less = heapq.nlargest(self.size + 1, self._counts.values())[-1]
        self.error += less
        self._counts = {v: n - less for v, n in self._counts.items() if n > less}

    def top(self, number: int) -> list[tuple[bytes, int]]:
        """The values that came up most, and how often at least."""
        items: Iterable[tuple[bytes, int]] = self._counts.items()
        return heapq.nsmallest(number, items, key=lambda item: (-item[1], item[0]))

    def items(self) -> list[tuple[bytes, int]]:
        """All that is kept, by value."""
        return sorted(self._counts.items())

    @property
    def distinct(self) -> int | None:
        """How many values there were; ``None`` if that is no longer known."""
        return None if self.error else len(self._counts)
