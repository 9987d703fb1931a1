"""What rules find wrong with themselves, told as every other problem is.

Knows: where a rule's keys and files stand.  Knows not: any rule.  Called by
``assemble`` when rules are built, and by ``command``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence

from proxy import assemble
from proxy.check.finding import ERROR, Finding, Settings
from proxy.config import Config, ConfigError, Problem
from proxy.config.problem import printable
from proxy.config.rules import RemoteKeys, RuleKeys, SourceKeys, rule_module
from proxy.qmail.decide import TROUBLE
from proxy.qmail.smtpd import domain_allowed, suffixes
from proxy.qmail.trail import SILENT
from proxy.rules.engine import LIMIT_SECONDS, Closable
from proxy.rules.slices import at_once
from proxy.rules.source import Context
from proxy.rules.trouble import WARNING, Trouble


def problem_of(config: Config, number: int, trouble: Trouble) -> Problem:
    """``trouble`` of the rule ``number``, from 0."""
    if trouble.path:
        root = config.qmail.root.rstrip("/")
        where = printable(root + trouble.path.decode("latin-1"))
        return Problem(
            where, "", "", printable(trouble.what), trouble.remedy, trouble.line
        )
    settings = Settings(config, os.environ)
    path = ("rules", number, trouble.key or "type")
    return settings.finding(
        trouble.level, path, printable(trouble.what), trouble.remedy
    ).problem


def check_rules(config: Config, context: Context) -> Iterator[Finding]:
    """What the rules that look at themselves find; see docs/rules.md."""
    for number, keys in enumerate(config.rules):
        for trouble in _without_effect(keys, context):
            yield Finding(trouble.level, problem_of(config, number, trouble))
        if number == len(config.rules) - 1:
            for trouble in _left_over(config.rules, context):
                yield Finding(trouble.level, problem_of(config, number, trouble))
        troubles = list(_own_check(keys, context))
        for trouble in troubles:
            yield Finding(trouble.level, problem_of(config, number, trouble))
        # Those that check themselves say better what building them would.
        if ERROR not in [trouble.level for trouble in troubles]:
            yield from _built(config, number, context)


def _own_check(keys: RuleKeys, context: Context) -> Iterator[Trouble]:
    look = getattr(rule_module(keys.type), "check", None)
    if look is None:
        return
    try:
        yield from look(keys, context)
    except Exception as error:  # of others' rules: the check goes on
        what = f"cannot be checked: {type(error).__name__}: {error}"
        yield Trouble(what, "ask those who wrote it", level=ERROR)


def _built(config: Config, number: int, context: Context) -> Iterator[Finding]:
    """Whether the rule can be made: if not, ``serve`` does not start."""

    async def build() -> None:  # as serve does, in an event loop
        rule = at_once(assemble.rule_in_steps(config, number, context))
        if isinstance(rule, Closable):
            await rule.close()

    try:
        asyncio.run(build())
    except ConfigError as error:
        for problem in error.problems:
            yield Finding(ERROR, problem)
    except Exception as error:  # of its close(), which serve only calls at its end
        what = f"cannot be closed: {type(error).__name__}: {error}"
        trouble = Trouble(what, "ask those who wrote it", level=WARNING)
        yield Finding(WARNING, problem_of(config, number, trouble))


_REMEMBERED = ("cache_found", "cache_missing", "last_known_good")


def _without_effect(keys: RuleKeys, context: Context) -> Iterator[Trouble]:
    """Keys that may be written, and do nothing."""
    if not isinstance(keys, SourceKeys):
        return
    for key in _REMEMBERED:
        if keys.is_forgetful() and getattr(keys, key, None):
            what = "does nothing here: the answers depend on more than the recipient"
            yield Trouble(what, "leave it out", key, level=WARNING)
    if isinstance(keys, RemoteKeys) and keys.timeout > LIMIT_SECONDS:
        what = f"all rules together have {LIMIT_SECONDS:g} seconds"
        yield Trouble(
            what, f"write {LIMIT_SECONDS:g} or less", "timeout", level=WARNING
        )
    for domain in keys.domains:
        if not domain.startswith(".") and not _is_ours(
            domain.encode("latin-1"), context
        ):
            what = f"no mail for {domain} is taken here: the rule is not asked for it"
            remedy = "write it to control/rcpthosts, or leave it out"
            yield Trouble(what, remedy, "domains", level=WARNING)


def _left_over(rules: Sequence[RuleKeys], context: Context) -> Iterator[Trouble]:
    """What no rule decides about: all of it is deferred, until the senders give up."""
    last = rules[-1]
    if not isinstance(last, SourceKeys):
        return
    for key in ("found", "missing"):
        if getattr(last, key) == "pass":
            what = "behind this rule is none: what it leaves to the next is deferred"
            yield Trouble(what, f"write {key} = ..., or a rule", key, level=WARNING)
    asked = [each.domains for each in rules if isinstance(each, SourceKeys)]
    if len(asked) < len(rules) or not all(asked):
        return
    known = {name.encode("latin-1") for names in asked for name in names}
    left = [name for name in _domains(context) if known.isdisjoint(suffixes(name))]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        what = f"no rule is for {left[0].decode('latin-1')}{more}: all mail is deferred"
        remedy = "write a rule without domains to the end, or one for them"
        yield Trouble(what, remedy, level=WARNING)


def _domains(context: Context) -> list[bytes]:
    """Those of control/rcpthosts that are one domain each."""
    try:
        names = context.host.moment().smtpd().rcpthosts
    except TROUBLE:
        return []
    return [] if names is None else [n for n in names if n[:1] != b"."]


def _is_ours(domain: bytes, context: Context) -> bool:
    """Whether qmail-smtpd would take mail for it; where that cannot be told, others
    say why."""
    try:
        gate = context.host.moment().smtpd()
        return gate.rcpthosts is None or domain_allowed(gate, b"x@" + domain, SILENT)
    except TROUBLE:
        return True
