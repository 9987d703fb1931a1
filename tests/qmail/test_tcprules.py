"""tcp.smtp.cdb, held against tcprulescheck."""

from __future__ import annotations

import json
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
    assert list(keys("192.0.2.10"))[:4] == [
        b"192.0.2.10",
        b"192.0.2.",
        b"192.0.",
        b"192.",
    ]
    assert list(keys("192.0.2.10"))[-1] == b""
    assert next(keys("::ffff:192.0.2.1")) == b"192.0.2.1"
    assert list(keys("2001:db8::1%eth0"))[:5] == [
        b"2001:db8::1",
        b"2001:0DB8:0000:0000:0000:0000:0000:0001",
        b"2001:db8::",
        b"2001:db8:",
        b"2001:",
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


# Of ucspi-tcp6 1.11.4: its tcprules made these keys of the rules, and its
# tcprulescheck said of each address which one it takes.
SIX = {
    b"127.": b"+RELAYCLIENT=\0",
    b"_0000e0g0": b"+TEN=1\0",  # 10.0.0.0/8
    b"_a0c0ef00000l": b"+B=2\0",  # 172.16.0.0/12
    b"_ab00e0gh000000000rst000x": b"D\0",  # 203.0.113.0/24
    b"_a": b"+HALF=1\0",  # 128.0.0.0/1, which is never looked up
    b"^00`000000000000a0000bc0de0fgh000000000000000000i": b"+RELAYCLIENT=\0",
    b"^00`000000000000a0000bc0de0fgh0000000i0jkl0m0no0p": b"D\0",
    b"^`": b"+HALF=1\0",  # 8000::/1
    b"2001:0DB8:0002:0000:0000:0000:0000:0025": b"+FULL=1\0",
    b"0000:0000:0000:0000:0000:0000:0000:0001": b"+ONE=1\0",
}


@pytest.mark.fault("H3")
@pytest.mark.parametrize(
    ("client", "rule"),
    [
        ("127.0.0.1", b"127."),
        ("10.3.4.5", b"_0000e0g0"),
        ("172.31.255.1", b"_a0c0ef00000l"),
        ("172.32.0.1", None),
        ("203.0.113.9", b"_ab00e0gh000000000rst000x"),
        ("200.1.1.1", None),
        ("2001:db8:1::7", b"^00`000000000000a0000bc0de0fgh000000000000000000i"),
        ("2001:db8:bad:1::7", b"^00`000000000000a0000bc0de0fgh0000000i0jkl0m0no0p"),
        ("2001:db8:2::25", b"2001:0DB8:0002:0000:0000:0000:0000:0025"),
        ("2001:db8:2::26", None),
        ("::1", b"0000:0000:0000:0000:0000:0000:0000:0001"),
        ("9000::1", None),
        ("::ffff:10.1.1.1", b"_0000e0g0"),
    ],
)
def test_the_keys_of_ucspi_tcp6(
    tmp_path: Path, client: str, rule: bytes | None
) -> None:
    rules = made(tmp_path / "six.cdb", list(SIX.items()))
    assert rules.look(client).rule == rule


@pytest.mark.fault("H5")
def test_whether_any_rule_sets_a_variable(tmp_path: Path) -> None:
    assert made(tmp_path / "a.cdb", list(SIX.items())).names(b"RELAYCLIENT")
    denied = [(b"1.", b"D\0+RELAYCLIENT=\0"), (b"", b"+RELAYCLIENTS=\0")]
    assert not made(tmp_path / "b.cdb", denied).names(b"RELAYCLIENT")


RECORDED = json.loads(
    (Path(__file__).parent.parent / "data/tcprules6.json").read_text()
)
"""Rules, what tcprules of ucspi-tcp6 1.11.4 made of them, and which rule (by the
variable N; "deny" for a denial) its tcprulescheck found for each address."""


@pytest.mark.fault("H3")
@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_as_tcprulescheck_of_ucspi_tcp6_said(tmp_path: Path, number: int) -> None:
    recorded = RECORDED[number]
    records = [
        (key.encode("latin-1"), data.encode("latin-1"))
        for key, data in recorded["records"]
    ]
    rules = made(tmp_path / "six.cdb", records)
    for address, said in recorded["answers"].items():
        ruling = rules.look(address)
        found = dict(ruling.variables).get(b"N", b"").decode()
        assert ("deny" if ruling.denied else found) == said, address


@pytest.mark.fault("H3")
@pytest.mark.parametrize("seed", range(6))
def test_random_rules_as_tcprulescheck_says(tmp_path: Path, seed: int) -> None:
    for tool in ("tcprules", "tcprulescheck"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install ucspi-tcp")
    chance = random.Random(seed)
    numbers = (0, 1, 10, 12, 99, 192, 255)

    def address() -> list[str]:
        return [str(chance.choice(numbers)) for _ in range(4)]

    lines, clients = [], []
    for number in range(20):
        parts = address()
        kept = chance.randrange(5)
        who = ".".join(parts[:kept]) + ("." if 0 < kept < 4 else "")
        if kept in (1, 2, 3) and chance.random() < 0.3:
            who = who.rstrip(".") + f"-{int(parts[kept - 1]) + 3}."
        if chance.random() < 0.1:
            who = chance.choice(["10.0.0.0/8", "=a.test", "i@1.1.1.1"])
        allow = chance.choice(["allow", "allow", "deny"])
        lines.append(f'{who}:{allow},N="{number}"\n')
        clients += [".".join([*parts[:kept], *address()][:4]), ".".join(address())]
    path = tmp_path / "tcp.cdb"
    command = ["tcprules", str(path), str(tmp_path / "new")]
    subprocess.run(command, input="".join(lines).encode(), check=True, timeout=60)
    rules = TcpRules(DirectoryView(b""), str(path).encode())
    for client in clients:
        ruling = rules.look(client)
        if ruling.denied:
            ruling = ruling._replace(variables=())
        assert ruling == checked(path, client), (client, lines)
