"""What ``init`` writes and ``check`` passes opens no relay, and refuses no user."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from proxy.check.command import check
from proxy.cli import app
from proxy.config import Config, load
from proxy.look.home import given_delivery, running_delivery
from proxy.look.host import Host, _running
from proxy.look.write import Troubles, configuration
from proxy.relaying import Relaying
from tests.support.cdbmake import make_cdb
from tests.support.old_hosts import finish, write

RELAY, DENY = b"+RELAYCLIENT=\0", b"D\0"
RC = "#!/bin/sh\nexec env - PATH=/var/qmail/bin:$PATH qmail-start ./Maildir/\n"
STRANGER = "8.8.4.4"


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BACKSTOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BACKSTOP_PROCESS__ALLOW_ROOT", "true")


def laid(
    root: Path,
    runs: dict[str, str],
    rules: dict[str, dict[bytes, bytes]],
    start: str = RC,
    at: str = "var/qmail/rc",
) -> Path:
    """A host with run scripts and files of tcprules by their names."""
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    scripts = {f"service/{name}/run": "#!/bin/sh\n" + run for name, run in runs.items()}
    control = {
        "var/qmail/control/me": "mx.example.test\n",
        "var/qmail/control/locals": "example.test\n",
        "var/qmail/control/rcpthosts": "example.test\n",
    }
    write(root, {at: start, **control, **scripts}, {"joe": "/home/joe"})
    (root / "home/joe").mkdir(parents=True)
    for name, records in rules.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(make_cdb(list(records.items())))
    return finish(root)


def listener(address: str, rules: str) -> str:
    option = f"-x {rules} " if rules else ""
    return (
        f"exec tcpserver -v -R -H {option}{address} smtp /var/qmail/bin/qmail-smtpd\n"
    )


def written(root: Path) -> str:
    result = CliRunner().invoke(app, ["init", "--root", str(root)])
    assert result.exit_code == 0, result.output
    return result.stdout


def plain(text: str) -> str:
    """Without the marks of comments, on one line."""
    return " ".join(text.replace("#", "").split())


def loaded(text: str, directory: Path) -> Config:
    path = directory / "config.toml"
    path.write_text(text)
    return load(path, os.environ)


def errors(config: Config) -> list[str]:
    return [str(f) for f in check(config, os.environ) if f.level == "error"]


INTERNAL = {"etc/int.cdb": {b"": RELAY}}


@pytest.mark.fault("H1")
@pytest.mark.parametrize("public", ["/etc/pub.cdb", ""])
def test_rules_of_one_listener_are_not_used_for_another(
    tmp_path: Path, public: str
) -> None:
    runs = {
        "int": listener("192.168.0.1", "/etc/int.cdb"),
        "pub": listener("203.0.113.1", public),
    }
    rules = INTERNAL | {"etc/pub.cdb": {b"198.51.100.66": DENY}}
    text = written(laid(tmp_path / "host", runs, rules))
    assert "tcprules" not in tomllib.loads(text)["listen"]
    assert '# tcprules = "/etc/int.cdb"' in text
    assert "do not have the same rules" in text
    assert Relaying(loaded(text, tmp_path)).standing(STRANGER).relayclient is None


@pytest.mark.fault("H1")
def test_the_same_rules_of_all_listeners_are_used(tmp_path: Path) -> None:
    one = {"etc/one.cdb": {b"127.": RELAY}}
    runs = {n: listener(n, "/etc/one.cdb") for n in ("192.168.0.1", "203.0.113.1")}
    text = written(laid(tmp_path / "host", runs, one))
    assert tomllib.loads(text)["listen"]["tcprules"] == "/etc/one.cdb"


OPEN: dict[str, dict[bytes, bytes]] = {
    "everybody": {b"127.0.0.1": RELAY, b"": RELAY},
    "parts": {b"%d." % n: RELAY for n in range(1, 224)},
    "networks": {b"_0" + b"0": RELAY, b"_0b": RELAY, b"_a0": RELAY, b"_ab": RELAY},
    "ipv6": {b"^00`": RELAY},
}


@pytest.mark.fault("H2")
@pytest.mark.parametrize("records", OPEN.values(), ids=OPEN)
def test_rules_that_let_everybody_relay(
    records: dict[bytes, bytes], tmp_path: Path
) -> None:
    runs = {"smtpd": listener("0", "/etc/tcp.smtp.cdb")}
    root = laid(tmp_path / "host", runs, {"etc/tcp.smtp.cdb": records})
    text = written(root)
    assert "tcprules" not in tomllib.loads(text)["listen"]
    assert "an open relay" in text
    assert '# tcprules = "/etc/tcp.smtp.cdb"' in text
    active = text.replace('# tcprules = "/etc', 'tcprules = "/etc')
    (found,) = errors(loaded(active, tmp_path))
    assert "an open relay" in found
    assert "relay.everybody = true" in found
    meant = active.replace("[relay]", "[relay]\neverybody = true")
    assert errors(loaded(meant, tmp_path)) == []


@pytest.mark.fault("H2")
def test_networks_that_are_the_whole_internet_together(tmp_path: Path) -> None:
    root = laid(tmp_path / "host", {}, {})
    halves = '[relay]\ntrusted = ["0.0.0.0/1", "128.0.0.0/1"]'
    text = written(root).replace("[relay]", halves)
    (found,) = errors(loaded(text, tmp_path))
    assert "relay.trusted" in found
    assert "an open relay" in found


SCRIPTS = {
    "or exit": "test -x /usr/sbin/qmail-start || exit 0\n",
    "bracket": "[ -f /var/qmail/bin/qmail-start ] || exit 0\n",
    "and": "[ -x /var/qmail/bin/qmail-start ] && start\n",
    "bare": "exec qmail-start Maildir/ splogger qmail\n",
    "variable": 'exec qmail-start "$ALIASEMPTY" splogger qmail\n',
    "sure": "exec qmail-start ./Maildir/ splogger qmail\n",
    "program": "exec qmail-start '|preline -f x -d \"$USER\"' splogger qmail\n",
}


@pytest.mark.fault("H4", "H9")
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_what_a_script_says_is_a_proposal(script: str, tmp_path: Path) -> None:
    text = written(laid(tmp_path / "host", {}, {}, "#!/bin/sh\n" + script))
    assert "default_delivery" not in tomllib.loads(text)["qmail"]
    assert "/var/qmail/rc:2" in text
    for wrong in ('"||"', '"]"', '"&&"', '"Maildir/"'):
        assert f"default_delivery = {wrong}" not in text


@pytest.mark.fault("H9")
def test_a_program_keeps_its_variables(tmp_path: Path) -> None:
    script = "#!/bin/sh\n" + SCRIPTS["program"]
    text = written(laid(tmp_path / "host", {}, {}, script))
    (line,) = [x for x in text.splitlines() if x.startswith("# default_delivery")]
    proposed = tomllib.loads(line.removeprefix("# "))["default_delivery"]
    assert proposed == '|preline -f x -d "$USER"'


@pytest.mark.fault("H4", "H11")
@pytest.mark.parametrize(
    ("told", "good"),
    [
        ("./Maildir/", True),
        ("./Mailbox", True),
        ("/var/mail/all", True),
        ("|dot-forward .forward\n./Mailbox", True),
        ('|preline procmail -d "$USER"', True),
        ("#", True),
        ("&bob@example.test", True),
        ("bob@example.test", True),
        ("||", False),
        ("|", False),
        ("]", False),
        ("&&\n./Maildir/", True),  # odd, but a line of a dot-qmail file
        ("Maildir/", False),
        ("Mailbox", False),
        ("$ALIASEMPTY", False),
        ("./Maildir/\nMailbox", False),
    ],
)
def test_a_default_delivery_that_would_bounce_is_an_error(
    told: str, good: bool, tmp_path: Path
) -> None:
    text = written(laid(tmp_path / "host", {}, {}))
    home = 'home = "/var/qmail"\n'
    value = told.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    config = loaded(
        text.replace(home, f'{home}default_delivery = "{value}"\n'), tmp_path
    )
    assert config.qmail.default_delivery == told
    found = [error for error in errors(config) if "default_delivery" in error]
    assert bool(found) is not good


@pytest.mark.fault("H11")
def test_what_the_running_qmail_lspawn_was_given_is_believed(tmp_path: Path) -> None:
    (tmp_path / "proc/9").mkdir(parents=True)
    (tmp_path / "proc/9/cmdline").write_text("qmail-lspawn\0./Maildir/\0")
    seen = Host("/")
    _running(seen, str(tmp_path / "proc"))
    text = configuration(seen, "1", Troubles("", "", []))
    assert tomllib.loads(text)["qmail"]["default_delivery"] == "./Maildir/"
    found = running_delivery(str(tmp_path / "proc"))
    assert found is not None
    assert found.text == "./Maildir/"


@pytest.mark.fault("H6")
def test_relative_rules_are_beside_the_run_script(tmp_path: Path) -> None:
    runs = {"smtpd": listener("0", "./tcp.cdb")}
    rules = {"service/smtpd/tcp.cdb": {b"10.": RELAY, b"192.0.2.66": DENY}}
    text = written(laid(tmp_path / "host", runs, rules))
    assert tomllib.loads(text)["listen"]["tcprules"] == "/service/smtpd/tcp.cdb"


@pytest.mark.fault("H6")
@pytest.mark.parametrize("named", ["$RULES", "/etc/gone.cdb", "gone.cdb"])
def test_rules_that_are_not_found_are_told(named: str, tmp_path: Path) -> None:
    text = written(laid(tmp_path / "host", {"smtpd": listener("0", named)}, {}))
    assert "tcprules" not in tomllib.loads(text)["listen"]
    assert "that file was not found" in text


@pytest.mark.fault("H5")
@pytest.mark.parametrize(
    ("records", "trusting"),
    [({b"127.": RELAY, b"10.": RELAY}, True), ({b"10.": DENY, b"": b""}, False)],
)
def test_clients_that_may_relay_by_tcprules_count(
    records: dict[bytes, bytes], trusting: bool, tmp_path: Path
) -> None:
    runs = {"smtpd": listener("0", "/etc/tcp.smtp.cdb")}
    root = laid(tmp_path / "host", runs, {"etc/tcp.smtp.cdb": records})
    assert Relaying(loaded(written(root), tmp_path)).needed() is trusting


KEYS = st.sampled_from(
    [b"", b"127.", b"10.", b"8.", b"8.8.4.", b"_0000e0g0", b"8.8.4.4"]
)
RULES = st.dictionaries(KEYS, st.sampled_from([RELAY, DENY, b""]), max_size=4)
NAMES = st.sampled_from(
    ["", "/etc/a.cdb", "/etc/b.cdb", "/etc/gone.cdb", "$X", "b.cdb"]
)
BEFORE = st.sampled_from(
    ["", "", "", "RELAYCLIENT=; export RELAYCLIENT\n", "relay-ctrl-check "]
)
CLIENTS = (STRANGER, "10.1.2.3", "127.0.0.1", "8.1.1.1", "203.0.113.7")


@pytest.mark.fault("H1", "H2", "H4", "H6", "H8")
@settings(max_examples=80, deadline=None)
@given(
    a=RULES,
    b=RULES,
    listeners=st.lists(st.tuples(NAMES, BEFORE), max_size=3),
    script=st.sampled_from(list(SCRIPTS.values())),
)
def test_nobody_gets_more_or_less_than_the_host_gave_him(
    tmp_path_factory: pytest.TempPathFactory,
    a: dict[bytes, bytes],
    b: dict[bytes, bytes],
    listeners: list[tuple[str, str]],
    script: str,
) -> None:
    directory = tmp_path_factory.mktemp("generated")
    directory.chmod(0o755)
    files = {"/etc/a.cdb": a, "/etc/b.cdb": b}
    runs = {
        f"s{n}": _run(f"192.0.2.{n}", name, before)
        for n, (name, before) in enumerate(listeners)
    }
    rules = {path[1:]: records for path, records in files.items()}
    root = laid(directory / "host", runs, rules, "#!/bin/sh\n" + script)
    text = written(root)
    config = loaded(text.replace('mode = "observe"', 'mode = "enforce"', 1), directory)
    assert errors(config) == []
    warned = "ATTENTION" in text or "an open relay" in text
    relaying = Relaying(config)
    for client in CLIENTS:
        ours = relaying.standing(client).relayclient is not None
        theirs = [
            (name in files and _lets(files[name], client)) or bool(before)
            for name, before in listeners
        ]
        if ours:
            assert theirs
            assert all(theirs)
        elif any(theirs):
            assert warned or _denied(config, client)
    path = str(directory / "config.toml")
    arguments = ["explain", "-c", path, "joe@example.test"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def _run(address: str, name: str, before: str) -> str:
    if before.endswith("\n"):
        return before + listener(address, name)
    return listener(address, name).replace(
        "/var/qmail/bin/", before + "/var/qmail/bin/"
    )


def _denied(config: Config, client: str) -> bool:
    return "denied" in " ".join(s.text for s in Relaying(config).standing(client).steps)


def _lets(records: dict[bytes, bytes], client: str) -> bool:
    """Of the keys above; the first that is there decides."""
    parts = client.encode().split(b".")
    dotted = [b".".join(parts[:n]) + b"." for n in (3, 2, 1)]
    ten = [b"_0000e0g0"] if client.startswith("10.") else []
    for key in (client.encode(), *dotted, *ten, b""):
        if key in records:
            return records[key] == RELAY
    return False


@pytest.mark.fault("H7")
@pytest.mark.parametrize("first", ['""', '"/usr/bin/spamdyke -f /etc/spamdyke.conf"'])
def test_variables_without_quotes_are_split(first: str, tmp_path: Path) -> None:
    script = (
        f"SPAMDYKE={first}\n"
        "exec tcpserver -x /etc/a.cdb 0 25 $SPAMDYKE /var/qmail/bin/qmail-smtpd\n"
    )
    text = written(laid(tmp_path / "host", {"smtpd": script}, {}))
    (line,) = [x for x in text.splitlines() if x.startswith("# command =")]
    command = tomllib.loads(line.removeprefix("# "))["command"]
    assert command == [*first.strip('"').split(), "/var/qmail/bin/qmail-smtpd"]
    assert ("spamdyke judges" in text) is (first != '""')


@pytest.mark.fault("H7")
def test_a_variable_that_may_be_set_counts(tmp_path: Path) -> None:
    script = (
        'S=""\n[ -x /usr/bin/spamdyke ] && S="/usr/bin/spamdyke -f /etc/s.conf"\n'
        "exec tcpserver 0 25 $S /var/qmail/bin/qmail-smtpd\n"
    )
    assert "spamdyke judges" in written(laid(tmp_path / "h", {"smtpd": script}, {}))


@pytest.mark.fault("H10")
def test_who_may_relay_is_read_as_tcprules_reads_it(tmp_path: Path) -> None:
    runs = {"smtpd": listener("0", "/etc/tcp.smtp.cdb")}
    root = laid(tmp_path / "host", runs, {"etc/tcp.smtp.cdb": {b"10.": RELAY}})
    (root / "etc/tcp.smtp").write_text(
        '::1:allow,RELAYCLIENT=""\n2001:db8:1::/48:allow,RELAYCLIENT=""\n'
        '10.:allow,RELAYCLIENT=""\n192.0.2.7:allow,RELAYCLIENT=""\n'
        ':allow,RELAYCLIENT_NODKIMVERIFY="1"\n'
    )
    text = written(root)
    assert "everybody may relay" not in text
    assert "::1 may relay" in text
    (line,) = [x for x in text.splitlines() if x.startswith("# trusted")]
    assert tomllib.loads(line.removeprefix("# "))["trusted"] == [
        "2001:db8:1::/48",
        "10.0.0.0/8",
        "192.0.2.7/32",
    ]


@pytest.mark.fault("H10")
def test_a_script_with_control_bytes(tmp_path: Path) -> None:
    script = "echo \x017\x01 `hostname` \x0199999999999\x01\n" + listener("0", "")
    assert "qmail-smtpd" in written(laid(tmp_path / "host", {"smtpd": script}, {}))


@pytest.mark.fault("H8")
@pytest.mark.parametrize(
    "name", ["relay-ctrl", "pbscheck", "hosts.allow", "greetdelay"]
)
def test_docs_name_programs_that_let_clients_relay(name: str) -> None:
    docs = Path(__file__).parents[2] / "docs/relaying.md"
    assert name in docs.read_text()


@pytest.mark.fault("H6", "H10")
@pytest.mark.parametrize(
    "script",
    [
        'OPTS="-R -H -x /etc/a.cdb"\nexec tcpserver $OPTS 0 smtp qmail-smtpd\n',
        'CMD="tcpserver -x /etc/a.cdb 0 smtp qmail-smtpd"\nexec $CMD\n',
        "exec sslserver -seVn -x /etc/a.cdb :0 smtp qmail-smtpd\n",
        "exec sslserver -n -x /etc/a.cdb 0 smtp qmail-smtpd\n",
        "exec tcpserver -I eth0 -x /etc/a.cdb 0 smtp qmail-smtpd\n",
    ],
)
def test_rules_among_other_options(script: str, tmp_path: Path) -> None:
    rules = {"etc/a.cdb": {b"10.": RELAY}}
    text = written(laid(tmp_path / "host", {"smtpd": script}, rules))
    assert tomllib.loads(text)["listen"]["tcprules"] == "/etc/a.cdb"


UNHEARD = {
    "environment": "RELAYCLIENT=\nexport RELAYCLIENT\n" + listener("0", ""),
    "one command": "exec env RELAYCLIENT= tcpserver 0 25 qmail-smtpd\n",
    "relay-ctrl": "exec tcpserver 0 25 relay-ctrl-chdir relay-ctrl-check qmail-smtpd\n",
    "pbscheck": "exec tcpserver 0 smtp /usr/local/bin/pbscheck qmail-smtpd\n",
    "tcpsvd": "exec tcpsvd -x /etc/a.cdb 0 25 /var/qmail/bin/qmail-smtpd\n",
    "envdir": "exec envdir ./env tcpserver 0 25 qmail-smtpd\n",
}


@pytest.mark.fault("H6", "H8")
@pytest.mark.parametrize("script", UNHEARD.values(), ids=UNHEARD)
def test_what_lets_clients_relay_besides_is_told(script: str, tmp_path: Path) -> None:
    rules = {"etc/a.cdb": {b"10.": RELAY}}
    root = laid(tmp_path / "host", {"smtpd": script}, rules)
    (root / "service/smtpd/env").mkdir()
    (root / "service/smtpd/env/RELAYCLIENT").write_text("\n")
    text = written(root)
    assert "ATTENTION" in text
    assert "docs/relaying.md has the ways out" in plain(text)
    assert "tcprules" not in tomllib.loads(text)["listen"]


@pytest.mark.fault("H8")
def test_wrappers_and_xinetd_are_told(tmp_path: Path) -> None:
    root = laid(tmp_path / "host", {}, {})
    write(
        root,
        {
            "etc/xinetd.d/smtp": "service smtp\n{\nserver = /var/qmail/bin/tcp-env\n"
            "server_args = /var/qmail/bin/qmail-smtpd\nonly_from = 192.0.2.0/24\n}\n",
            "etc/hosts.allow": "tcp-env: 10.1. : setenv = RELAYCLIENT\n",
        },
    )
    text = plain(written(root))
    assert "/etc/xinetd.d/smtp:5: only_from" in text
    assert "/etc/hosts.allow:1: tcp-env: 10.1." in text


@pytest.mark.fault("H10")
@pytest.mark.parametrize(
    ("at", "script"),
    [
        ("etc/rc.local", "csh -cf 'qmail-start ./Maildir/ splogger qmail &'\n"),
        ("var/qmail/rc", 'sh -c "exec qmail-start ./Maildir/ logger &"\n'),
        ("etc/rc.d/qmailsend", "qmail-start ./Maildir/ splogger &\n"),
        (
            "etc/systemd/system/qmail.service",
            "[Service]\nExecStart=/var/qmail/bin/qmail-start ./Maildir/\n",
        ),
        (
            "etc/init.d/qmail",
            'A=./Maildir/\nsh -c "start-stop-daemon --startas'
            ' /usr/sbin/qmail-start -- \\"$A\\" splogger &"\n',
        ),
    ],
    ids=["csh", "sh", "rc.d", "systemd", "debian"],
)
def test_where_qmail_start_is_found(at: str, script: str, tmp_path: Path) -> None:
    text = written(laid(tmp_path / "host", {}, {}, script, at))
    assert f"found /{at}:" in text
    assert '# default_delivery = "./Maildir/"' in text


@pytest.mark.fault("H10")
def test_each_domain_is_shown_with_its_own_file(tmp_path: Path) -> None:
    root = laid(tmp_path / "host", {}, {})
    more = {f"home/joe/.qmail-{n}-default": "./Maildir/\n" for n in ("one", "two")}
    domains = {"var/qmail/control/virtualdomains": "1.test:joe-one\n2.test:joe-two\n"}
    write(root, domains | more, {"joe": "/home/joe"})
    text = plain(written(finish(root)))
    assert (
        "/home/joe/.qmail-one-default:1: domains: catch-all into a mailbox (1.test)"
        in text
    )
    assert (
        "/home/joe/.qmail-two-default:1: domains: catch-all into a mailbox (2.test)"
        in text
    )


def proposed(tmp_path: Path, units: dict[str, str], rules: str = "") -> str:
    """What init writes for systemd units with these lines."""
    root = laid(tmp_path / "host", {}, {"etc/a.cdb": {b"10.": RELAY}})
    for name, more in units.items():
        start = "/usr/bin/tcpserver -x /etc/a.cdb 0 25 /var/qmail/bin/qmail-smtpd"
        text = f"[Service]\n{more}\nExecStart={start}\n"
        write(root, {f"etc/systemd/system/{name}.service": text, "etc/a": rules})
    names = make_cdb([(b"joe@example.test", b"")])
    (root / "etc/valid.cdb").write_bytes(names)
    (root / "home/joe").mkdir(exist_ok=True)
    return written(finish(root))


VALID = "Environment=VALIDRCPTTO_CDB=/etc/valid.cdb"


@pytest.mark.fault("H1")
@pytest.mark.parametrize(
    ("units", "rules", "sure"),
    [
        ({"a": VALID}, "", True),
        ({"a": VALID, "b": VALID}, "", True),
        ({"a": VALID, "b": ""}, "", False),
        ({"a": ""}, ':allow,VALIDRCPTTO_CDB="/etc/valid.cdb"\n', True),
        (
            {"a": ""},
            '10.:allow,RELAYCLIENT=""\n:allow,VALIDRCPTTO_CDB="/etc/valid.cdb"\n',
            True,
        ),
        ({"a": ""}, '11.:allow\n:allow,VALIDRCPTTO_CDB="/etc/valid.cdb"\n', False),
        ({"a": ""}, '11.:allow,VALIDRCPTTO_CDB="/etc/valid.cdb"\n', False),
        ({"a": VALID}, ':allow,VALIDRCPTTO_CDB="/etc/other.cdb"\n', False),
    ],
)
def test_a_rule_holds_only_if_it_holds_for_every_client(
    units: dict[str, str], rules: str, sure: bool, tmp_path: Path
) -> None:
    read = tomllib.loads(proposed(tmp_path, units, rules))
    assert read["listen"]["tcprules"] == "/etc/a.cdb"
    kinds = [rule["type"] for rule in read["rules"]]
    assert kinds == (["cdb", "qmail"] if sure else ["qmail"])


@pytest.mark.fault("H4")
def test_a_rule_that_a_shell_script_names_is_a_proposal(tmp_path: Path) -> None:
    script = "export VALIDRCPTTO_CDB=/etc/valid.cdb\n" + listener("0", "")
    root = laid(tmp_path / "host", {"smtpd": script}, {"etc/valid.cdb": {b"a@b": b""}})
    text = written(root)
    assert [rule["type"] for rule in tomllib.loads(text)["rules"]] == ["qmail"]
    assert '# file = "/etc/valid.cdb"' in text


@pytest.mark.fault("H6", "H8")
def test_rules_by_name_match_nobody_and_are_told(tmp_path: Path) -> None:
    runs = {"smtpd": listener("0", "/etc/a.cdb")}
    records = {b"=.friend.test": RELAY, b"joe@10.1.1.1": RELAY, b"10.": b""}
    root = laid(tmp_path / "host", runs, {"etc/a.cdb": records})
    (root / "etc/a").write_text('=.friend.test:allow,RELAYCLIENT=""\n10.:allow\n')
    text = written(root)
    assert "ATTENTION: found /etc/a:1: =.friend.test is by the client's" in plain(text)
    found = [str(f) for f in check(loaded(text, tmp_path), os.environ)]
    (told,) = [x for x in found if "match nobody" in x]
    assert "=.friend.test, joe@10.1.1.1" in told


@pytest.mark.fault("H11")
@pytest.mark.parametrize(
    ("given", "level"), [("./Mailbox", ""), ("./Maildir/", "error"), (None, "note")]
)
def test_check_compares_with_the_running_qmail_lspawn(
    given: str | None, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this machine only, whose root is /."""
    home = laid(tmp_path / "host", {}, {}) / "var/qmail"
    words = ["qmail-lspawn", given] if given else ["qmail-lspawn"]
    running = given_delivery(words, "/proc/9/cmdline")
    monkeypatch.setattr("proxy.check.command.running_delivery", lambda: running)
    text = f'[qmail]\nhome = "{home}"\ndefault_delivery = "./Mailbox"\n'
    found = check(loaded(text, tmp_path), os.environ)
    told = [f.level for f in found if "default_delivery" in str(f)]
    assert told == ([level] if level else [])
