"""``backstop check``: a good host passes, and each slip is named."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy.cli import app
from proxy.qmail.view import DirectoryView
from tests.support.small_host import config, lay_out, write


def run(path: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", "-c", str(path), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def grave(output: str, tmp_path: Path) -> list[str]:
    """The errors and warnings, with the host's root shown as HOST."""
    text = output.replace(f"{tmp_path}/host", "HOST").replace(f"{tmp_path}/", "")
    return [line for line in text.splitlines() if re.match("error|warning", line)]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BACKSTOP_")]:
        monkeypatch.delenv(name)
    # Looked at in this process, whoever we are; tests/live has the other user.
    monkeypatch.setenv("BACKSTOP_PROCESS__ALLOW_ROOT", "true")


def test_a_good_host(tmp_path: Path) -> None:
    status, output = run(lay_out(tmp_path))
    assert grave(output, tmp_path) == []
    assert output.splitlines()[-1] == "configuration OK"
    assert status == 0


def test_json(tmp_path: Path) -> None:
    status, output = run(lay_out(tmp_path, rcpthosts=None), "--json")
    found = json.loads(output)
    assert status == 1
    assert [each["level"] for each in found if each["level"] != "note"] == ["error"]
    assert {"level", "file", "line", "key", "value", "what", "remedy"} == set(found[0])


def test_a_bad_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[limits]\nconnections = -1\n")
    status, output = run(path)
    assert status == 2
    assert grave(output, tmp_path) == [
        "error: config.toml:2: limits.connections = -1: must be 0 or more:"
        " leave it out for 4000, the default"
    ]
    assert run(path, "--json")[0] == 2


@pytest.mark.parametrize(
    ("control", "told"),
    [
        (
            {"rcpthosts": None},
            "error: HOST/var/qmail/control/rcpthosts: missing: qmail would take mail"
            " for every domain (an open relay): list your domains there, or set"
            " relay.allow_missing_rcpthosts = true",
        ),
        (
            {"me": None},
            "error: HOST/var/qmail/control/me: missing: qmail cannot work: write this"
            " host's name to it: qmail's config or config-fast does",
        ),
        (
            {"locals": "example.test\nx.test\r\n"},
            "warning: HOST/var/qmail/control/locals:2: a carriage return at its end"
            " counts as part of the name: take them out:"
            " sed -i 's/\\r$//' control/locals",
        ),
        (
            {"morercpthosts": "x.test\n"},
            "warning: HOST/var/qmail/control/morercpthosts: has no effect: there is"
            " no morercpthosts.cdb: run qmail-newmrh",
        ),
        (
            {"morercpthosts.cdb": "short"},
            "error: HOST/var/qmail/control/morercpthosts.cdb: damaged: too short for"
            " a cdb file: run qmail-newmrh",
        ),
        (
            {"defaultdelivery": "./Maildir/\n"},
            'warning: config.toml:1: qmail.default_delivery = "./Mailbox":'
            ' control/defaultdelivery says "./Maildir/":'
            " set it to what qmail-start is started with",
        ),
    ],
)
def test_control_files(
    control: dict[str, str | None], told: str, tmp_path: Path
) -> None:
    status, output = run(lay_out(tmp_path, **control))
    assert told in grave(output, tmp_path)
    assert status == (1 if told.startswith("error") else 0)


def test_a_missing_rcpthosts_can_be_acknowledged(tmp_path: Path) -> None:
    lay_out(tmp_path, rcpthosts=None)
    path = config(tmp_path, "[relay]\nallow_missing_rcpthosts = true\n")
    assert run(path)[0] == 0


def test_a_percent_hack_that_makes_an_open_relay(tmp_path: Path) -> None:
    path = lay_out(tmp_path, percenthack="Virt.test\nmine.test\n", envnoathost="e.test")
    status, output = run(path)
    assert status == 0
    assert grave(output, tmp_path) == [
        "warning: HOST/var/qmail/control/percenthack: lets everybody relay: qmail sends"
        " mail for user%any.where@virt.test to any.where: take the domain out of it,"
        " or set relay.allow_percenthack = false"
    ]
    config(tmp_path, "[relay]\nallow_percenthack = false\n")
    assert grave(run(path)[1], tmp_path) == []
    (tmp_path / "host/var/qmail/control/percenthack").write_text("e.test\n")
    config(tmp_path)
    (told,) = grave(run(path)[1], tmp_path)  # user%any.where, without @
    assert "user%any.where@e.test" in told


def test_auth_that_nobody_can_be_offered(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = config(tmp_path, '[auth]\noffer = "tls"\n')
    status, output = run(path)
    assert status == 0
    (told,) = grave(output, tmp_path)
    assert 'auth.offer = "tls": no connection can be encrypted' in told
    assert told.endswith(": set tls.certificates")


def test_auth_beside_backends_with_domains(tmp_path: Path) -> None:
    lay_out(tmp_path)
    backends = "[[backend]]\naddress = 'a:1'\n[[backend]]\naddress = 'b:1'\n"
    path = tmp_path / "several.toml"
    rest = config(tmp_path).read_text()
    before, _, behind = rest.partition("[backend]")
    behind = behind.partition("\n[")[2]
    both = before + backends + "{}\n[auth]\noffer = 'always'\n[" + behind
    path.write_text(both.format("domains = ['b.test']"))
    (told,) = grave(run(path)[1], tmp_path)
    assert "clients that authenticate do so at the backends without domains" in told
    path.write_text(both.format(""))
    assert grave(run(path)[1], tmp_path) == []


def test_a_control_file_that_is_a_directory(tmp_path: Path) -> None:
    path = lay_out(tmp_path, virtualdomains=None)
    (tmp_path / "host/var/qmail/control/virtualdomains").mkdir()
    status, output = run(path)
    assert status == 1
    (told,) = grave(output, tmp_path)
    assert "qmail-send cannot read it: not a regular file" in told


def cdb(wildcards: bool) -> bytes:
    """A cdb file with no record, or with the empty list of wildcards alone."""
    if not wildcards:
        return struct.pack("<II", 2048, 0) * 256
    head = bytearray(struct.pack("<II", 2056, 0) * 256)
    hashed = 5381  # of the empty key
    struct.pack_into("<II", head, 8 * (hashed & 255), 2056, 2)
    slots = [bytes(8), bytes(8)]
    slots[(hashed >> 8) % 2] = struct.pack("<II", hashed, 2048)
    return bytes(head) + bytes(8) + b"".join(slots)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (cdb(True), None),
        (cdb(True)[:-9], "damaged: it is cut off"),
        (cdb(False), "damaged: it has no list of wildcard characters"),
        (b"", "damaged: too short for a cdb file"),
    ],
)
def test_users_cdb(content: bytes, told: str | None, tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    write(tmp_path / "host/var/qmail/users/cdb", content.decode("latin-1"))
    expected = f"error: HOST/var/qmail/users/cdb: {told}: run qmail-newu"
    assert grave(run(path)[1], tmp_path) == ([expected] if told else [])


def test_users_cdb_that_is_stale(tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    users = tmp_path / "host/var/qmail/users"
    write(users / "assign", ".\n")
    assert "has no effect: there is no cdb: run qmail-newu" in run(path)[1]
    write(users / "cdb", cdb(True).decode("latin-1"))
    os.utime(users / "cdb", (1, 1))
    assert "users/cdb: older than assign: run qmail-newu" in run(path)[1]
    os.utime(users / "assign", (1, 1))
    assert grave(run(path)[1], tmp_path) == []


class TestAccounts:
    def test_no_alias_user(self, tmp_path: Path) -> None:
        path = lay_out(tmp_path)
        passwd = tmp_path / "host/etc/passwd"
        write(passwd, passwd.read_text().replace("alias:", "elias:", 1))
        status, output = run(path)
        assert status == 1
        assert "does not name the user alias" in output

    def test_no_passwd(self, tmp_path: Path) -> None:
        path = lay_out(tmp_path)
        (tmp_path / "host/etc/passwd").unlink()
        status, output = run(path)
        assert status == 1
        assert "HOST/etc/passwd: No such file" in "".join(grave(output, tmp_path))

    def test_other_sources(self, tmp_path: Path) -> None:
        path = lay_out(tmp_path)
        nsswitch = tmp_path / "host/etc/nsswitch.conf"
        write(nsswitch, "group: sss\n passwd: files systemd # ldap\n")
        assert grave(run(path)[1], tmp_path) == []
        write(nsswitch, "#\npasswd: files [NOTFOUND=return] sss ldap\n")
        assert grave(run(path)[1], tmp_path) == [
            "warning: HOST/etc/nsswitch.conf:2: accounts that only sss, ldap knows"
            " are not seen: put them into users/assign (qmail-pw2u, qmail-newu)"
        ]

    @pytest.mark.parametrize("there", [0, 1])
    def test_a_place_of_homes_that_is_not_mounted(
        self, tmp_path: Path, there: int
    ) -> None:
        path = lay_out(tmp_path)
        passwd = tmp_path / "host/etc/passwd"
        people = [f"u{n}:x:{2000 + n}:100::/export/home/u{n}:" for n in range(3)]
        write(passwd, passwd.read_text() + "\n".join(people) + "\n")
        for number in range(there):
            (tmp_path / f"host/export/home/u{number}").mkdir(parents=True)
        expected = [
            "warning: HOST/export/home: none of the 3 homes of /etc/passwd is there:"
            " is it mounted here? Mail for their owners is refused (550)"
        ]
        found = grave(run(path)[1], tmp_path)
        assert found == ([] if there else expected)

    @pytest.mark.fault("C2")
    def test_homes_that_are_closed_to_us(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = lay_out(tmp_path)
        passwd = tmp_path / "host/etc/passwd"
        people = [f"u{n}:x:{2000 + n}:100::/home/u{n}:" for n in range(12)]
        write(passwd, passwd.read_text() + "\n".join(people) + "\n")
        lstat = DirectoryView.lstat

        def closed(self: DirectoryView, name: bytes) -> object:
            if name.startswith(b"/home/u") and name.endswith(b"/.qmail"):
                raise PermissionError(13, "Permission denied")
            if name.startswith(b"/home/u"):
                return lstat(self, b"/home/alice")
            return lstat(self, name)

        monkeypatch.setattr(DirectoryView, "lstat", closed)
        status, output = run(path)
        found = grave(output, tmp_path)
        assert status == 1
        assert len(found) == 11
        assert found[0] == (
            "warning: HOST/home/u0: the front door's own user may not look here"
            " (Permission denied): setfacl -m u:USER:x on it, or chmod o+x;"
            " until then 451"
        )
        assert re.fullmatch(
            r"error: HOST/etc/passwd: 12 of 1[35] homes cannot be read: all mail for"
            r" their owners is answered 451, and comes back to its senders after days:"
            r" start it as root, or give it CAP_DAC_READ_SEARCH \(deploy/README.md\),"
            r" or open all of them",
            found[-1],
        )


def test_every_backend_is_named(tmp_path: Path) -> None:
    """F-backends: each with its place in the file, and what it will serve."""
    path = lay_out(tmp_path)
    text = path.read_text()
    assert text.count("[backend]") == 1
    text = text.replace("[backend]", '[listen]\naddresses = ["[::]:26"]\n[[backend]]')
    text += (
        '[[backend]]\naddress = "unix:/nowhere/socket"\nweight = 3\n'
        '[[backend]]\naddress = "localhost:26"\nbackup = true\n'
        'domains = ["example.org", ".example.org"]\n'
        '[[backend]]\naddress = "192.0.2.1:25"\n'
        'domains = [".example.org", "example.org"]\n'
    )
    path.write_text(text)
    status, output = run(path)
    assert status == 1
    lines = [line for line in output.splitlines() if "backend[" in line]
    where: dict[str, list[str]] = {}
    for line in lines:
        match = re.search(r"config.toml:(\d+): (backend\[\d\])", line)
        assert match
        assert "address" in text.splitlines()[int(match[1]) - 1]
        where.setdefault(match[2], []).append(line)
    assert (
        "all domains that no other one serves, with weight 1" in where["backend[1]"][0]
    )
    assert "there is no such socket" in where["backend[2]"][0]
    assert "with weight 3" in where["backend[2]"][1]
    assert "is where the front door itself listens" in where["backend[3]"][0]
    assert "serves example.org, .example.org, as a backup" in where["backend[3]"][1]
    assert len(where["backend[4]"]) == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            '[listen]\naddresses = ["0.0.0.0:2525"]\n',
            'error: config.toml:5: backend.address = "127.0.0.1:2525": is where the'
            " front door itself listens: run qmail-smtpd on another port and name that",
        ),
        (
            '[listen]\naddresses = ["127.0.0.2:25", "127.0.0.2:25"]\n',
            "error: config.toml:9: listen.addresses ="
            ' ["127.0.0.2:25", "127.0.0.2:25"]: has 127.0.0.2:25 twice:'
            " take one of them out",
        ),
        (
            '[status]\naddress = "127.0.0.1:25"\n',
            'error: config.toml:9: status.address = "127.0.0.1:25": is where mail is'
            " listened for: use another port",
        ),
        (
            '[listen]\nhostname = "mx"\n',
            'warning: config.toml:9: listen.hostname = "mx": we are called "mx", which'
            ' is not a full domain name: set it, like "mx.example.org"',
        ),
    ],
)
def test_addresses(more: str, told: str, tmp_path: Path) -> None:
    lay_out(tmp_path)
    _, output = run(config(tmp_path, more))
    assert grave(output, tmp_path) == [told]


def test_a_socket_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTOP_BACKEND__ADDRESS", f"unix:{tmp_path}/smtpd")
    status, output = run(lay_out(tmp_path))
    assert status == 0
    (told,) = grave(output, tmp_path)
    assert told.startswith("warning: environment: BACKSTOP_BACKEND__ADDRESS = ")


def test_a_command_and_rules_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lay_out(tmp_path)
    path.write_text(path.read_text().replace("address", "command"))
    monkeypatch.setenv("BACKSTOP_BACKEND__COMMAND", "/no/such/program x")
    monkeypatch.setenv("BACKSTOP_LISTEN__TCPRULES", "/etc/tcp.smtp.cdb")
    status, output = run(path)
    assert status == 1
    command, rules = grave(output, tmp_path)
    assert command.startswith("error: environment: BACKSTOP_BACKEND__COMMAND = ")
    assert command.endswith('name "/no/such/program" by its whole path')
    assert "/etc/tcp.smtp.cdb: No such file" in rules


def test_no_qmail_there(tmp_path: Path) -> None:
    path = config(tmp_path)
    status, output = run(path)
    assert status == 1
    assert "qmail.root = " in output
    (tmp_path / "host").mkdir()
    status, output = run(path)
    assert status == 1
    assert 'qmail.home = "/var/qmail": ' in output


@pytest.mark.fault("N17")
@pytest.mark.parametrize(
    ("backend", "workers", "told"),
    [
        ("", 8, ""),
        ("pool = 30", 8, ""),
        ("pool = 31", 8, "31 connections may be idle of the 40 that tcpserver takes"),
        ("", 31, "31 connections may be idle of the 40 that tcpserver takes"),
        ("pool = 0", 64, ""),
        ("pool = 8\nconnections = 11", 1, ""),
        ("pool = 9\nconnections = 11", 1, "of the 11 that backend.connections allows"),
        ("pool = 60\nconnections = 100", 8, ""),
        ("pool = 60\nsend_proxy = 'v1'", 8, ""),
    ],
)
def test_idle_connections_that_leave_too_few(
    backend: str, workers: int, told: str, tmp_path: Path
) -> None:
    path = lay_out(tmp_path)
    usual = path.read_text().replace("[[rules]]", f"{backend}\n[[rules]]")
    path.write_text(f"{usual}[listen]\nworkers = {workers}\n")
    found = grave(run(path)[1], tmp_path)
    pool = [line for line in found if "may be idle" in line]
    assert len(pool) == bool(told), found
    assert all(told in line for line in pool)
