"""``backstop init``: what it finds on made-up hosts, and the configuration for them.

The files in tests/data/init are whole outputs; after a wanted change, look at
``git diff`` behind ``python -m tests.look.test_init``.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy import __version__
from proxy.check.process import in_a_child
from proxy.cli import app
from proxy.config import load
from proxy.config.process import Process
from proxy.process import privileges
from tests.support import old_hosts, patched_hosts
from tests.support.certificates import NAME, issued
from tests.support.certificates import write as write_pair
from tests.support.rights import let_all_enter

GOLDEN = Path(__file__).parent.parent / "data/init"

HOSTS: dict[str, Callable[[Path], Path]] = {
    "life-with-qmail": old_hosts.life_with_qmail,
    "toaster": old_hosts.toaster,
    "panel": old_hosts.panel,
    "patched": patched_hosts.patched,
    "envdir": patched_hosts.envdir,
    "s-qmail": patched_hosts.s_qmail,
    "qmail-ldap": patched_hosts.qmail_ldap,
    "broken": old_hosts.broken,
}
GOOD = [name for name in HOSTS if name != "broken"]
CHECKED = [name for name in GOOD if name != "qmail-ldap"]  # which wants its server


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BACKSTOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BACKSTOP_PROCESS__ALLOW_ROOT", "true")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result
    return result.exit_code, result.stdout, result.stderr


def laid(name: str, directory: Path) -> Path:
    """The host in a directory of its own, which everybody may enter."""
    root = directory / "host"
    root.mkdir(mode=0o755)
    if name == "qmail-ldap":
        pytest.importorskip("ldap")
    return HOSTS[name](root)


def outputs(name: str, directory: Path) -> tuple[str, str]:
    """The configuration and the list, the same wherever the host was laid out."""
    root = laid(name, directory)
    status, text, found = run("init", "--root", str(root))
    assert status == 0
    place, owner = str(root), str(old_hosts.OWNER)
    joined = text.replace("\n# " + place, " " + place)
    joined = joined.replace(f"init {__version__} ", "init VERSION ")
    return joined.replace(place, "/HOST"), found.replace(owner, "OWNER")


@pytest.mark.parametrize("name", HOSTS)
def test_the_configuration_is_as_expected(name: str, tmp_path: Path) -> None:
    text, found = outputs(name, tmp_path)
    text = text.replace(str(old_hosts.OWNER), "OWNER")
    assert text == (GOLDEN / f"{name}.toml").read_text()
    assert found == (GOLDEN / f"{name}.found").read_text()


@pytest.mark.parametrize("name", HOSTS)
def test_the_configuration_can_be_read_and_observes(name: str, tmp_path: Path) -> None:
    root = laid(name, tmp_path)
    path = tmp_path / "config.toml"
    assert run("init", "--root", str(root), "-o", str(path))[0] == 0
    config = load(path, {})
    assert config.mode == "observe"
    assert config.qmail.root == str(root)


@pytest.mark.parametrize("name", CHECKED)
def test_check_accepts_it(name: str, tmp_path: Path) -> None:
    root = laid(name, tmp_path)
    path = tmp_path / "config.toml"
    run("init", "--root", str(root), "-o", str(path))
    status, output, _ = run("check", "-c", str(path))
    assert (status, "warning" in output) == (0, False), output


@pytest.mark.parametrize("name", GOOD)
def test_every_commented_key_is_one(name: str, tmp_path: Path) -> None:
    """Whoever takes a "# " away has a configuration still, one at a time."""
    root = laid(name, tmp_path)
    _, text, _ = run("init", "--root", str(root))
    lines = text.splitlines()
    tried = 0
    for number, line in enumerate(lines):
        key, equals, _ = line.removeprefix("# ").partition(" = ")
        if not (line.startswith("# ") and equals and key.isidentifier()):
            continue
        begin = max(i for i in range(number + 1) if lines[i] == "" or i == 0)
        end = lines.index("", number) if "" in lines[number:] else len(lines)
        others = [
            other
            for at, other in enumerate(lines)
            if at < begin or not other.startswith(f"{key} = ")
        ]
        if lines[begin + 1] == "# [[rules]]":  # such a table is one thing
            table = [each.removeprefix("# ") for each in lines[begin:end] if _key(each)]
            others = [*lines[:begin], "", "[[rules]]", *table, *lines[end:]]
        else:
            others[others.index(line)] = line.removeprefix("# ")
        if key == "command":
            others = [other for other in others if not other.startswith("address = ")]
        path = tmp_path / "config.toml"
        path.write_text("\n".join(others))
        load(path, {})
        tried += 1
    assert tried >= 5


def test_the_certificate_that_sslserver_shows(tmp_path: Path) -> None:
    root = laid("s-qmail", tmp_path)
    (root / "etc/ssl").mkdir()
    write_pair(root / "etc/ssl", "mx", issued(NAME))
    path = tmp_path / "config.toml"
    assert run("init", "--root", str(root), "-o", str(path))[0] == 0
    tls = load(path, {}).tls
    assert tls.certificates == (f"{root}/etc/ssl/mx.pem",)
    assert tls.keys == (f"{root}/etc/ssl/mx.key",)


def test_names_that_toml_does_not_have(tmp_path: Path) -> None:
    """They are in comments, and the rest can be read."""
    root = laid("patched", tmp_path)
    cdb, odd = root / "var/qmail/control/validrcptto.cdb", os.fsencode(root) + b"/\xff"
    cdb.rename(os.fsdecode(odd))
    script = root / "service/smtpd/run"
    named = b"/var/qmail/control/validrcptto.cdb"
    script.write_bytes(script.read_bytes().replace(named, b"/\xff"))
    _, text, _ = run("init", "--root", str(root))
    kinds = [rule["type"] for rule in tomllib.loads(text)["rules"]]
    assert kinds == ["list", "qmail"]
    assert '# format = "validrcptto"' in text


def test_an_empty_log_is_nobodys(tmp_path: Path) -> None:
    root = laid("patched", tmp_path)
    (root / "var/log/qmail/send/current").write_text("tcpserver: status: 0/40\n")
    _, text, _ = run("init", "--root", str(root))
    assert "[leakwatch]" not in text


def _key(line: str) -> bool:
    key, equals, _ = line.removeprefix("# ").partition(" = ")
    return bool(equals) and key.isidentifier()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    root = laid("panel", tmp_path)
    path = tmp_path / "config.toml"
    path.write_text("precious\n")
    status, _, error = run("init", "--root", str(root), "--output", str(path))
    assert status == 2
    assert error == (
        f"{path}: is there already, and nothing is overwritten (name another file with"
        " --output, or - for standard output)\n"
    )
    assert path.read_text() == "precious\n"


def test_nothing_is_written_to_the_host(tmp_path: Path) -> None:
    root = laid("life-with-qmail", tmp_path)

    def state() -> list[tuple[str, int, int]]:
        paths = sorted(root.rglob("*"))
        return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_size) for p in paths]

    before = state()
    run("init", "--root", str(root))
    assert state() == before


def test_json(tmp_path: Path) -> None:
    root = laid("life-with-qmail", tmp_path)
    status, output, error = run("init", "--root", str(root), "--json")
    told = json.loads(output)
    assert (status, error) == (0, "")
    assert told["qmail"] == "/var/qmail"
    assert told["unseen"] == []
    assert tomllib.loads(told["configuration"])["mode"] == "observe"
    assert {
        "what": "qmail-start",
        "file": "/var/qmail/rc",
        "line": 7,
        "detail": "./Maildir/",
    } in told["found"]


def test_no_qmail(tmp_path: Path) -> None:
    status, text, error = run("init", "--root", str(tmp_path))
    assert status == 1
    assert "no qmail was found" in error
    assert tomllib.loads(text)["qmail"] == {"root": str(tmp_path)}


def test_no_such_directory(tmp_path: Path) -> None:
    status, _, error = run("init", "--root", str(tmp_path / "nowhere"))
    assert (status, "no such directory" in error) == (2, True)


def test_a_home_elsewhere_is_found_by_its_user(tmp_path: Path) -> None:
    root = laid("life-with-qmail", tmp_path)
    (root / "opt").mkdir()
    (root / "var/qmail").rename(root / "opt/qmail")
    passwd = root / "etc/passwd"
    passwd.write_text(passwd.read_text().replace("/var/qmail", "/opt/qmail"))
    _, text, _ = run("init", "--root", str(root))
    assert 'home = "/opt/qmail"' in text


def test_what_cannot_be_seen_is_told(tmp_path: Path) -> None:
    root = laid("life-with-qmail", tmp_path)
    (root / "var/qmail/supervise/qmail-smtpd/run").chmod(0)
    (root / "var/qmail/alias").chmod(0)
    if os.getuid():
        status, text, error = run("init", "--root", str(root))
    else:
        let_all_enter(tmp_path)

        def as_nobody() -> tuple[int, str, str]:
            nobody = Process(user="65534", group="65534", keep_read_capability=False)
            privileges.settle(nobody)
            return run("init", "--root", str(root))

        status, text, error = in_a_child(as_nobody)
    assert status == 0
    run_script = "/var/qmail/supervise/qmail-smtpd/run"
    why = "we may not look here (Permission denied)"
    assert f"not seen: {run_script}: {why}" in error
    assert "not seen: /var/qmail/alias" in error
    assert "run it as root to see everything" in error
    assert "# Not everything could be seen" in text
    assert "# It was not found what listens on port 25." in text


def write_golden() -> None:
    """Make the files anew."""
    import tempfile

    os.environ["BACKSTOP_PROCESS__ALLOW_ROOT"] = "true"
    for name in HOSTS:
        with tempfile.TemporaryDirectory() as directory:
            text, found = outputs(name, Path(directory))
        text = text.replace(str(old_hosts.OWNER), "OWNER")
        (GOLDEN / f"{name}.toml").write_text(text)
        (GOLDEN / f"{name}.found").write_text(found)


if __name__ == "__main__":
    write_golden()
