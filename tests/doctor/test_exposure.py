"""Who listens where, out of a made-up /proc, and what doctor says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import Config
from proxy.doctor.backend import exposure
from proxy.doctor.front import who_listens
from proxy.doctor.result import GREEN, GREY, RED, YELLOW
from proxy.look.host import look
from proxy.look.sockets import Listener, is_us, listeners, qmail_home, running

_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"


def proc(directory: Path, *sockets: tuple[str, int, int], name: str = "tcp") -> Path:
    """``sockets`` are hosts as the kernel writes them, ports and inodes."""
    rows = [
        f"   {n}: {host}:{port:04X} {'0' * len(host)}:0000 0A 0:0 00:0 0 0 0 {inode} 1"
        for n, (host, port, inode) in enumerate(sockets)
    ]
    (directory / "net").mkdir(exist_ok=True)
    (directory / "net" / name).write_text("\n".join([_HEAD, *rows]) + "\n")
    return directory


def process(directory: Path, pid: int, inode: int, *words: str) -> None:
    """A process that has the socket open."""
    (directory / str(pid) / "fd").mkdir(parents=True)
    (directory / str(pid) / "fd/3").symlink_to(f"socket:[{inode}]")
    (directory / str(pid) / "cmdline").write_text("\0".join(words) + "\0")
    (directory / str(pid) / "comm").write_text(Path(words[0]).name + "\n")


LOOPBACK, ANY, PUBLIC, PRIVATE = "0100007F", "00000000", "08080808", "0100000A"


@pytest.mark.parametrize(
    ("host", "own", "level"),
    [
        (LOOPBACK, ["8.8.8.8"], GREEN),
        (ANY, ["8.8.8.8"], RED),
        (PUBLIC, ["8.8.8.8"], RED),
        (ANY, ["10.0.0.1"], YELLOW),
        (PRIVATE, ["8.8.8.8", "10.0.0.1"], YELLOW),
    ],
    ids=["loopback", "any", "public", "any, private only", "private"],
)
def test_who_may_walk_around(
    tmp_path: Path, host: str, own: list[str], level: str
) -> None:
    process(proc(tmp_path, (host, 2525, 7)), 12, 7, "/usr/bin/tcpserver")
    (found,) = exposure(Config(), own, str(tmp_path))
    assert found.level == level
    if level != GREEN:
        assert "tcpserver (process 12)" in found.what
        assert "127.0.0.1:2525" in found.remedy


def test_a_backend_elsewhere(tmp_path: Path) -> None:
    config = Config.model_validate({"backend": {"address": "192.0.2.5:25"}})
    (found,) = exposure(config, ["8.8.8.8"], str(proc(tmp_path)))
    assert found.level == GREY


def test_without_proc(tmp_path: Path) -> None:
    assert listeners(25, str(tmp_path)) is None
    (found,) = exposure(Config(), [], str(tmp_path))
    assert found.level == GREY
    assert who_listens(Config(), str(tmp_path))[0].level == GREY


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (["/usr/bin/python3", "/usr/local/bin/backstop", "serve"], GREEN),
        (["python3", "-m", "proxy", "serve", "-c", "x"], GREEN),
        (["/usr/sbin/sendmail", "-bd"], RED),
    ],
)
def test_who_has_port_25(tmp_path: Path, words: list[str], level: str) -> None:
    process(proc(tmp_path, (ANY, 25, 7)), 12, 7, *words)
    (found,) = who_listens(Config(), str(tmp_path))
    assert (found.subject, found.level) == ("port 25", level)
    assert is_us(words) == (level == GREEN)


def test_an_owner_that_cannot_be_seen(tmp_path: Path) -> None:
    (found,) = who_listens(Config(), str(proc(tmp_path, (ANY, 25, 7))))
    assert (found.level, "as root" in found.remedy) == (GREY, True)


def test_ipv6(tmp_path: Path) -> None:
    ours = "0" * 24 + "01000000"
    proc(tmp_path, (ours, 25, 7), name="tcp6")
    assert listeners(25, str(tmp_path)) == [Listener("::1", 25)]
    assert listeners(26, str(tmp_path)) == []
    proc(tmp_path, ("0" * 16 + "FFFF0000" + LOOPBACK, 25, 7), name="tcp6")
    assert listeners(25, str(tmp_path)) == [Listener("127.0.0.1", 25)]


def test_a_qmail_send_that_runs_tells_its_home(tmp_path: Path) -> None:
    process(tmp_path, 40, 1, "qmail-send")
    (tmp_path / "40/cwd").symlink_to("/opt/qmail/queue")
    assert running("qmail-send", str(tmp_path)) == 40
    assert qmail_home(str(tmp_path)) == "/opt/qmail"
    assert qmail_home(str(tmp_path / "40")) == ""


def test_init_avoids_a_port_that_is_taken(tmp_path: Path) -> None:
    process(proc(tmp_path, (LOOPBACK, 2525, 7), (ANY, 25, 8)), 12, 8, "tcpserver")
    host = look("/", str(tmp_path))
    assert host.backend_port == 2526
    assert [each.who for each in host.listening or ()] == ["tcpserver (process 12)"]
