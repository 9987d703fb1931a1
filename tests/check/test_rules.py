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


QMAIL: dict[str, Any] = {"type": "qmail"}


def warned(*rules: dict[str, Any]) -> list[str]:
    """Which keys of the rules ``check`` has a warning for."""
    files = Files()
    files.control(b"me", b"mx.example.test\n")
    files.control(b"rcpthosts", b"example.test\nother.test\n.below.test\n")
    config = Config.model_validate({"rules": rules, "backend": {}})
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
    found = [key.rpartition(".")[2] for key in warned(rule, QMAIL)]
    assert [key for key in found if key != "type"] == keys


HERE, BELOW = {"domains": ["example.test"]}, {"domains": [".below.test"]}
SURE = {"missing": "reject"}


@pytest.mark.parametrize(
    ("rules", "keys"),
    [
        ([LIST], ["rules[1].missing"]),
        ([LIST | SURE], []),
        ([LIST | SURE | {"found": "pass"}], ["rules[1].found"]),
        ([LIST, QMAIL], []),
        ([LIST, LIST | SURE | HERE], []),
        ([LIST | SURE | HERE, LIST | SURE | BELOW], ["rules[2].type"]),
        ([LIST | SURE | BELOW], ["rules[1].type"]),
    ],
)
def test_what_no_rule_decides_about(
    rules: list[dict[str, Any]], keys: list[str]
) -> None:
    assert warned(*rules) == keys
