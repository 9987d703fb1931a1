"""Rules load their libraries when they are built, while no session waits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

WEB = {"url": "http://127.0.0.1:1/"}
SQL = {"query": "SELECT :address"}
LDAP = {"url": "ldap://127.0.0.1:1", "base": "o=x", "filter": "(mail={address})"}

SCRIPT = """
import sys
from proxy.config.rules import read_rule, rule_module
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context
from tests.support.files import Files
keys = {keys}
settings = read_rule(keys)
assert {library!r} not in sys.modules, "what reads the configuration loads it"
rule_module(keys["type"]).build(settings, Context("it", QmailHost(Files())))
assert {library!r} in sys.modules
"""


@pytest.mark.parametrize(
    ("kind", "keys", "library"),
    [
        ("http", WEB, "aiohttp"),
        ("deliverabled", WEB, "aiohttp"),
        ("sql", SQL | {"url": "postgresql://x@127.0.0.1:1/d"}, "asyncpg"),
        ("sql", SQL | {"url": "mysql://x@127.0.0.1:1/d"}, "asyncmy"),
        ("sql", SQL | {"url": "sqlite:////nowhere.db"}, "aiosqlite"),
        ("ldap", LDAP, "ldap"),
    ],
)
def test_libraries(kind: str, keys: dict[str, Any], library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    script = SCRIPT.format(keys={"type": kind, **keys}, library=library)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
