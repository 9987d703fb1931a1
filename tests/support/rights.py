"""Asking a question as the user that the service becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from proxy.check.process import in_a_child
from proxy.config.process import Process
from proxy.process import privileges

T = TypeVar("T")
_NOBODY = "65534"


def let_all_enter(directory: Path) -> None:
    """``directory`` and what pytest made above it: other users have to pass."""
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o055 == 0:
            path.chmod(0o755)


def with_the_right_to_read(ask: Callable[[], T]) -> T:
    """``ask()`` in a process without any right of root's but to read."""

    def without_rights() -> T:
        process = Process(user=_NOBODY, group=_NOBODY, keep_read_capability=True)
        privileges.settle(process)
        return ask()

    told: T = in_a_child(without_rights)
    return told
