"""The trail of reasons: which file and line decided what, in order.

Knows: how to note cheaply and to render later.  Knows not: any rule.  Called
by every stage of the decision; rendered for ``explain`` and the log.
"""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """One reason: ``at`` a file (and line), with a text to be filled in."""

    at: bytes
    line: int
    text: str
    values: tuple[bytes | str | int, ...]

    def where(self) -> str:
        """``control/virtualdomains:3``; bytes are shown as Latin-1."""
        at = self.at.decode("latin-1")
        return f"{at}:{self.line}" if self.line else at

    def note(self) -> str:
        """The text, with its values; bytes are shown as Latin-1."""
        return self.text.format(
            *(v.decode("latin-1") if isinstance(v, bytes) else v for v in self.values)
        )


class Trail(list[Step]):
    """Collects steps; nothing is formatted until somebody looks."""

    def add(
        self, at: bytes, text: str, *values: bytes | str | int, line: int = 0
    ) -> None:
        """Note that ``at`` (a path, or a program of qmail's) decided something."""
        self.append(Step(at, line, text, values))


class _Silent(Trail):
    """Nobody will look: a decision for a client needs no reasons."""

    def add(
        self, at: bytes, text: str, *values: bytes | str | int, line: int = 0
    ) -> None:
        """Forget it."""


SILENT: Trail = _Silent()
"""Where to note what nobody will read; always empty."""
