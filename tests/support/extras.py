"""Tests of optional parts are skipped, by name, where these are not installed."""

from __future__ import annotations

import importlib.util

import pytest

WANTED = {"ldap": ("ldap",), "sql": ("sqlalchemy", "asyncpg", "asyncmy", "aiosqlite")}
"""From an extra, which is the rule's type too, to the modules that it brings."""


def skip_without(*types: str) -> None:
    """Skip the test if a rule of one of ``types`` cannot be made here."""
    for extra in types:
        for module in WANTED.get(extra, ()):
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed: pip install '.[{extra}]'")
