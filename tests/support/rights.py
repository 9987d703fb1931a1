"""Asking a question as the user that the service becomes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

from proxy import privileges
from proxy.config.process import Process

T = TypeVar("T")
_NOBODY = "65534"


def with_the_right_to_read(ask: Callable[[], T]) -> T:
    """``ask()`` in a process without any right of root's but to read."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            process = Process(user=_NOBODY, group=_NOBODY, keep_read_capability=True)
            privileges.settle(process)
            with os.fdopen(writing, "wb") as output:
                pickle.dump(ask(), output)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    told: T = pickle.loads(data)
    return told
