"""``backstop check``, the part about ``status.history``: can that file be kept?

Knows: who has to write it.  Knows not: what is in it (``observe.history``).  Called by
``command``, as the user that serves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from proxy.check.finding import WARNING, Finding, Settings
from proxy.config import Config
from proxy.observe.kept import trouble

_KEY = ("status", "history")


def check_history(config: Config, settings: Settings) -> Iterator[Finding]:
    """Warnings: mail goes through without it."""
    path = config.status.history
    if path is None:
        return
    if config.status.address is None:
        what = "there is no page whose numbers could be kept"
        remedy = "set status.address, or take it out"
        yield settings.finding(WARNING, _KEY, what, remedy)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        what, remedy = f"{directory} is no directory", "make it, for that user"
        yield settings.finding(WARNING, _KEY, what, remedy)
    elif not _may_write(directory):
        what = f"{directory} cannot be written to by the front door's user"
        remedy = "give it to that user (install -d -o USER); in a unit, StateDirectory="
        yield settings.finding(WARNING, _KEY, what, remedy)
    elif why := trouble(path):
        yield settings.finding(WARNING, _KEY, why, "take it away; it begins anew")


def _may_write(directory: str) -> bool:
    """With the capability to search closed directories above it, where it is there."""
    effective = os.access in os.supports_effective_ids
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=effective)
