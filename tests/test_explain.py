"""``backstop explain``: its output, its input, its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from proxy import explain
from proxy.config import Config
from proxy.rules.engine import Engine
from proxy.rules.verdict import Answer, Kind, Question, Verdict
from proxy.smtp import replies
from tests.support import small_host
from tests.support.cdbmake import make_cdb

PROJECT = Path(__file__).parent.parent


def run(
    config: Path, *arguments: str | bytes, given: bytes = b"", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "RELAYCLIENT"}
    return subprocess.run(
        [sys.executable, "-m", "proxy", "explain", "-c", str(config), *arguments],
        cwd=PROJECT,
        env=environment | environ,
        input=given,
        capture_output=True,
        check=False,
    )


def objects(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.stderr == b""
    assert done.stdout.isascii()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_host.lay_out(tmp_path_factory.mktemp("explain"))


class TestJson:
    def test_the_keys_of_the_contract(self, config: Path) -> None:
        done = run(config, "--json", "bob@example.test")
        assert done.returncode == 1
        assert objects(done) == [
            {
                "recipient": "bob@example.test",
                "verdict": "reject",
                "reply": "550 5.1.1 no such recipient here",
                "rule": "qmail",
                "trace": [
                    {"at": "control/rcpthosts:1", "note": "example.test is listed"},
                    {"at": "control/locals:1", "note": "example.test is local"},
                    {
                        "at": "/etc/passwd",
                        "note": "bob belongs to alias, home /var/qmail/alias",
                    },
                    {
                        "at": "/var/qmail/alias/.qmail-",
                        "note": "no file for bob, and no -default above it",
                    },
                ],
                "address": "bob@example.test",
                "reason": "no mailbox here by that name",
                "undecided": False,
            }
        ]

    def test_undecided(self, config: Path) -> None:
        (found,) = objects(run(config, "--json", "alice-program@example.test"))
        assert (found["verdict"], found["undecided"]) == ("accept", True)

    def test_bytes_are_latin_1_both_ways(self, config: Path) -> None:
        every = bytes(b for b in range(1, 256) if b != 10)
        address = every + b"@example.test"
        given = address + b"\n"
        (piped,) = objects(run(config, "--json", "-", given=given))
        (argued,) = objects(run(config, "--json", "--", address))
        assert piped == argued
        assert piped["recipient"].encode("latin-1") == address
        assert piped["address"] == piped["recipient"]

    def test_the_raw_argument(self, config: Path) -> None:
        argument = r'To: <@relay:"al\ice"@example.test> SIZE=3'
        (found,) = objects(run(config, "--json", argument))
        assert found["recipient"] == argument
        assert found["address"] == "alice@example.test"
        assert found["verdict"] == "accept"
        assert "dialogue" not in found

    def test_control_bytes_never_reach_the_rules_over_smtp(self, config: Path) -> None:
        done = run(config, "--json", "-", given=b"TO:<alice@example.test>\0x\r\n")
        (found,) = objects(done)
        assert found["recipient"] == "TO:<alice@example.test>\0x\r"
        assert found["address"] == "alice@example.test"
        assert found["verdict"] == "accept"
        assert found["dialogue"] == replies.CONTROL_CHARACTER.text
        assert found["trace"][0]["at"] == "smtp"
        assert done.returncode == 0

    def test_a_tab_is_no_control_byte(self, config: Path) -> None:
        (found,) = objects(run(config, "--json", "TO:<a\tb@example.test>"))
        assert "dialogue" not in found

    def test_a_command_that_is_too_long(self, config: Path) -> None:
        argument = "TO:<alice@example.test> " + "x" * 4096
        (found,) = objects(run(config, "--json", argument))
        assert found["dialogue"] == replies.LINE_TOO_LONG.text


class TestInput:
    def test_lines(self, config: Path) -> None:
        lines = b"alice@example.test\r\n\n\r\nbob@example.test\n TO:<x>\nlast@x.test"
        found = objects(run(config, "--json", "first@x.test", "-", given=lines))
        assert [each["recipient"] for each in found] == [
            "first@x.test",
            "alice@example.test",
            "bob@example.test",
            " TO:<x>",
            "last@x.test",
        ]

    def test_an_answer_comes_before_the_next_question(self, config: Path) -> None:
        command = [sys.executable, "-m", "proxy", "explain", "-c", str(config), "-"]
        with subprocess.Popen(
            [*command, "--json"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for name in (b"alice", b"bob"):
                process.stdin.write(name + b"@example.test\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                assert answer["recipient"].encode() == name + b"@example.test"
            process.stdin.close()
            assert process.wait() == 1

    def test_blocks_cut_anywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = [b"a" * n for n in range(1, 40)]
        monkeypatch.setattr(explain, "_BLOCK", 7)
        source = io.BytesIO(b"\n".join(lines))
        assert [x for block in explain._blocks(source) for x in block] == lines

    def test_a_reader_that_leaves(self, config: Path, tmp_path: Path) -> None:
        many = tmp_path / "many"
        many.write_bytes(b"alice@example.test\n" * 20_000)
        shell = '"$0" -m proxy explain --json -c "$1" - < "$2" | head -n 1'
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", shell, sys.executable, config, many],
            cwd=PROJECT,
            capture_output=True,
            check=False,
        )
        assert done.stderr == b""
        assert done.stdout.count(b"\n") == 1
        assert done.returncode == 0


class TestOptions:
    def test_sender(self, tmp_path: Path) -> None:
        config = small_host.lay_out(tmp_path, badmailfrom="bad\xe9@x.test\n")
        for sender in (
            b"bad\xe9@x.test",
            b"<bad\xe9@x.test>",
            b"FROM:<bad\xe9@x.test>",
        ):
            done = run(config, "--json", "--sender", sender, "alice@example.test")
            assert objects(done)[0]["reply"] == replies.BAD_SENDER.text
        assert run(config, "--sender", "<>", "alice@example.test").returncode == 0

    def test_relayclient(self, config: Path) -> None:
        address = "x@elsewhere.test"
        assert run(config, address).returncode == 1
        assert run(config, "--relayclient", "", address).returncode == 0
        assert run(config, address, RELAYCLIENT="").returncode == 0
        (found,) = objects(run(config, "--json", address, RELAYCLIENT="@virt.test"))
        assert found["verdict"] == "reject"

    def test_a_client_that_may_relay(self, config: Path) -> None:
        def asked(client: str, relayclient: str | None = None) -> list[dict[str, Any]]:
            trusted = "192.0.2.0/24,2001:db8::/32"
            given = ["--json", "--client", client]
            if relayclient is not None:
                given += ["--relayclient", relayclient]
            given += ["x@elsewhere.test", "bob@example.test"]
            return objects(run(config, *given, BACKSTOP_RELAY__TRUSTED=trusted))

        for client in ("192.0.2.9", "::ffff:192.0.2.9", "2001:db8::9"):
            away, unknown = asked(client)
            assert away["verdict"] == "accept"
            first, second, *_ = away["trace"]
            assert first["at"] == "relay.trusted"
            assert first["note"].startswith(f"{client} is in ")
            assert "RELAYCLIENT" in second["note"]
            assert unknown["verdict"] == "reject"  # nobody is made by trust
            assert unknown["trace"][0] == first
        for client in ("192.0.3.9", "2001:db9::9"):
            away, _ = asked(client)
            assert away["reply"] == replies.NOT_RELAYED.text
        # What is asked for in so many words has the last word.
        away, _ = asked("192.0.2.9", "@virt.test")
        assert away["verdict"] == "reject"
        assert "relay.trusted" not in str(away["trace"])

    def test_a_client_with_a_rule_in_tcp_smtp(self, config: Path) -> None:
        rules = [(b"192.0.2.", b"+RELAYCLIENT=\0"), (b"192.0.3.1", b"D\0")]
        path = config.parent / "host/etc/tcp.smtp.cdb"
        path.write_bytes(make_cdb(rules))

        def asked(client: str) -> dict[str, Any]:
            given = ["--json", "--client", client, "x@elsewhere.test"]
            done = run(config, *given, BACKSTOP_LISTEN__TCPRULES="/etc/tcp.smtp.cdb")
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        found = asked("192.0.2.9")
        assert found["verdict"] == "accept"
        assert found["trace"][0] == {
            "at": "listen.tcprules",
            "note": "rule '192.0.2.' for 192.0.2.9 sets RELAYCLIENT; it may relay",
        }
        assert "denied" in asked("192.0.3.1")["trace"][0]["note"]
        assert asked("192.0.3.2")["verdict"] == "reject"
        path.write_bytes(b"short")
        assert "421" in asked("192.0.2.9")["trace"][0]["note"]

    def test_the_percent_hack(self, tmp_path: Path) -> None:
        config = small_host.lay_out(tmp_path, percenthack="example.test\n")
        given = ["--json", "x%elsewhere.test@example.test"]
        (found,) = objects(run(config, *given))
        assert found["verdict"] == "accept"  # as qmail
        done = run(config, *given, BACKSTOP_RELAY__ALLOW_PERCENTHACK="false")
        (found,) = objects(done)
        assert found["reply"] == replies.NOT_RELAYED.text
        assert found["trace"][-1]["at"] == "relay.allow_percenthack"

    def test_observe(self, config: Path) -> None:
        done = run(config, "--json", "bob@example.test", BACKSTOP_MODE="observe")
        (found,) = objects(done)
        assert (found["verdict"], found["observed"]) == ("accept", "reject")
        assert done.returncode == 0


class TestStatus:
    @pytest.mark.parametrize(
        ("names", "status"),
        [
            (["alice"], 0),
            (["alice", "bob"], 1),
            (["alice", "alice-broken"], 75),
            (["alice-broken", "bob"], 1),
        ],
    )
    def test_of_verdicts(self, config: Path, names: list[str], status: int) -> None:
        assert run(config, *[f"{n}@example.test" for n in names]).returncode == status

    def test_of_usage_and_configuration(self, config: Path, tmp_path: Path) -> None:
        assert run(config).returncode == 2
        assert run(config, "--client", "nobody", "x@y").returncode == 2
        missing = run(tmp_path / "none.toml", "x@y")
        assert missing.returncode == 2
        assert b"Traceback" not in missing.stderr
        assert missing.stderr.count(b"\n") == 1

    def test_an_open_relay_is_not_passed_over(self, tmp_path: Path) -> None:
        config = small_host.lay_out(tmp_path, rcpthosts=None)
        done = run(config, "x@elsewhere.test")
        assert b"serve would not start" in done.stderr


class TestForPeople:
    def test_a_trail(self, config: Path) -> None:
        done = run(config, "sales@virt.test")
        assert done.stdout.decode() == (
            "sales@virt.test: accepted, 250 2.1.5 ok\n"
            "  control/rcpthosts:2: virt.test is listed\n"
            "  control/virtualdomains:1: virt.test is handled by alice-virt as\n"
            "      alice-virt-sales\n"
            "  /etc/passwd: alice-virt-sales belongs to alice, home /home/alice\n"
            "  /home/alice/.qmail-virt-sales:1: delivered to maildir ./Maildir/\n"
        )

    def test_nothing_touches_the_terminal(self, config: Path) -> None:
        every = bytes(b for b in range(256) if b != 10)
        given = every + b"@example.test\nTO:<" + every + b"@example.test>\n"
        done = run(config, "-", given=given)
        text = done.stdout.decode("ascii").replace("\n", "")
        assert text.isprintable()
        assert r"\x1b[" not in text
        assert r"\x1b\x1c" in text
        assert r"[\\]" in text

    def test_no_colours_in_a_pipe(self, config: Path) -> None:
        done = run(config, "bob@example.test", FORCE_COLOR="1")
        assert b"\x1b" not in done.stdout


class Later:
    """A rule that has to be awaited."""

    name = "later"

    async def _answer(self) -> Answer:
        await asyncio.sleep(0)
        return Verdict(Kind.DEFER, replies.RECIPIENT_DEFERRED, self.name, "later")

    def ask(self, question: Question) -> Awaitable[Answer]:
        return self._answer()


def test_awaited_verdicts() -> None:
    asked = explain.Circumstances()
    engine = Engine([Later()])
    with explain.Explainer(engine, Config(), asked) as explainer:
        found = explainer.block([b"a@b", b"c@d"])
    assert [each.verdict.kind for each in found] == [Kind.DEFER] * 2


def test_a_progress_bar_on_the_terminal_leaves_the_output_alone(
    tmp_path: Path,
) -> None:
    """Standard error is a terminal, standard output a file: the bar is drawn on
    the one, and every line is in the other."""
    small_host.lay_out(tmp_path)
    given, out = tmp_path / "given", tmp_path / "out"
    given.write_bytes(b"".join(b"nobody%d@example.test\n" % n for n in range(5000)))
    here, terminal = pty.openpty()
    with given.open("rb") as reads, out.open("wb") as writes:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "proxy", "explain", "--json"),
                *("-c", str(tmp_path / "config.toml"), "-"),
            ],
            cwd=PROJECT,
            env={**os.environ, "TERM": "xterm"},
            stdin=reads,
            stdout=writes,
            stderr=terminal,
        )
        os.close(terminal)
        drawn = b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while piece := os.read(here, 65536):
                drawn += piece
        os.close(here)
        assert process.wait() == 1
    assert b"explain" in drawn
    assert b"nobody" not in drawn
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [x["recipient"] for x in lines] == given.read_text().split()
