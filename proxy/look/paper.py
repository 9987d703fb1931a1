"""Lines of TOML with comments; what comes from a host gets into them escaped.

Knows: how values are written.  Knows not: any key.  Used by ``write``.
"""

from __future__ import annotations

import json
import textwrap

_WIDTH = 78


class Paper:
    """Lines of TOML; what comes from a host gets into them escaped."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self._lines) + "\n"

    def table(self, name: str, *, sure: bool = True) -> None:
        """The head of a table, as a comment if it is not ``sure``."""
        self._lines += ["", name if sure else f"# {name}"]

    def gap(self) -> None:
        """An empty line."""
        self._lines.append("")

    def say(self, text: str) -> None:
        """A comment."""
        options = {"break_long_words": False, "break_on_hyphens": False}
        for line in textwrap.wrap(_visible(text), _WIDTH - 2, **options):  # type: ignore[arg-type]
            self._lines.append("# " + line)

    def key(self, name: str, value: object, *, sure: bool = True) -> None:
        """A key, as a comment if it is not ``sure``."""
        self._lines.append(f"{'' if sure else '# '}{name} = {_toml(value)}")


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _toml(value: object) -> str:
    """Strings and lists of them look alike in JSON and TOML, but for DEL and what
    is not Unicode."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value).replace("\x7f", "\\u007f")


def storable(text: str) -> bool:
    """Whether TOML can say it: Unicode, and no control character but a line end."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return all(c.isprintable() or c == "\n" for c in text)
