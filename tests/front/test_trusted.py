"""Which clients are in the networks of ``relay.trusted``."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.front.trusted import NOBODY, Trusted
from tests.support.fuzz import fuzz

NETWORKS = [
    "192.0.2.0/24",
    "198.51.100.7",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "2001:db8::/32",
    "fe80::1",
]
TRUSTED = Trusted(map(ip_network, NETWORKS))


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.1", "192.0.2.0/24"),
        ("192.0.2.255", "192.0.2.0/24"),
        ("192.0.3.0", ""),
        ("198.51.100.7", "198.51.100.7/32"),
        ("198.51.100.8", ""),
        ("10.200.0.1", "10.0.0.0/8"),
        ("2001:db8:1::1", "2001:db8::/32"),
        ("2001:db9::", ""),
        ("fe80::1%eth0", "fe80::1/128"),
        ("fe80::2%eth0", ""),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("::ffff:c000:201", "192.0.2.0/24"),
        ("::ffff:192.0.3.1", ""),
        ("::192.0.2.1", ""),
        ("", ""),
        ("/run/socket", ""),
        ("192.0.2.1.example.test", ""),
        ("192.0.2.01", ""),
        ("3221225985", ""),
    ],
)
def test_the_network_of_a_client(client: str, network: str) -> None:
    found = TRUSTED.network_of(client)
    assert str(found or "") == network
    assert (client in TRUSTED) is bool(network)


def test_nobody() -> None:
    assert not NOBODY
    assert TRUSTED
    assert "127.0.0.1" not in NOBODY


def test_a_mapped_address_is_in_no_network_of_ipv6() -> None:
    """It is an IPv4 client, whatever family the socket has."""
    assert "::ffff:192.0.2.1" not in Trusted([ip_network("::/1")])
    assert "2::1" in Trusted([ip_network("::/1")])


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
PREFIXED = st.tuples(ADDRESSES, st.integers(1, 32)).map(
    lambda pair: ip_network("/".join(map(str, pair)), strict=False)
)


@fuzz
@given(ADDRESSES, st.lists(PREFIXED, max_size=5))
def test_it_is_what_the_library_says(client: str, networks: list[object]) -> None:
    nets = [ip_network(str(each)) for each in networks]
    address = ip_address(client)
    mapped = getattr(address, "ipv4_mapped", None)
    wanted = any((mapped or address) in each for each in nets)
    assert (client in Trusted(nets)) is wanted
