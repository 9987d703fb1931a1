"""The configuration: what is accepted, from where, and how errors are told."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re

import pytest
from typer.testing import CliRunner

from proxy.cli import app
from proxy.config import Address, Config, ConfigError, load, read_address
from proxy.config.docs import example
from proxy.config.keys import key_paths

HERE = pathlib.Path(__file__).parent
BAD = sorted(path.name for path in (HERE / "bad_configs").iterdir())
SMALLEST = '[backend]\naddress = "127.0.0.1:2525"\n[[rules]]\ntype = "qmail"\n'


def written(tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def error_of(path: pathlib.Path | None, environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_bad_configurations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """C: one line for each error; C-unknown-key names the nearest known one."""
    monkeypatch.chdir(HERE / "bad_configs" / name)
    expected = pathlib.Path("expected").read_text()
    told = error_of(pathlib.Path("config.toml"), {})
    assert told + "\n" == expected
    assert told.isprintable() or "\n" in told
    assert told.isascii()


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", [["serve"], ["check"], ["explain", "a@b"]])
def test_bad_configurations_end_every_command_with_2(
    name: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C: file, key, value, hint; the same words, whoever is asked."""
    monkeypatch.chdir(HERE / "bad_configs" / name)
    for variable in [v for v in os.environ if v.startswith("BACKSTOP_")]:
        monkeypatch.delenv(variable)
    result = CliRunner().invoke(app, [*command, "-c", "config.toml"])
    assert result.exit_code == 2
    lines = pathlib.Path("expected").read_text().splitlines()
    told = result.output.replace("error: ", "").splitlines()
    assert told[: len(lines)] == lines
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", BAD)
def test_bad_configurations_name_place_and_remedy(name: str) -> None:
    """Every line: the file with its line, what stands there, what to do."""
    lines = (HERE / "bad_configs" / name / "expected").read_text().splitlines()
    for line in lines:
        assert re.match(r"config\.toml:\d+(:\d+)?: \S", line)
        assert re.search(r": [^:]+: \S", line)


def test_every_kind_of_value_has_a_bad_configuration() -> None:
    """C: no table without a directory that shows its errors."""
    told = "".join(
        (HERE / "bad_configs" / name / "expected").read_text() for name in BAD
    )
    for section in {str(path[0]) for path in key_paths()} - {"mode"}:
        assert re.search(rf"\b{section}(?:\[\d\])?(?:\.| =|:)", told), section


def test_a_file_with_backend_and_rules_serves(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, SMALLEST)
    config = load(path, {})
    assert config.source == path
    assert config.model_dump() == Config().model_dump()
    assert config.listen.sockets == (Address("0.0.0.0", 25), Address("::", 25))
    assert config.backend[0].tcp == Address("127.0.0.1", 2525)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().mode = "observe"  # type: ignore[misc]


class TestExample:
    """C-example, C-docs: as shipped, and in step with the models."""

    def test_is_what_the_models_say(self) -> None:
        assert (HERE.parent / "config.example.toml").read_text() == example()

    def test_loads_and_is_the_defaults(self) -> None:
        config = load(HERE.parent / "config.example.toml", {})
        assert config.model_dump() == Config().model_dump()

    def test_loads_with_optional_keys_too(self, tmp_path: pathlib.Path) -> None:
        # A command is reached in no other way.
        paths = [path for path in key_paths() if path[-1] != "command"]
        keys = [f"# {path[-1]} = " for path in paths]
        # Where other rules are described, nothing stands in a table of its own.
        before, rest = example().split("# Every source has these keys", 1)
        after = rest[rest.index("\n[[rules]]\n") :]
        lines = [
            line[2:] if any(map(line.startswith, keys)) else line
            for line in (before + "\n" + after).splitlines()
        ]
        config = load(written(tmp_path, "\n".join(lines)), {})
        assert config.status.address == "127.0.0.1:8025"
        assert config.listen.hostname == "mx.example.test"
        assert config.qmail.local_ips == ("192.0.2.1", "127.0.0.1")

    def test_every_key_is_there_under_its_description(self) -> None:
        lines = example().splitlines()
        for path in key_paths():
            name = f"{path[-1]} = "
            places = [n for n, line in enumerate(lines) if line.startswith(name)]
            places += [n for n, line in enumerate(lines) if line[2:].startswith(name)]
            assert places, path
            assert all(lines[place - 1].startswith("# ") for place in places), path
        assert max(map(len, lines)) <= 78


class TestWhere:
    @pytest.fixture(autouse=True)
    def _nowhere(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        places = (tmp_path / "etc.toml", pathlib.Path("config.toml"))
        monkeypatch.setattr("proxy.config.sources.PLACES", places)

    def test_option_variable_etc_and_here(self, tmp_path: pathlib.Path) -> None:
        for name in ("option", "variable", "etc", "config"):
            (tmp_path / f"{name}.toml").write_text(SMALLEST)
        environ = {"BACKSTOP_CONFIG": "variable.toml"}
        found = [load(pathlib.Path("option.toml"), environ), load(None, environ)]
        found.append(load(None, {}))
        (tmp_path / "etc.toml").unlink()
        found.append(load(None, {}))
        names = [config.source.stem for config in found if config.source]
        assert names == ["option", "variable", "etc", "config"]

    def test_no_file_tells_the_three_lines(self) -> None:
        told = error_of(None, {})
        assert "/etc.toml, config.toml" in told
        missing = told.splitlines()[1:]
        assert len(missing) == 3
        pathlib.Path("config.toml").write_text("\n".join(missing))
        assert load(None, {}).backend[0].address == "127.0.0.1:2525"

    def test_the_environment_can_be_the_whole_configuration(self) -> None:
        config = load(None, {"BACKSTOP_BACKEND__ADDRESS": "qmail:25"})
        assert len(config.backend) == 1
        assert config.backend[0].address == "qmail:25"
        assert config.source is None

    def test_a_file_that_is_named_must_be_there(self) -> None:
        assert error_of(None, {"BACKSTOP_CONFIG": "x.toml"}).startswith(
            "x.toml: cannot be read: No such file or directory"
        )

    def test_a_directory(self, tmp_path: pathlib.Path) -> None:
        assert "Is a directory" in error_of(tmp_path, {})


class TestEnvironment:
    """C-env, C-secret-file."""

    def test_it_wins(self, tmp_path: pathlib.Path) -> None:
        path = written(tmp_path, SMALLEST + "[limits]\nconnections = 1\n")
        config = load(
            path,
            {
                "BACKSTOP_LIMITS__CONNECTIONS": "7",
                "BACKSTOP_LISTEN__ADDRESSES": "[::1]:2525, localhost:25",
                "BACKSTOP_QMAIL__LOCAL_IPS": '["192.0.2.1"]',
                "BACKSTOP_RELAY__TRUSTED": "2001:db8::/32",
                "BACKSTOP_RULES": '[{"type": "qmail"}]',
                "BACKSTOP_MESSAGE__RECEIVED": "false",
                "BACKSTOP_SHUTDOWN_GRACE": "1.5",
                "HOME": "/root",
            },
        )
        assert config.limits.connections == 7
        assert config.listen.addresses == ("[::1]:2525", "localhost:25")
        assert config.qmail.local_ips == ("192.0.2.1",)
        assert str(config.relay.trusted[0]) == "2001:db8::/32"
        assert not config.message.received
        assert config.shutdown_grace == 1.5

    def test_a_variable_sets_the_only_backend(self, tmp_path: pathlib.Path) -> None:
        path = written(tmp_path, '[[backend]]\naddress = "a:1"\npool = 3\n')
        (backend,) = load(path, {"BACKSTOP_BACKEND__ADDRESS": "b:2"}).backend
        assert (backend.address, backend.pool) == ("b:2", 3)
        told = error_of(path, {"BACKSTOP_BACKEND__ADDRESS": "b"})
        assert told.startswith('environment: BACKSTOP_BACKEND__ADDRESS = "b": has no')

    def test_a_variable_does_not_choose_a_backend(self, tmp_path: pathlib.Path) -> None:
        tables = '[[backend]]\naddress = "a:1"\n[[backend]]\naddress = "b:1"\n'
        path = written(tmp_path, tables)
        assert error_of(path, {"BACKSTOP_BACKEND__POOL": "3"}) == (
            "environment: BACKSTOP_BACKEND__POOL: the file has 2 backends:"
            " which one is meant?: set it in the file"
        )

    def test_a_value_from_a_file(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "secret").write_text("unix:/run/smtpd\n")
        path = written(tmp_path, SMALLEST)
        name = "BACKSTOP_BACKEND__ADDRESS"
        config = load(path, {f"{name}_FILE": str(tmp_path / "secret")})
        assert config.backend[0].unix_path == "/run/smtpd"
        both = {name: "a:1", f"{name}_FILE": str(tmp_path / "secret")}
        assert error_of(path, both) == (
            f"environment: {name}_FILE: {name} is set too: unset one of them"
        )

    def test_a_bad_value_from_a_file_is_not_shown(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "secret").write_text("hunter2")
        path = written(tmp_path, SMALLEST)
        told = error_of(path, {"BACKSTOP_MODE_FILE": str(tmp_path / "secret")})
        assert "hunter2" not in told
        assert told.startswith("environment: BACKSTOP_MODE_FILE: must be")

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            (
                "BACKSTOP_LIMTS__CONNECTIONS",
                "1",
                ": unknown variable: did you mean BACKSTOP_LIMITS__CONNECTIONS?",
            ),
            (
                "BACKSTOP_CONFIGS",
                "1",
                ": unknown variable: did you mean BACKSTOP_CONFIG?",
            ),
            (
                "BACKSTOP_LIMITS__CONNECTIONS",
                "-1",
                ' = "-1": must be 0 or more: unset it for 4000, the default',
            ),
            (
                "BACKSTOP_MODE_FILE",
                "/nonexistent",
                ' = "/nonexistent": cannot be read: No such file or directory:'
                " name a file that the front door's user may read",
            ),
            (
                "BACKSTOP_RULES",
                "qmail",
                """ = "qmail": is not JSON: write '[{"type": "qmail"}]'""",
            ),
        ],
    )
    def test_errors(
        self, name: str, value: str, told: str, tmp_path: pathlib.Path
    ) -> None:
        path = written(tmp_path, SMALLEST)
        assert error_of(path, {name: value}) == f"environment: {name}{told}"

    def test_what_kubernetes_sets_is_not_ours(self, tmp_path: pathlib.Path) -> None:
        environ = {
            "BACKSTOP_SERVICE_HOST": "10.0.0.1",
            "BACKSTOP_SERVICE_PORT_SMTP": "25",
            "BACKSTOP_PORT": "tcp://10.0.0.1:25",
            "BACKSTOP_PORT_25_TCP_ADDR": "10.0.0.1",
        }
        assert load(written(tmp_path, SMALLEST), environ).mode == "enforce"


class TestHostileFiles:
    @pytest.mark.parametrize(
        "text",
        [
            "a = " + "[" * 100_000,
            "a = " + "9" * 5000,
            "[listen]\nworkers = 0x" + "f" * 5000,
            "[limits]\nconnections = 99999999999999999999\n",
            "[limits]\nsession_age = inf\n",
            "[limits]\nsession_age = nan\n",
            "self = 1\n",
            "[listen]\naddresses = [[]]\n",
            "[[rules.type]]\n",
            "listen = 5\n",
            "# " + "x" * (1 << 20),
            '"\\u001b" = 1\n',
        ],
    )
    def test_one_problem_in_short_lines(
        self, text: str, tmp_path: pathlib.Path
    ) -> None:
        told = error_of(written(tmp_path, text), {})
        assert told.isprintable()
        assert len(told) < 400

    def test_a_byte_order_mark_is_no_harm(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "config.toml"
        path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.encode())
        assert load(path, {}).mode == "enforce"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:25", Address("127.0.0.1", 25)),
        ("[::]:0", Address("::", 0)),
        ("mx-1.example.test:65535", Address("mx-1.example.test", 65535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert read_address(text) == address
    assert str(address) == text


def test_problems_are_values(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "\n\nmode = 3\n"), {})
    (problem,) = caught.value.problems
    told = dataclasses.asdict(problem)
    assert (told["line"], told["key"], told["value"]) == (3, "mode", "3")
    json.dumps(told)
