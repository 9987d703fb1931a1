"""docs/report.md, held to the recording."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy.observe.events import Leaked
from proxy.observe.lines import Formatter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/report.md").read_text()
DATA = ROOT / "tests/data/report"


def keys(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        yield from found
        for value in found.values():
            yield from keys(value)
    elif isinstance(found, list):
        for value in found:
            yield from keys(value)


def test_every_key_of_the_json_is_described() -> None:
    found = set(keys(json.loads((DATA / "report.json").read_text())))
    _, _, described = PAGE.partition("## As JSON")
    assert found - set(re.findall(r"`([a-z_]+)`", described)) == set()


def test_the_example_is_what_the_command_prints() -> None:
    shown, _, _ = (DATA / "report.txt").read_text().partition("\nWhy\n")
    assert f"```\n{shown}```\n" in PAGE


def test_the_line_of_a_leak_is_ours() -> None:
    event = Leaked(
        *("5f1c20-2", "192.0.2.25", b"somebody@senders.test", b"john-old1@shop.test"),
        *("qmail", "undecided: the program case decides", True),
        *(b"alice-shop-john-old1@shop.test", 13, b"no_such_customer/"),
    )
    assert f"```\n{Formatter('bare').line(event, 0)}```\n" in PAGE
