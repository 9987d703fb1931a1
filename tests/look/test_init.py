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
from tests.support import old_hosts
from tests.support.rights import let_all_enter

GOLDEN = Path(__file__).parent.parent / "data/init"

HOSTS: dict[str, Callable[[Path], Path]] = {
    "life-with-qmail": old_hosts.life_with_qmail,
    "toaster": old_hosts.toaster,
    "panel": old_hosts.panel,
    "broken": old_hosts.broken,
}
GOOD = [name for name in HOSTS if name != "broken"]


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


@pytest.mark.parametrize("name", GOOD)
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
        others = [
            other
            for at, other in enumerate(lines)
            if not (at >= begin and other.startswith(f"{key} = "))
        ]
        others[others.index(line)] = line.removeprefix("# ")
        if key == "command":
            others = [other for other in others if not other.startswith("address = ")]
        path = tmp_path / "config.toml"
        path.write_text("\n".join(others))
        load(path, {})
        tried += 1
    assert tried >= 5


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
