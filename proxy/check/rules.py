"""What rules find wrong with themselves, told as every other problem is.

Knows: where a rule's keys and files stand.  Knows not: any rule.  Called by
``assemble`` when rules are built, and by ``command``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from proxy.check.finding import ERROR, Finding, Settings
from proxy.config import Config, Problem
from proxy.config.problem import printable
from proxy.config.rules import rule_module
from proxy.rules.source import Context
from proxy.rules.trouble import Trouble


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
        look = getattr(rule_module(keys.type), "check", None)
        if look is None:
            continue
        try:
            for trouble in look(keys, context):
                yield Finding(trouble.level, problem_of(config, number, trouble))
        except Exception as error:  # of others' rules: the check goes on
            what = f"cannot be checked: {type(error).__name__}: {error}"
            trouble = Trouble(what, "ask those who wrote it")
            yield Finding(ERROR, problem_of(config, number, trouble))
