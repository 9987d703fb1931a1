"""What is wrong with a rule or with what it points to, told so that it can be mended.

Knows: a key or a file, what is wrong there, the remedy.  Knows not: how it is shown
(``proxy.check.rules``).  Raised while a rule is built; given by its ``check``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ERROR, WARNING, NOTE = "error", "warning", "note"


class Trouble(NamedTuple):
    """One thing that is wrong, or worth a note.

    ``key`` is a key of the rule's table, or ``path`` a file on the qmail host, with
    the line where there is one.  ``level`` is :data:`ERROR`, :data:`WARNING` or
    :data:`NOTE`.
    """

    what: str
    remedy: str
    key: str = ""
    path: bytes = b""
    line: int = 0
    level: str = ERROR


class RuleError(Exception):
    """The rule cannot be built, or a file of it cannot be used; ``troubles`` says
    all that is wrong."""

    def __init__(self, troubles: Sequence[Trouble]) -> None:
        super().__init__(troubles)
        self.troubles = tuple(troubles)

    def __str__(self) -> str:
        first, *more = self.troubles
        place = first.path.decode("latin-1") + (f":{first.line}" if first.line else "")
        text = ": ".join(filter(None, (place, first.what, first.remedy)))
        return text + (f" (and {len(more)} more)" if more else "")


def encoded(text: str) -> bytes:
    """A key's text as the bytes that it stands for."""
    return text.encode("utf-8", "surrogateescape")


def shown(text: bytes) -> str:
    """An address or a name for people, in one line."""
    return text.decode("latin-1").encode("unicode_escape").decode()
