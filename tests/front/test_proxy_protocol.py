"""The reader of PROXY headers, cut in any way and fed with anything."""

from __future__ import annotations

import itertools
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.front.proxy_protocol import (
    SIGNATURE_2,
    V2_MAX,
    BadHeader,
    Header,
    HeaderReader,
    crc32c,
)
from tests.support.fuzz import fuzz

PORTS = st.integers(0, 65535)
# All but the checksum's.
TYPES = st.integers(0, 255).filter(lambda number: number != 3)
TLVS = st.lists(st.tuples(TYPES, st.binary(max_size=40)), max_size=4).map(
    lambda items: b"".join(struct.pack(">BH", t, len(v)) + v for t, v in items)
)
REST = st.binary(max_size=40)


@st.composite
def sound(draw: st.DrawFn) -> tuple[bytes, Header]:
    """A header with what it says, and with what came behind."""
    version = draw(st.sampled_from([4, 6]))
    kind = st.ip_addresses(v=4) if version == 4 else st.ip_addresses(v=6)
    ends = [draw(kind) for _ in range(2)]
    ports = [draw(PORTS) for _ in range(2)]
    rest = draw(REST)
    if draw(st.booleans()):
        words = [f"TCP{version}", *map(str, ends), *map(str, ports)]
        data = ("PROXY " + " ".join(words) + "\r\n").encode()
    else:
        block = b"".join(e.packed for e in ends) + struct.pack(">HH", *ports)
        block += draw(TLVS)
        family = 0x11 if version == 4 else 0x21
        data = SIGNATURE_2 + struct.pack(">BBH", 0x21, family, len(block)) + block
    shown = [str(getattr(e, "ipv4_mapped", None) or e) for e in ends]
    expected = (shown[0], ports[0], shown[1], ports[1])
    return data + rest, Header(expected, rest)  # type: ignore[arg-type]


def read(pieces: list[bytes]) -> Header | str | None:
    """What comes of it: the header with all that follows, or the trouble."""
    reader = HeaderReader()
    for number, piece in enumerate(pieces):
        try:
            header = reader.feed(piece)
        except BadHeader as error:
            return str(error)
        if header is not None:
            return Header(header.ends, header.rest + b"".join(pieces[number + 1 :]))
    return None


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@fuzz
@given(sound(), st.lists(st.integers(0, 300), max_size=8))
def test_sound_headers_are_read_however_they_are_cut(
    case: tuple[bytes, Header], cuts: list[int]
) -> None:
    data, expected = case
    assert read(cut(data, cuts)) == read([data]) == expected


NEARLY = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=130).map(lambda b: b"PROXY " + b),
    st.text("PROXYTCP46UNKW 0123456789.:\r\n", max_size=120).map(
        lambda t: b"PROXY TCP4 " + t.encode()
    ),
    st.binary(max_size=80).map(lambda b: SIGNATURE_2 + b),
    st.binary(max_size=80).map(lambda b: SIGNATURE_2 + b"\x21\x11\x00\x20" + b),
)


@fuzz
@given(NEARLY, st.lists(st.integers(0, 200), max_size=8))
def test_anything_gives_the_same_whole_or_in_pieces(
    data: bytes, cuts: list[int]
) -> None:
    """Sound or not: it never raises anything else, and never depends on cuts."""
    whole, pieces = read([data]), read(cut(data, cuts))
    if isinstance(whole, str) or isinstance(pieces, str):
        # Bad is bad; of two faults the one that is seen first is told.
        assert isinstance(whole, str)
        assert isinstance(pieces, str)
        assert "192" not in whole
        return
    assert whole == pieces
    if whole is not None and whole.ends is not None:
        address = whole.ends.address
        assert (IPv6Address if ":" in address else IPv4Address)(address)


@pytest.mark.parametrize("head", [b"PROXY ", SIGNATURE_2 + b"\x21\x11\x0f\xf0"])
def test_what_is_held_is_bounded(head: bytes) -> None:
    reader = HeaderReader()
    reader.feed(head)
    fed = len(head)
    with pytest.raises(BadHeader):  # noqa: PT012
        while fed < 2 * V2_MAX:
            fed += 1
            if reader.feed(b"\x01") is not None:
                raise BadHeader("whole")
    assert fed <= V2_MAX


def summed(*, change: int = 0, length: int = 4) -> bytes:
    """A header with a checksum of ``length`` bytes, and with one bit changed."""
    block = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + struct.pack(">HH", 4711, 25)
    block += b"\x04\0\1x\x03" + struct.pack(">H", length)
    head = SIGNATURE_2 + struct.pack(">BBH", 0x21, 0x11, len(block) + length + 4)
    behind = b"\x05\0\1y"
    value = crc32c(head + block + bytes(length) + behind).to_bytes(length, "big")
    data = bytearray(head + block + value + behind)
    data[-1] ^= change
    return bytes(data)


def test_the_checksum_is_the_one_of_the_rfc() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"") == 0


def test_a_header_with_a_checksum() -> None:
    assert read([summed()]) == Header(("192.0.2.7", 4711, "198.51.100.1", 25), b"")  # type: ignore[arg-type]
    for wrong in (summed(change=1), summed(length=5)):
        assert read([wrong]) == "version 2, with a checksum that is wrong"
