"""What a check found, and how grave it is.

Knows: errors, warnings, notes; where a setting was set.  Knows not: any check.
Used by every part of ``check``, and by ``doctor``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.config import Config, Problem
from proxy.config.explain import SECRET_SUFFIX, toml_value
from proxy.config.model import KeyPath
from proxy.config.problem import key_text, line_of, shown
from proxy.config.sources import PREFIX

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and how grave it is: ``error``, ``warning`` or ``note``."""

    level: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.level}: {self.problem}"

    def as_dict(self) -> dict[str, str | int]:
        """The keys of ``--json``."""
        problem = self.problem
        return {
            "level": self.level,
            "file": problem.where,
            "line": problem.line,
            "key": problem.key,
            "value": problem.value,
            "what": problem.what,
            "remedy": problem.remedy,
        }


class Settings:
    """Findings about a key: where it was set, and to what."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        try:
            self._text = config.source.read_text() if config.source else ""
        except (OSError, ValueError):
            self._text = ""

    def finding(self, level: str, path: KeyPath, what: str, remedy: str) -> Finding:
        """Something found in the key at ``path`` of the configuration."""
        value: object = self._config
        for part in path:
            if isinstance(value, tuple) and isinstance(part, int):
                value = value[part]
            else:
                value = getattr(value, str(part))
        text = toml_value(value)
        text = text if text.isascii() else shown(str(value))
        if path[0] == "backend" and len(self._config.backend) == 1:
            path = ("backend", *path[2:])
        name = PREFIX + "__".join(map(str, path)).upper()
        for variable in (name, name + SECRET_SUFFIX):
            if variable in self._environ:
                problem = Problem("environment", variable, text, what, remedy)
                return Finding(level, problem)
        source = str(self._config.source or "defaults")
        line = line_of(self._text, path) or line_of(self._text, path[:1]) or 0
        return Finding(level, Problem(source, key_text(path), text, what, remedy, line))
