"""A problem, told so that it can be mended: where, which key, what, and how.

Knows: how to show values safely, where in a TOML text a key stands.  Knows
not: what may be wrong.  Used by ``sources`` and by ``proxy.check``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.config.model import KeyPath

_VALUE_MAX = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration or what it points to.

    ``where`` is a file or ``environment``; ``line`` counts from 1, 0 where it
    is not known.  ``value`` is ready to be shown.
    """

    where: str
    key: str
    value: str
    what: str
    remedy: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = self.where
        for number in (self.line, self.column):
            place += f":{number}" if number else ""
        setting = f"{self.key} = {self.value}" if self.value else self.key
        parts = (place, setting, self.what, self.remedy)
        return ": ".join(part for part in parts if part)


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` says all that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def shown(value: object) -> str:
    """A value as it may be shown: one line, printable ASCII, not too long."""
    try:
        text = json.dumps(value)
    except (TypeError, RecursionError):
        text = json.dumps(f"a {type(value).__name__}")
    except ValueError:  # thousands of digits
        text = "a very long number"
    text = text.replace("\x7f", "\\u007f")
    return text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 3] + "..."


def printable(text: str) -> str:
    """A text of ours or the system's in one line of printable ASCII."""
    return json.dumps(text)[1:-1].replace('\\"', '"').replace("\x7f", "\\u007f")


def key_text(path: KeyPath) -> str:
    """``limits.connections``, ``rules[1].type``; lists count from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if plain else shown(part))
    return text


_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:[\w.\s-]|"[^"]*"|'[^']*')+?)\s*=""")


def line_of(text: str, path: KeyPath) -> int | None:
    """The line of the key at ``path``, else of the nearest table around it.

    A simple search, good for files as people write them.
    """
    best, best_line = 0, None
    for number, found in _places(text):
        length = len(found)
        if best < length <= len(path) and found == path[:length]:
            best, best_line = length, number
    return best_line


def _places(text: str) -> Iterator[tuple[int, KeyPath]]:
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.fullmatch(line.rstrip("\r")):
            table = _dotted(header[2])
            if header[1] == "[[":
                count = counts[table] = counts.get(table, -1) + 1
                yield number, table
                table = (*table, count)
            yield number, table
        elif key := _KEY.match(line):
            dotted = _dotted(key[1])
            for length in range(1, len(dotted) + 1):
                yield number, table + dotted[:length]


def _dotted(text: str) -> KeyPath:
    parts = re.findall(r""""[^"]*"|'[^']*'|[\w-]+""", text)
    return tuple(part.strip("\"'") for part in parts)
