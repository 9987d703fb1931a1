"""``[[rules]]``: what every rule has, and where the keys of each kind are found.

Knows: the kinds that come with us, by name, and others by their entry point; keys
that all sources share.  Knows not: any source.  Used by ``model``; the keys of one
kind stand in its own module below ``proxy.rules``, which is loaded when the
configuration names it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from proxy.config.section import Section
from proxy.config.values import Domain, RuleName, Seconds, Whole, split_list, wrong

ENTRY_POINTS = "qmail_backstop.rules"
"""The group in which other distributions name their kinds of rules: the name is
the type, the object a module like those below ``proxy.rules``."""

_OURS = (
    "qmail",
    "list",
    "cdb",
    "sql",
    "ldap",
    "socketmap",
    "tcp_table",
    "policy",
    "deliverabled",
    "qmail-spp",
    "rcptcheck",
    "command",
    "http",
)


class RuleKeys(Section):
    """One kind of rule.  ``EXAMPLE`` has what config.example.toml shows instead of
    defaults, so that its table can be used as it stands there."""

    EXAMPLE: ClassVar[dict[str, object]] = {}

    runs_programs: ClassVar[bool] = False
    """Whether it starts programs, which may be set-id ones."""

    type: str = Field(description="The kind of source.")


class QmailRule(RuleKeys):
    """Who may receive: the rules are asked in this order, and the first that
    knows the recipient decides."""

    type: Literal["qmail"] = Field(
        description="The kind of source. qmail: the host's own rcpthosts, locals,"
        " virtualdomains, users and dot-qmail files.",
    )


Then = Literal["accept", "reject", "pass"]


class SourceKeys(RuleKeys):
    """What can be set for every source but ``qmail``."""

    name: RuleName | None = Field(
        default=None,
        examples=["staff"],
        description="What the log, metrics and explain call it. Default: its type, with"
        " a number from the second on.",
    )
    domains: Annotated[tuple[Domain, ...], BeforeValidator(split_list)] = Field(
        default=(),
        description="It is asked for recipients of these domains alone, written as in"
        ' rcpthosts: ["example.org", ".example.org"]. Empty: for every domain that is'
        " in rcpthosts, locals or virtualdomains.",
    )
    found: Then = Field(
        default="accept",
        description="What it means that the source has the recipient. accept, reject,"
        " or pass: the next rule is asked.",
    )
    missing: Then = Field(
        default="reject",
        description="What it means that the source does not have it. What the source"
        " cannot tell is always deferred (451).",
    )
    cache_found: Seconds = Field(
        default=0.0,
        description="Seconds for which a recipient that was found is not asked for"
        " again.",
    )
    cache_missing: Seconds = Field(
        default=0.0,
        description="The same for one that was not found: a mailbox made meanwhile is"
        " refused until then.",
    )

    def is_forgetful(self) -> bool:
        """Whether answers depend on more than the recipient, and so are never
        remembered."""
        return False


class RemoteKeys(SourceKeys):
    """What can be set for every source whose answer has to be waited for."""

    timeout: Seconds = Field(
        default=5.0,
        description="Seconds for an answer, the wait for a connection included. After"
        " it the recipient is deferred.",
    )
    concurrency: Whole = Field(
        default=10,
        description="Questions at a time, and connections to the source; others wait"
        " their turn. 0: no limit.",
    )
    last_known_good: Seconds = Field(
        default=0.0,
        description="Seconds for which a recipient that was found before is still"
        " accepted while the source fails; others are deferred.",
    )


def known_types() -> tuple[str, ...]:
    """The words that may stand behind ``type``."""
    return (*_OURS, *sorted({point.name for point in _others()} - set(_OURS)))


def shipped_types() -> tuple[str, ...]:
    """Those that come with us."""
    return _OURS


def rule_module(kind: str) -> ModuleType:
    """The module of a known type; raises what its import raises."""
    if kind in _OURS:
        return importlib.import_module("proxy.rules." + kind.replace("-", "_"))
    point = next(point for point in _others() if point.name == kind)
    module: ModuleType = point.load()
    return module


def settings_of(kind: str) -> type[RuleKeys]:
    """The keys of a known type."""
    if kind == "qmail":
        return QmailRule
    settings: type[RuleKeys] = rule_module(kind).Settings
    return settings


def read_rule(value: Any) -> Any:
    """One table of ``rules``, as the model of its type."""
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in known_types():
        return RuleOfNoType.model_validate(value)
    try:
        model = settings_of(kind)
    except ImportError as error:
        lacking = f"its module cannot be loaded: {error}"
        raise wrong(lacking, "install what it needs") from error
    except Exception as error:  # others' modules may do anything
        lacking = f"its module cannot be used: {type(error).__name__}: {error}"
        raise wrong(lacking, "ask those who wrote it") from error
    return model.model_validate(value)


def _known(kind: str) -> str:
    if kind not in known_types():
        raise wrong("unknown type of rule", "known: " + ", ".join(known_types()))
    return kind


class RuleOfNoType(RuleKeys):
    """Never made: it says what is wrong with the type."""

    type: Annotated[str, BeforeValidator(_known)]


def _others() -> Iterable[EntryPoint]:
    return entry_points(group=ENTRY_POINTS)


def rule_names(rules: Iterable[RuleKeys]) -> list[str]:
    """What each rule is called: its name, else its type, with a number from the
    second of the same name on."""
    taken: set[str] = set()
    names = []
    for rule in rules:
        name = getattr(rule, "name", None) or rule.type
        names.append(_free(name, taken.__contains__))
        taken.add(names[-1])
    return names


def _free(name: str, is_taken: Callable[[str], bool]) -> str:
    number, free = 1, name
    while is_taken(free):
        number += 1
        free = f"{name}-{number}"
    return free
