"""What one examination came to.

Knows: colours and their order.  Knows not: any examination.  Used by all others
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

GREEN, GREY, YELLOW, RED = "green", "grey", "yellow", "red"
"""Good; not known or not asked; to be looked at; to be mended."""

_ORDER = (GREEN, GREY, YELLOW, RED)


class Result(NamedTuple):
    """``what`` was seen of the ``subject``, and the ``remedy``, ``""`` where
    nothing is to be done."""

    level: str
    subject: str
    what: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The keys of ``--json``."""
        return self._asdict()


def worst(results: Iterable[Result]) -> str:
    """The gravest level among them; grey is no worse than green."""
    levels = {result.level for result in results} - {GREY}
    return max(levels, key=_ORDER.index, default=GREEN)


def several(names: Iterable[str], limit: int = 3) -> str:
    """Some names, and how many more there are."""
    listed = list(names)
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")
