"""doctor's questions to DNS, against a name server of our own."""

from __future__ import annotations

import pytest

from proxy.doctor import names as module
from proxy.doctor.names import names
from proxy.doctor.result import GREEN, GREY, YELLOW
from tests.support.nameserver import Zone, nameserver

OWN = ["198.51.100.1", "8.8.8.8"]
US = "mx.example.test"


@pytest.mark.parametrize(
    ("zone", "level", "words"),
    [
        (
            {("a.test", "MX"): ["10 mail.a.test."], ("mail.a.test", "A"): ["8.8.8.8"]},
            GREEN,
            "a.test: its MX is this host, mail.a.test",
        ),
        (
            {("a.test", "MX"): ["10 MX.example.test."]},
            GREEN,
            "a.test: its MX is this host, mx.example.test",
        ),
        (
            {
                ("a.test", "MX"): ["20 second.test.", "10 mx.example.test."],
                ("second.test", "A"): ["192.0.2.7"],
            },
            YELLOW,
            "a.test: its MX is this host, and second.test too",
        ),
        (
            {
                ("a.test", "MX"): ["10 other.test."],
                ("other.test", "AAAA"): ["2001:db8::1"],
            },
            YELLOW,
            "a.test: its MX is other.test, which is not this host by its addresses",
        ),
        (
            {("a.test", "A"): ["8.8.8.8"]},
            GREEN,
            "a.test: its MX is this host, a.test",
        ),
        ({}, YELLOW, "a.test: it has no MX and no address: no mail arrives"),
        (
            {("a.test", "MX"): ["0 ."]},
            YELLOW,
            "a.test: it has no MX and no address: no mail arrives",
        ),
    ],
    ids=["by address", "by name", "second", "elsewhere", "no MX", "nothing", "null"],
)
async def test_where_mail_goes(zone: Zone, level: str, words: str) -> None:
    async with nameserver(zone) as server:
        (found,) = await names(["a.test"], OWN, US, server)
    assert (found.level, found.what) == (level, words)
    assert bool(found.remedy) == (level != GREEN)


async def test_behind_nat_it_cannot_be_told() -> None:
    zone = {("a.test", "MX"): ["10 m.test."], ("m.test", "A"): ["192.0.2.7"]}
    async with nameserver(zone) as server:
        (found,) = await names(["a.test"], ["10.0.0.1"], US, server)
    assert (found.level, "NAT" in found.remedy) == (GREY, True)


async def test_domains_alike_are_told_together() -> None:
    zone = {(f"{name}.test", "MX"): ["10 mx.example.test."] for name in "abcde"}
    listed = [*(f"{name}.test" for name in "abcde"), ".wild.test"]
    async with nameserver(zone) as server:
        (found,) = await names(listed, OWN, US, server)
    assert found.what.startswith("a.test, b.test, c.test and 2 more: ")


async def test_a_nameserver_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    (found,) = await names(["a.test"], OWN, US, "127.0.0.1:9")
    assert (found.level, "cannot be asked" in found.what) == (GREY, True)


async def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AVAILABLE", False)
    (found,) = await names(["a.test"], OWN, US)
    assert (found.level, "'.[dns]'" in found.remedy) == (GREY, True)


async def test_nothing_to_ask() -> None:
    (found,) = await names([".wild.test"], OWN, US)
    assert found.level == GREY
