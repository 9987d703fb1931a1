"""Directories of the views that are dictionaries of paths."""

from __future__ import annotations

from collections.abc import Iterable


def names_below(
    paths: Iterable[bytes], directory: bytes, prefix: bytes, limit: int
) -> frozenset[bytes] | None:
    """As :meth:`proxy.qmail.view.FileView.names` has it."""
    inside = directory.rstrip(b"/") + b"/"
    below = [path[len(inside) :] for path in paths if path.startswith(inside)]
    found = [name for name in below if b"/" not in name]
    if len(found) > limit:
        return None
    return frozenset(name for name in found if name.startswith(prefix))
