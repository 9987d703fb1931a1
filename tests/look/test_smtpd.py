"""How qmail-smtpd is started, out of scripts as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.look.home import Delivery, default_delivery
from proxy.look.host import Host, _running
from proxy.look.script import commands
from proxy.look.smtpd import Smtpd, find, scripts
from proxy.look.tree import Found, Tree
from tests.support.small_host import write


def started(root: Path) -> list[Smtpd]:
    tree = Tree(str(root))
    return find(tree, scripts(tree))


RUN = "service/smtp/run"


@pytest.mark.parametrize(
    ("text", "host", "port", "command", "options"),
    [
        (
            "exec tcpserver -vRHl0 -x/etc/t.cdb -c40 -u7 -g8 192.0.2.1 25 qmail-smtpd",
            "192.0.2.1",
            "25",
            ("qmail-smtpd",),
            {"v": "", "R": "", "H": "", "l": "0", "x": "/etc/t.cdb", "c": "40"}
            | {"u": "7", "g": "8"},
        ),
        (
            "PORT=smtp\ntcpserver -v -- 0 ${PORT} \\\n fixcrio qmail-smtpd a b <x &",
            "0",
            "smtp",
            ("fixcrio", "qmail-smtpd", "a", "b"),
            {"v": ""},
        ),
        (
            "exec env - PATH=/bin tcpsvd -u qmaild -l mx 0 25 ./qmail-smtpd | logger",
            "0",
            "25",
            ("./qmail-smtpd",),
            {"u": "qmaild", "l": "mx"},
        ),
    ],
    ids=["letters together", "variables", "ipsvd"],
)
def test_listeners(
    tmp_path: Path,
    text: str,
    host: str,
    port: str,
    command: tuple[str, ...],
    options: dict[str, str],
) -> None:
    write(tmp_path / RUN, "#!/bin/sh\n# tcpserver 0 smtp is below\n" + text + "\n")
    (found,) = started(tmp_path)
    assert (found.host, found.port, found.number) == (host, port, 25)
    assert found.command == command
    assert found.options == options


def test_other_ports_come_after_25_and_others_not_at_all(tmp_path: Path) -> None:
    write(tmp_path / "service/a/run", "tcpserver 0 587 qmail-smtpd mx vchkpw true\n")
    write(tmp_path / "service/b/run", "tcpserver 0 smtp qmail-smtpd\n")
    write(tmp_path / "service/c/run", "tcpserver 0 110 qmail-popup mx\n")
    assert [each.number for each in started(tmp_path)] == [25, 587]
    assert started(tmp_path)[1].auth == ("mx", "vchkpw", "true")


def test_a_script_behind_two_names_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "var/qmail/supervise/s/run", "tcpserver 0 smtp qmail-smtpd\n")
    (tmp_path / "service").mkdir()
    (tmp_path / "service/s").symlink_to("/var/qmail/supervise/s")
    (found,) = started(tmp_path)
    assert found.place == "/var/qmail/supervise/s/run:1"


def test_inetd_xinetd_and_systemd(tmp_path: Path) -> None:
    inetd = (
        "192.0.2.9:smtp stream tcp nowait qmaild /v/tcp-env tcp-env /v/qmail-smtpd\n"
    )
    write(tmp_path / "etc/inetd.conf", "# smtp is qmail's\n" + inetd)
    off = "service smtp\n{\n disable = yes\n server = /v/qmail-smtpd\n}\n"
    write(tmp_path / "etc/xinetd.d/off", off)
    on = "service smtp\n{\n port = 25\n bind = ::\n server = /v/qmail-smtpd\n}\n"
    write(tmp_path / "etc/xinetd.d/on", on)
    units = tmp_path / "etc/systemd/system"
    unit = "[Service]\nExecStart=-/var/qmail/bin/qmail-smtpd\n"
    write(units / "qmail-smtpd@.service", unit)
    write(units / "qmail-smtpd.socket", "[Socket]\nListenStream=192.0.2.3:25\n")
    found = {each.kind: (each.host, each.number) for each in started(tmp_path)}
    assert found == {
        "inetd": ("192.0.2.9", 25),
        "xinetd": ("::", 25),
        "systemd": ("192.0.2.3", 25),
    }


@pytest.mark.parametrize(
    ("script", "delivery"),
    [
        ("qmail-start ./Mailbox splogger qmail &", "./Mailbox"),
        ("qmail-start '|dot-forward .forward\n./Mailbox' splogger qmail", None),
        ('D=`cat /d`\nexec env - PATH=/x qmail-start "$D"', "|preline procmail"),
        ('exec qmail-start "$(cat /d)" splogger', "|preline procmail"),
        ('qmail-start "$UNKNOWN"', "$UNKNOWN"),
    ],
    ids=["plain", "two lines", "variable", "substituted", "unknown"],
)
def test_default_delivery(tmp_path: Path, script: str, delivery: str | None) -> None:
    write(tmp_path / "d", "|preline procmail\n")
    write(tmp_path / "var/qmail/rc", "#!/bin/sh\n" + script + "\n")
    found = default_delivery(
        Tree(str(tmp_path)), commands(Tree(str(tmp_path)), "/var/qmail/rc")
    )
    assert found is not None
    assert found.text == (delivery or "|dot-forward .forward\n./Mailbox")


def test_an_open_quotation_hides_nothing_before_it(tmp_path: Path) -> None:
    write(tmp_path / "s", "first word\necho 'never closed\nlast\n")
    words = [command.words for command in commands(Tree(str(tmp_path)), "/s")]
    assert words[0] == ("first", "word")


def test_links_stay_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path / "secret", "outside\n")
    (root / "etc").mkdir(parents=True)
    (root / "etc/out").symlink_to("../../../secret")
    (root / "etc/in").symlink_to("/etc/there")
    write(root / "etc/there", "inside\n")
    tree = Tree(str(root))
    assert tree.text("/etc/out") is None
    assert tree.text("/etc/in") == "inside\n"


def test_what_runs_counts(tmp_path: Path) -> None:
    """Started by hand, or by who knows whom: the processes tell."""
    processes = {
        1: ("init",),
        7: ("tcpserver", "-R", "-l", "0", "127.0.0.1", "2525", "/b/qmail-smtpd"),
        8: ("tcpserver", "0", "110", "qmail-popup", "mx"),
        9: ("qmail-lspawn", "./Mail dir/"),
        10: ("tcpserver", "-R", "-l", "0", "127.0.0.1", "2525", "/b/qmail-smtpd"),
    }
    for pid, words in processes.items():
        write(tmp_path / f"{pid}/cmdline", "".join(f"{word}\0" for word in words))
    seen = Host("/", delivery=Delivery("./Mailbox", Found("qmail-start", "/rc", 3)))
    _running(seen, str(tmp_path))
    (smtpd,) = seen.smtpd
    assert (smtpd.host, smtpd.number, smtpd.behind) == ("127.0.0.1", 2525, True)
    assert seen.behind is smtpd
    assert not seen.front
    assert seen.delivery is not None
    assert seen.delivery.text == "./Mail dir/"
    assert seen.delivery.found.place == f"{tmp_path}/9/cmdline"
    _running(seen, str(tmp_path))  # nothing that is known is found again
    assert len(seen.smtpd) == len(seen.found) == 1
