"""From pydantic's words to an administrator's: what is wrong, and the remedy.

Knows: pydantic's kinds of errors, which known name is nearest.  Knows not:
how values are read.  Called by ``sources``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config.keys import key_paths, rule_at, section_at
from proxy.config.model import KeyPath
from proxy.config.problem import Problem, key_text, line_of, shown
from proxy.config.rules import RemoteKeys, known_types
from proxy.config.section import Section

SECRET_SUFFIX = "_FILE"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where values came from: a file with its text, and the variables that
    set a key.  ``several``: the backends are a list, not one table.  ``types`` are
    the types of the rules."""

    file: str
    text: str
    variables: Mapping[KeyPath, str]
    several: bool = False
    types: Sequence[object] = ()

    def section_at(self, path: KeyPath) -> type[Section] | None:
        """The model of the table at ``path``, ``None`` where there is none."""
        return rule_at(path, self.types) or section_at(path)

    def variable(self, path: KeyPath) -> str | None:
        """The variable that set the value at ``path``, if one did."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.variables:
                return self.variables[path[:length]]
        return None


def problems_of(error: ValidationError, sources: Sources) -> list[Problem]:
    """In the order of the file; the environment's last."""
    details = error.errors()
    # A rule of an unknown type has no known keys to be held against.
    untyped = {each["loc"][:-1] for each in details if _is_rule_type(each["loc"])}
    problems = [
        _problem(each, sources)
        for each in details
        if _is_rule_type(each["loc"]) or each["loc"][:-1] not in untyped
    ]
    return sorted(problems, key=lambda problem: problem.line or 1 << 30)


def _problem(details: ErrorDetails, sources: Sources) -> Problem:
    path = _model_path(details["loc"])
    if path[:2] == ("backend", 0) and not sources.several:
        path = ("backend", *path[2:])
    what, remedy = _explained(details, path, sources)
    value = _offending(details)
    variable = sources.variable(path)
    if variable is None:
        line = line_of(sources.text, path) or 0
        return Problem(sources.file, key_text(path), value, what, remedy, line)
    if variable.endswith(SECRET_SUFFIX):
        value = ""  # what stands in a file of its own may be a secret
    remedy = remedy.replace("leave it out", "unset it")
    return Problem("environment", variable, value, what, remedy)


def _is_rule_type(loc: KeyPath) -> bool:
    return len(loc) == 3 and loc[0] == "rules" and loc[2] == "type"


def _model_path(loc: KeyPath) -> KeyPath:
    """Keys only: for a value of several types pydantic names the type last."""
    return tuple(p for p in loc if isinstance(p, int) or "[" not in p)


def _offending(details: ErrorDetails) -> str:
    value = details["input"]
    if details["type"] == "missing" or isinstance(value, dict):
        return ""
    if details["loc"] == ("backend",) and isinstance(value, list | tuple):
        return ""  # the tables of all of them
    name = str(details["loc"][-1:])
    if "pass" in name or "token" in name:
        return ""  # a secret, or what may be one
    return shown(value)


def _explained(
    details: ErrorDetails, path: KeyPath, sources: Sources
) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "backstop":
        return str(context["what"]), str(context["remedy"])
    if kind == "extra_forbidden":
        return "unknown key", _unknown_key_remedy(path, sources)
    if kind == "missing" and path[-1] == "type":
        return "missing", "write " + " or ".join(f'"{t}"' for t in known_types())
    return _what(details), _default_remedy(path, sources)


def _what(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "greater_than_equal":
        return f"must be {toml_value(context['ge'])} or more"
    if kind == "less_than_equal":
        return f"must be {toml_value(context['le'])} or less"
    for prefix, what in _TYPES.items():
        if kind.startswith(prefix):
            return what
    return details["msg"]


_TYPES = {
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a number",
    "bool_": "must be true or false",
    "string_": "must be text in quotes",
    "tuple_": "must be a list in brackets",
    "model_": "must be a table",
}


def _default_remedy(path: KeyPath, sources: Sources) -> str:
    """How to write it, or the default."""
    if path == ("rules",):
        return "begin each rule with a line [[rules]]"
    if section_at(path) and path[0] == "backend":
        return "write its keys below a line [backend], or [[backend]] for several"
    if section_at(path) and path[0] == "rules":
        return "write its keys below a line [[rules]]"
    if section_at(path):
        return f"write its keys below a line [{path[0]}]"
    while isinstance(path[-1], int):
        path = path[:-1]
    section = sources.section_at(path[:-1])
    field = section.model_fields.get(str(path[-1])) if section else None
    if field is None or field.is_required() or field.default is None:
        return "see config.example.toml"
    return f"leave it out for {toml_value(field.default)}, the default"


def toml_value(value: object) -> str:
    """A default as TOML; empty for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(str(value))


def _unknown_key_remedy(path: KeyPath, sources: Sources) -> str:
    """The nearest known key: of the same table if one is near, else of another."""
    name = str(path[-1]).lower()
    section = sources.section_at(path[:-1])
    here = list(section.model_fields) if section else []
    near_here = difflib.get_close_matches(name, here, 1, 0.75)
    if near_here:
        return f"did you mean {near_here[0]}?"
    elsewhere = {str(p[-1]): p for p in key_paths() if p[0] != "rules"}
    near = difflib.get_close_matches(name, elsewhere, 1, 0.75)
    known = ", ".join(here)
    if near:
        place = elsewhere[near[0]]
        where = f"below [{place[0]}]" if len(place) > 1 else "above the first [table]"
        if path[0] == "rules" and near[0] in RemoteKeys.model_fields:
            return f"only other types of rules have {near[0]}; known here: {known}"
        return f"did you mean {near[0]}, which stands {where}?"
    return f"did you mean {nearest(name, here)}? Known here: {known}" if here else ""


def nearest(name: str, known: Sequence[str]) -> str:
    """The most similar of ``known``, however little that is."""
    return difflib.get_close_matches(name, known, 1, 0.0)[0]
