"""``backstop check`` on what rules have in common: keys that do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.check.rules import check_rules
from proxy.config import Config
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context
from tests.support.files import Files

LIST: dict[str, Any] = {"type": "list", "addresses": ["bob@example.test"]}
POLICY: dict[str, Any] = {"type": "policy", "address": "unix:/nowhere"}
ONCE: dict[str, Any] = {"type": "command", "command": ["/bin/true"]}
HTTP: dict[str, Any] = {"type": "http", "url": "http://db.example.invalid"}


def warned(rule: dict[str, Any]) -> list[str]:
    """Which keys of a rule ``check`` has a warning for."""
    files = Files()
    files.control(b"me", b"mx.example.test\n")
    files.control(b"rcpthosts", b"example.test\n.below.test\n")
    config = Config.model_validate({"rules": [rule], "backend": {}})
    found = check_rules(config, Context("it", QmailHost(files)))
    return [each.problem.key for each in found if each.level == "warning"]


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        (LIST | {"cache_found": 9}, []),
        (
            POLICY | {"cache_found": 9, "cache_missing": 1},
            ["cache_found", "cache_missing"],
        ),
        (ONCE | {"last_known_good": 9}, ["last_known_good"]),
        (ONCE | {"last_known_good": 9, "mode": "lines"}, []),
        (HTTP | {"last_known_good": 9}, []),
        (
            HTTP | {"last_known_good": 9, "send": ["recipient", "client"]},
            ["last_known_good"],
        ),
        (HTTP | {"timeout": 30}, []),
        (HTTP | {"timeout": 31}, ["timeout"]),
        (LIST | {"domains": ["example.test", "a.below.test", ".else.test"]}, []),
        (LIST | {"domains": ["below.test"]}, ["domains"]),
    ],
)
def test_keys_that_do_nothing(rule: dict[str, Any], keys: list[str]) -> None:
    assert [key.rpartition(".")[2] for key in warned(rule) if "type" not in key] == keys
