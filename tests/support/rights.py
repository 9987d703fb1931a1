"""Asking a question as the user that the service becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from proxy import privileges
from proxy.check_process import in_a_child
from proxy.config.process import Process

T = TypeVar("T")
_NOBODY = "65534"


def with_the_right_to_read(ask: Callable[[], T]) -> T:
    """``ask()`` in a process without any right of root's but to read."""

    def without_rights() -> T:
        process = Process(user=_NOBODY, group=_NOBODY, keep_read_capability=True)
        privileges.settle(process)
        return ask()

    return in_a_child(without_rights)
