"""What ``check`` says of the programs and sockets that rules name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import assemble
from proxy.config import Config
from proxy.config.rules import rule_module, settings_of
from proxy.qmail.host import QmailHost
from proxy.rules.source import Context
from tests.support.files import Files


def levels(kind: str, context: Context | None = None, **keys: Any) -> list[str]:
    settings = settings_of(kind).model_validate({"type": kind, **keys})
    context = context or Context("it", QmailHost(Files()))
    return [each.level for each in rule_module(kind).check(settings, context)]


@pytest.mark.parametrize("kind", ["socketmap", "tcp_table", "policy"])
def test_sockets(kind: str, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"map": "m"} if kind == "socketmap" else {}
    path = tmp_path / "socket"
    where = f"unix:{path}"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert levels(kind, address=f"127.0.0.1:{port}", **keys) == []
    assert levels(kind, address=f"127.0.0.1:{port}", **keys) == ["warning"]
    assert levels(kind, address=where, **keys) == ["warning"]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert levels(kind, address=where, **keys) == []
    path.unlink()
    path.write_text("")
    assert levels(kind, address=where, **keys) == ["error"]


@pytest.fixture
def web() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("kind", ["http", "deliverabled"])
def test_urls(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://localhost:{listening.getsockname()[1]}"
        assert levels(kind, url=url) == []
    assert levels(kind, url=url) == ["warning"]
    # Names are not looked up.
    assert levels(kind, url="http://db.example.invalid") == []


def test_credentials(tmp_path: Path, web: int) -> None:
    words = tmp_path / "token"
    words.write_text("secret")
    away, near = "http://db.example.test/x", f"http://127.0.0.1:{web}/x"
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"url": away}, []),
        ({"url": away, "token_file": str(words)}, ["warning"]),
        ({"url": away, "user": "u", "password_file": str(words)}, ["warning"]),
        ({"url": "https://db.example.test/x", "token_file": str(words)}, []),
        ({"url": near, "token_file": str(words)}, []),
        ({"url": f"http://localhost:{web}", "token_file": str(words)}, []),
        ({"url": near, "token_file": str(tmp_path / "gone")}, ["error"]),
        ({"url": near, "user": "u", "password_file": "/gone"}, ["error"]),
    ]
    for keys, expected in cases:
        assert levels("http", **keys) == expected


@pytest.mark.parametrize("kind", ["command", "rcptcheck"])
def test_programs(kind: str, tmp_path: Path) -> None:
    name = "command" if kind == "command" else "program"

    def found(path: str) -> list[str]:
        keys: dict[str, Any] = {name: [path] if kind == "command" else path}
        return levels(kind, **keys)

    assert found("/bin/true") == []
    assert found("/nonexistent/program") == ["error"]
    assert found(str(tmp_path)) == ["error"]
    (tmp_path / "plain").write_text("")
    assert found(str(tmp_path / "plain")) == ["error"]


def test_plugins(tmp_path: Path) -> None:
    assert levels("qmail-spp") == ["error"]
    files = Files()
    files.control(b"smtpplugins", b"[rcpt]\n:true\nplugins/r\n[quit]\nplugins/p\n")
    context = Context("it", QmailHost(files), os.fsencode(tmp_path))
    assert levels("qmail-spp", context) == ["error", "note"]
    plugin = tmp_path / "var/qmail/plugins/r"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("")
    plugin.chmod(0o755)
    assert levels("qmail-spp", context) == ["note"]


@pytest.mark.parametrize(
    ("section", "text", "letters"),
    [
        ("rcpt", "echo HX-A: b; echo Cx@y.test", ""),
        ("rcpt", "echo 'P250-hello'", "P"),
        ("rcpt", "echo 'P550-hello'; echo 'E550 no'", ""),
        ("mail", 'echo "C$SMTPMAILFROM"', ""),
        ("rcpt", "echo SQMAILQUEUE=/bin/scan", ""),
        ("data", "echo SQMAILQUEUE=/bin/scan", "S"),
        ("mail", "# echo Cx\necho Checked >&2", ""),
        ("helo", 'print "P250-x\\n";', "P"),
    ],
)
def test_plugins_whose_words_are_not_carried_out(
    tmp_path: Path, section: str, text: str, letters: str
) -> None:
    """``check`` names the plugin and the letter, as far as a script shows it."""
    files = Files()
    files.control(b"smtpplugins", f"[{section}]\nplugins/x\n".encode())
    context = Context("it", QmailHost(files), os.fsencode(tmp_path))
    plugin = tmp_path / "var/qmail/plugins/x"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("#!/bin/sh\n" + text)
    plugin.chmod(0o755)
    settings = settings_of("qmail-spp").model_validate({"type": "qmail-spp"})
    found = [each.what for each in rule_module("qmail-spp").check(settings, context)]
    assert len(found) == len(letters)
    for each, letter in zip(found, letters, strict=True):
        said = f"plugins/x seems to say {letter} in section {section}: "
        assert each.startswith(said)


def test_programs_may_be_set_id() -> None:
    rules = [{"type": "rcptcheck", "program": "/bin/true"}]
    assert assemble.needs(Config.model_validate({"rules": rules})).set_id
    assert not assemble.needs(Config()).set_id
