"""The decision alone, in process: ``python -m bench.decisions``.

Decisions of the qmail rule a second, on a host with 10,000 users and on large
ones; half of the addresses are unknown.  Warm: every address was asked for
before.  Cold: nothing was read before, every address is asked for once.
``explain``: the whole command on as many addresses, its start taken off.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import host
from bench.peers import peer
from bench.side_by_side import circumstances
from bench.tools import DOMAIN, HERE, median, say_if_busy, scratch, write_out
from proxy import assemble
from proxy.config import Config
from proxy.config.model import Qmail
from proxy.qmail.host import QmailHost
from proxy.rules.engine import Engine
from proxy.rules.verdict import Kind, Question, Verdict

CDB_USERS = 1_000_000
DOT_QMAIL_FILES = 100_000
DOMAINS = 50_000
_UID = 30_000


@dataclass(frozen=True)
class Large:
    """A kind of host: how it is made, and its known addresses by number.

    ``central`` is the file whose change makes the most work.
    """

    name: str
    make: Callable[[Path, int], None]
    known: Callable[[int], str]
    size: int
    central: str


def _system_users(root: Path, count: int) -> None:
    host.lay_out(root)
    host.add_users(root, count)


def _cdb(root: Path, count: int) -> None:
    host.lay_out(root)
    owner = host.add_account(root, "vmail", _UID, "/home/vmail")
    host.add_maildir(root / "home/vmail", owner)
    host.add_dot_qmail(root / "home/vmail", ".qmail", owner)
    names = (f"person{number}" for number in range(count))
    path = root / "var/qmail/users/cdb"
    host.write_users_cdb(path, names, "vmail", owner, "/home/vmail")


def _dot_qmail(root: Path, count: int) -> None:
    host.lay_out(root)
    home = root / "var/qmail/alias"
    owner = home.stat().st_uid
    host.add_maildir(home, owner)
    for number in range(count):
        host.add_dot_qmail(home, f".qmail-list{number}", owner)


def _domains(root: Path, count: int) -> None:
    names = [f"d{number}.test" for number in range(count)]
    virtual = "\n".join(f"{name}:vmail" for name in names)
    control = {"rcpthosts": "\n".join(names), "virtualdomains": virtual}
    host.lay_out(root, control)
    owner = host.add_account(root, "vmail", _UID, "/home/vmail")
    host.add_maildir(root / "home/vmail", owner)
    host.add_dot_qmail(root / "home/vmail", ".qmail-info", owner)


HOSTS = (
    Large(
        "10,000 system users",
        _system_users,
        lambda n: f"user{n:05}@{DOMAIN}",
        10_000,
        "etc/passwd",
    ),
    Large(
        "cdb of 1,000,000 users",
        _cdb,
        lambda n: f"person{n}@{DOMAIN}",
        CDB_USERS,
        "var/qmail/users/cdb",
    ),
    Large(
        "100,000 dot-qmail files",
        _dot_qmail,
        lambda n: f"list{n}@{DOMAIN}",
        DOT_QMAIL_FILES,
        "var/qmail/control/rcpthosts",
    ),
    Large(
        "50,000 virtual domains",
        _domains,
        lambda n: f"info@d{n}.test",
        DOMAINS,
        "var/qmail/control/virtualdomains",
    ),
)


def addresses(large: Large, size: int, count: int) -> list[bytes]:
    """Half of them known, the other half unknown in a known domain."""
    dice = random.Random(3)  # the same in every run
    found = []
    for number in dice.sample(range(size), min(count // 2, size)):
        known = large.known(number)
        found += [known.encode(), f"nobody-{number}@{known.partition('@')[2]}".encode()]
    dice.shuffle(found)
    return found


@dataclass
class Rates:
    """Decisions a second; ``reload`` is milliseconds of the one decision that
    meets a changed central file."""

    warm: float
    cold: float
    reload: float
    explain: float


def _engine(root: Path) -> tuple[QmailHost, Engine]:
    config = Config(qmail=Qmail(root=str(root)))
    found = assemble.qmail_host(config)
    return found, assemble.engine(config, found, lambda rule, error: None)


def _ask(engine: Engine, asked: list[bytes]) -> float:
    """Decisions a second; half of them must be refusals, the others not."""
    kinds = []
    began = time.process_time()
    for address in asked:
        verdict = engine.ask(Question(address, b"sender@client.test", "192.0.2.1"))
        assert isinstance(verdict, Verdict)
        kinds.append(verdict.kind)
    used = time.process_time() - began
    if not kinds.count(Kind.REJECT) == kinds.count(Kind.ACCEPT) == len(asked) // 2:
        raise RuntimeError(f"verdicts that cannot be: {Counter(kinds)}")
    return len(asked) / used


def _reload(root: Path, large: Large, engine: Engine, address: bytes) -> float:
    os.utime(root / large.central)
    time.sleep(0.1)  # what has just changed is read again and again
    began = time.perf_counter()
    engine.ask(Question(address))
    return 1e3 * (time.perf_counter() - began)


def _explain(root: Path, asked: list[bytes]) -> float:
    config = root.parent / "explain.toml"
    config.write_text(f'[qmail]\nroot = "{root}"\n[[rules]]\ntype = "qmail"\n')
    command = [sys.executable, "-m", "proxy", "explain", "-c", str(config), "--json"]

    def seconds(given: list[bytes]) -> float:
        began = time.perf_counter()
        subprocess.run(
            [*command, "-"],
            input=b"\n".join(given),
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        return time.perf_counter() - began

    return len(asked) / (seconds(asked) - seconds(asked[:1]))


def measure(root: Path, large: Large, asked: list[bytes], rounds: int) -> Rates:
    """Medians of some rounds."""
    warm, cold, reload, explain = [], [], [], []
    for _ in range(rounds):
        qmail, engine = _engine(root)
        cold.append(_ask(engine, asked))
        warm.append(_ask(engine, asked))
        reload.append(_reload(root, large, engine, asked[0]))
        explain.append(_explain(root, asked))
        qmail.cache.close()
    return Rates(median(warm), median(cold), median(reload), median(explain))


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description="decisions of the qmail rule")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=10_000, help="addresses")
    given = parser.parse_args()
    say_if_busy()
    found: dict[str, Rates] = {}
    print("| host | warm/s | cold/s | explain/s | a changed file, ms |")
    print("|---|--:|--:|--:|--:|")
    for large in HOSTS:
        with scratch() as directory:
            root = directory / "host"
            large.make(root, large.size)
            time.sleep(0.1)
            asked = addresses(large, large.size, given.count)
            rates = found[large.name] = measure(root, large, asked, given.rounds)
        print(
            f"| {large.name} | {rates.warm:.0f} | {rates.cold:.0f}"
            f" | {rates.explain:.0f} | {rates.reload:.0f} |"
        )
    about = circumstances([peer("backstop")])
    rows = {name: vars(rates) for name, rates in found.items()}
    write_out("decisions", {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
