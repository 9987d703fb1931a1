"""tcp.smtp.cdb, held against tcprulescheck."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.qmail.tcprules import Ruling, TcpRules, TcpRulesError, keys
from proxy.qmail.view import DirectoryView
from tests.support.cdbmake import make_cdb

RULES = """\
192.0.2.1:allow,RELAYCLIENT=""
192.0.2.2:deny
192.0.2.3:deny,A="b"
192.0.2.:allow,B="c d",C=/e=f/
10.1-3.:allow,D="ten"
10.:deny
198.51.100.7-9:allow,RBLSMTPD="-no"
=client.test:deny
info@192.0.2.9:deny
:allow,E="rest"
"""
ADDRESSES = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.4",
    "192.0.2.9",
    "192.0.2.10",
    "192.0.20.1",
    "10.1.2.3",
    "10.2.9.9",
    "10.4.1.1",
    "10.11.0.1",
    "198.51.100.6",
    "198.51.100.7",
    "198.51.100.9",
    "198.51.100.70",
    "203.0.113.1",
    "1.1.1.1",
]


def made(path: Path, records: list[tuple[bytes, bytes]]) -> TcpRules:
    path.write_bytes(make_cdb(records))
    return TcpRules(DirectoryView(b""), str(path).encode())


def checked(path: Path, address: str) -> Ruling:
    """What tcprulescheck says."""
    command = ["tcprulescheck", str(path)]
    env = {"TCPREMOTEIP": address}
    done = subprocess.run(command, env=env, capture_output=True, check=True, timeout=60)
    rule = re.search(rb"^rule (.*):$", done.stdout, re.M)
    variables = re.findall(
        rb"^set environment variable ([^=]*)=(.*)$", done.stdout, re.M
    )
    denied = b"deny connection" in done.stdout
    assert denied or b"allow connection" in done.stdout, done.stdout
    return Ruling(rule[1] if rule else None, denied, () if denied else tuple(variables))


@pytest.mark.parametrize("rules", [RULES, RULES.replace(":allow,E", "9.9.9.9:allow,E")])
def test_as_tcprulescheck_says(tmp_path: Path, rules: str) -> None:
    for tool in ("tcprules", "tcprulescheck"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install ucspi-tcp")
    path = tmp_path / "tcp.cdb"
    command = ["tcprules", str(path), str(tmp_path / "new")]
    subprocess.run(command, input=rules.encode(), check=True, timeout=60)
    ours = TcpRules(DirectoryView(b""), str(path).encode())
    chance = random.Random(7)
    more = [".".join(str(chance.randrange(256)) for _ in range(4)) for _ in range(30)]
    for address in ADDRESSES + more:
        ruling = ours.look(address)
        if ruling.denied:
            ruling = ruling._replace(variables=())
        assert ruling == checked(path, address), address


def test_the_order_of_lookups() -> None:
    assert list(keys("192.0.2.10")) == [
        b"192.0.2.10",
        b"192.0.2.",
        b"192.0.",
        b"192.",
        b"",
    ]
    assert next(keys("::ffff:192.0.2.1")) == b"192.0.2.1"
    assert list(keys("2001:db8::1%eth0")) == [
        b"2001:db8::1",
        b"2001:db8::",
        b"2001:db8:",
        b"2001:",
        b"",
    ]
    assert list(keys("")) == [b""]  # a Unix socket


@pytest.mark.parametrize(
    ("data", "denied", "variables"),
    [
        (b"", False, ()),
        (b"D\0", True, ()),
        (b"D", False, ()),  # not ended: tcpserver does not see it
        (b"+A=b\0+A=c\0", False, ((b"A", b"b"), (b"A", b"c"))),
        (b"+A\0+=x\0?\0+B==\0", False, ((b"B", b"="),)),
        (b"+A=b\0D\0", True, ((b"A", b"b"),)),
    ],
)
def test_the_data(
    tmp_path: Path,
    data: bytes,
    denied: bool,
    variables: tuple[tuple[bytes, bytes], ...],
) -> None:
    ruling = made(tmp_path / "x.cdb", [(b"", data)]).look("192.0.2.1")
    assert ruling == Ruling(b"", denied, variables)


@pytest.mark.parametrize("size", [0, 100, 2047, 2060])
def test_a_damaged_file_tells_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.cdb"
    rules = made(path, [(b"192.0.2.1", b"D\0")])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TcpRulesError, match="truncated"):
        rules.look("192.0.2.1")


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        rules = TcpRules(DirectoryView(b""), str(path).encode())
        with pytest.raises(TcpRulesError, match=str(path)):
            rules.look("192.0.2.1")
