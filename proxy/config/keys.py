"""What keys there are: a view of the models that is for programs.

Knows: which tables and keys the models have.  Knows not: any of them by name,
but for the two that may stand several times.  Used by what reads, explains and
documents the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxy.config.model import Backend, Config, KeyPath
from proxy.config.rules import QmailRule, RuleKeys, known_types, settings_of
from proxy.config.section import Section


def key_paths() -> Iterator[KeyPath]:
    """Every key, in order; those of rules under number 0, those of a backend as
    if there were one."""
    for name in Config.model_fields:
        section = section_at((name,))
        if section is None:
            yield (name,)
        elif name == "rules":
            yield from (("rules", 0, key) for key in section.model_fields)
        else:
            yield from ((name, key) for key in section.model_fields)


_LISTS: dict[str | int, type[Section]] = {"backend": Backend, "rules": QmailRule}


def rule_at(path: KeyPath, types: Sequence[object]) -> type[RuleKeys] | None:
    """The model of the rule at ``path``, if one is there and its type, by number
    in ``types``, is known."""
    if len(path) != 2 or path[0] != "rules" or not isinstance(path[1], int):
        return None
    kind = types[path[1]] if path[1] < len(types) else None
    known = isinstance(kind, str) and kind in known_types()
    return settings_of(str(kind)) if known else None


def section_at(path: KeyPath) -> type[Section] | None:
    """The model of the table at ``path``, ``None`` where there is no table; rules
    are those of type ``qmail`` (see :func:`rule_at`)."""
    if not path:
        return Config
    if path[0] in _LISTS and (len(path) == 1 or type(path[1]) is int):
        return _LISTS[path[0]] if len(path) < 3 else None
    field = Config.model_fields.get(str(path[0])) if len(path) == 1 else None
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


class Key(NamedTuple):
    """What there is to say about one key of a table."""

    name: str
    description: str
    required: bool
    default: object
    examples: tuple[object, ...]


def keys_of(section: type[Section]) -> Iterator[Key]:
    """The keys of a table that are no tables themselves, in order."""
    for name, field in section.model_fields.items():
        if section is Config and section_at((name,)):
            continue
        yield Key(
            name,
            field.description or "",
            field.is_required(),
            field.default,
            tuple(field.examples or ()),
        )
