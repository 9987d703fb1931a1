"""Who serves a recipient, and in which order: no connection is made here."""

from __future__ import annotations

import pytest

from proxy.backend.choice import Backends, Place
from proxy.backend.settings import BackendSettings
from tests.support.clock import Clock


def place(name: str, *domains: bytes, weight: int = 1, backup: bool = False) -> Place:
    return Place(BackendSettings(host=name), frozenset(domains), weight, backup)


def made(*places: Place) -> Backends:
    return Backends(places, b"mx.test", Clock())


def first(backends: Backends, recipient: bytes = b"a@b") -> str:
    return backends.group(recipient).candidates()[0].settings.host


async def test_turns_by_weight() -> None:
    """Smooth: the heavy one does not come five times in a row."""
    backends = made(place("a", weight=5), place("b"), place("c"))
    assert "".join(first(backends) for _ in range(14)) == "aabacaa" * 2


async def test_turns_without_weights() -> None:
    backends = made(place("a"), place("b"), place("c"))
    assert "".join(first(backends) for _ in range(6)) == "abcabc"


async def test_a_backup_comes_last_and_is_not_weighed() -> None:
    backends = made(place("z", backup=True, weight=9), place("a"), place("b"))
    orders = [backends.default.candidates() for _ in range(4)]
    names = ["".join(b.settings.host for b in order) for order in orders]
    assert names == ["abz", "baz", "abz", "baz"]


async def test_one_that_is_left_in_peace_comes_last_of_all() -> None:
    backends = made(place("a"), place("b", backup=True))
    a, b = backends
    for _ in range(a.settings.breaker_failures):
        attempt = a._breaker.admit(a.now())
        a._breaker.failed(attempt, a.now())
    assert backends.default.candidates() == [b, a]
    assert backends.default.others(b) == [a]


ROUTES = [
    (b"u@one.test", "one"),
    (b"u@ONE.Test", "one"),
    (b"u@sub.one.test", "else"),
    (b"u@two.test", "two"),
    (b"u@x.two.test", "two"),
    (b"u@x.y.two.test", "two"),
    (b"u@xtwo.test", "else"),
    (b"u@one.test@two.test", "two"),
    (b"u%one.test@three.test", "else"),
    (b"one.test", "else"),
    (b"u@", "else"),
    (b"", "else"),
    (b"u@[192.0.2.1]", "literal"),
    (b"u@one.test.", "else"),
]


@pytest.mark.parametrize(("recipient", "name"), ROUTES)
async def test_the_way_of_a_recipient(recipient: bytes, name: str) -> None:
    """As rcpthosts is read (qmail-smtpd.8), but that a domain is needed."""
    backends = made(
        place("one", b"one.test"),
        place("two", b"two.test", b".two.test"),
        place("else"),
        place("literal", b"[192.0.2.1]"),
    )
    assert first(backends, recipient) == name


async def test_a_longer_name_is_nearer() -> None:
    backends = made(place("else"), place("wide", b".test"), place("near", b".two.test"))
    assert first(backends, b"u@x.two.test") == "near"
    assert first(backends, b"u@x.one.test") == "wide"


async def test_what_stays_is_the_same_backend_after_a_reload() -> None:
    backends = made(place("a"), place("b"), place("c", b"c.test"))
    a, b, c = backends
    group = backends.group(b"u@c.test")
    backends.use([place("b", weight=7), place("d"), place("c", b"c.test")])
    now = list(backends)
    assert [now[0], now[2]] == [b, c]
    assert a not in now
    assert backends.group(b"u@c.test") is group
    backends.use([place("b"), place("c")])
    assert not backends.routing
    assert c not in list(backends)  # it served others


async def test_the_only_one_is_the_same_wherever_it_is() -> None:
    """As before there were several: what fails at the old place is forgotten,
    the rest is not begun anew."""
    backends = made(place("a"))
    (a,) = backends
    a.up = False
    backends.use([place("b")])
    (b,) = backends
    assert b is a
    assert b.up is None
    assert str(b).startswith("b:")
