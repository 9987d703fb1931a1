"""What the workers of one service count together, in shared memory.

Knows: a column of numbers for each worker, which only that worker writes.
Knows not: what a limit is.  Made by the parent before it forks
(``workers.Board``); each worker's door has its own :class:`Column`.

No locks: whoever wants a sum reads all columns.  Connections in all are exact
but for those that come in at the same instant elsewhere.  Connections of one
client are counted by a hash into some thousand cells: never too few, and too
many only where two clients share a cell.  Guesses and accepted mail are told
as news, which the others read once a second; of more than 4096 in that time
the oldest are lost to them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

GUESSED, DELIVERED = 0, 1
"""Kinds of news of a client."""

_CELLS = 1 << 15
_NEWS = 1 << 12
# Numbers of 8 bytes: connections in all, news ever told, news; then cells.
_HEAD = 8 * (2 + _NEWS)
_COLUMN = _HEAD + 4 * _CELLS


class Common:
    """The memory of all workers."""

    def __init__(self, workers: int) -> None:
        self._memory = memoryview(mmap.mmap(-1, workers * _COLUMN))
        self._workers = workers

    def column(self, worker: int) -> Column:
        """The part of a worker that starts now; whatever its predecessor had
        counted is gone with it."""
        others = [n for n in range(self._workers) if n != worker]
        return Column(self._numbers(worker), list(map(self._numbers, others)))

    def _numbers(self, worker: int) -> _Numbers:
        start = worker * _COLUMN
        column = self._memory[start : start + _COLUMN]
        return _Numbers(column[:_HEAD].cast("Q"), column[_HEAD:].cast("I"))


class _Numbers:
    """One column as numbers."""

    __slots__ = ("cells", "head")

    def __init__(self, head: memoryview[int], cells: memoryview[int]) -> None:
        self.head = head
        self.cells = cells


class Column:
    """A worker's own numbers, and the sums of all others'.

    Clients are numbers (:func:`proxy.front.client.client_number`).
    """

    def __init__(self, own: _Numbers, others: list[_Numbers]) -> None:
        self._own = own
        self._others = others
        self._read = [each.head[1] for each in others]
        own.head[0] = 0
        own.cells[:] = memoryview(bytes(4 * _CELLS)).cast("I")

    def enter(self, client: int) -> None:
        """A connection more here."""
        self._own.head[0] += 1
        self._own.cells[client % _CELLS] += 1

    def leave(self, client: int) -> None:
        """A connection less here."""
        self._own.head[0] -= 1
        self._own.cells[client % _CELLS] -= 1

    def elsewhere(self) -> int:
        """Connections in all other workers."""
        return sum([each.head[0] for each in self._others])

    def of_client_elsewhere(self, client: int) -> int:
        """Connections of one client in all other workers, or a few more."""
        cell = client % _CELLS
        return sum([each.cells[cell] for each in self._others])

    def tell(self, client: int, kind: int) -> None:
        """News for the other workers."""
        head = self._own.head
        told = head[1]
        head[2 + told % _NEWS] = client << 1 | kind
        head[1] = told + 1

    def news(self) -> Iterator[tuple[int, int]]:
        """Clients and kinds of what the others have told since the last call."""
        for number, each in enumerate(self._others):
            told = each.head[1]
            for at in range(max(self._read[number], told - _NEWS), told):
                entry = each.head[2 + at % _NEWS]
                yield entry >> 1, entry & 1
            self._read[number] = told
