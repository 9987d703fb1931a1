"""The targets by name, and what they have in common."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

NAMES = ("address", "message", "reply", "cdb", "hostfiles", "dialogue")
CASES = Path(__file__).parent / "cases"


class Target(Protocol):
    """A module of this package."""

    ALLOWED: tuple[type[Exception], ...]
    TOKENS: tuple[bytes, ...]

    def one_input(self, data: bytes) -> None:
        """Do with ``data`` whatever the parser is for, and look at the result."""


def load(name: str) -> Target:
    return cast(Target, importlib.import_module(f"tests.fuzz.{name}"))


def guarded(target: Target) -> Callable[[bytes], None]:
    """The target, without what it may raise."""

    def run(data: bytes) -> None:
        with contextlib.suppress(*target.ALLOWED):
            target.one_input(data)

    return run


def cases_of(name: str) -> Path:
    return CASES / name


def pieces(data: bytes, cuts: bytes) -> Iterator[bytes]:
    """``data`` in pieces whose lengths are the bytes of ``cuts``, over and over."""
    at = turn = 0
    while at < len(data):
        length = (cuts[turn % len(cuts)] if cuts else 0) or 1
        yield data[at : at + length]
        at += length
        turn += 1
