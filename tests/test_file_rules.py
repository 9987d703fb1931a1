"""Rules as an administrator meets them: the example file, ``check``, ``explain``; and
one of somebody else's, found by its entry point."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import load
from proxy.config.rules import shipped_types
from tests.support.cdbmake import make_cdb
from tests.support.extras import skip_without
from tests.support.small_host import lay_out, write

ROOT = Path(__file__).parent.parent
QMAIL = '[[rules]]\ntype = "qmail"\n'


def uncommented(kind: str) -> str:
    """config.example.toml with the table of that type in use."""
    inside = False
    lines: list[str] = []
    text = (ROOT / "config.example.toml").read_text()
    before, head, rest = text.partition(f'#[[rules]]\n#type = "{kind}"')
    rest = head + rest
    for line in rest.split("\n"):
        if line.startswith("#[[rules]]"):
            inside = not lines
        elif line.startswith("["):
            inside = False
        key = inside and re.match(r"#[^ #]", line)
        lines.append(line[1:] if key else line)
    return before + "\n".join(lines)


@pytest.mark.parametrize("kind", shipped_types()[1:])
def test_each_table_of_the_example_can_be_used(kind: str, tmp_path: Path) -> None:
    skip_without(kind)
    path = tmp_path / "config.toml"
    path.write_text(uncommented(kind))
    assert [rule.type for rule in load(path, {}).rules] == [kind, "qmail"]


def with_rule(tmp_path: Path, table: str, *, alone: bool = False) -> Path:
    """The small host, with a rule before or instead of ``qmail``."""
    path = lay_out(tmp_path)
    rule = f"[[rules]]\n{table}\n"
    text = path.read_text().replace(QMAIL, rule + ("" if alone else QMAIL))
    # Not port 25, which is not everybody's: nobody gets as far as to listen.
    path.write_text('[listen]\naddresses = ["127.0.0.1:0"]\n' + text)
    return path


def backstop(
    command: str, path: Path, *arguments: str, **environ: str
) -> tuple[int, str, str]:
    """Run it: exit status, standard output and error."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", command, "-c", str(path), *arguments],
        cwd=ROOT,
        env=os.environ | {"BACKSTOP_PROCESS__ALLOW_ROOT": "true"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


class TestCheck:
    def test_a_good_list(self, tmp_path: Path) -> None:
        path = with_rule(tmp_path, 'type = "list"\nfile = "/etc/who"')
        write(tmp_path / "host/etc/who", "al@example.test\n@virt.test\n")
        status, output, _ = backstop("check", path)
        assert status == 0
        assert "/host/etc/who: has 2 entries, of 2 domains" in output

    @pytest.mark.fault("P1")
    def test_bad_lines(self, tmp_path: Path) -> None:
        path = with_rule(tmp_path, 'type = "list"\nfile = "/etc/who"')
        write(tmp_path / "host/etc/who", "al@example.test\nal\n")
        status, output, _ = backstop("check", path, "--json")
        assert status == 1
        found = [each for each in json.loads(output) if each["level"] == "error"]
        assert [(each["file"], each["line"]) for each in found] == [
            (f"{tmp_path}/host/etc/who", 2)
        ]
        for command in (("serve",), ("explain", "al@example.test")):
            status, _, error = backstop(command[0], path, *command[1:])
            assert status == 2
            assert "etc/who:2: al is neither an address nor a domain: write" in error

    @pytest.mark.parametrize("content", [None, "no cdb"])
    def test_a_cdb_that_cannot_be_read(
        self, content: str | None, tmp_path: Path
    ) -> None:
        path = with_rule(tmp_path, 'type = "cdb"\nfile = "/etc/who.cdb"', alone=True)
        if content is not None:
            write(tmp_path / "host/etc/who.cdb", content)
        status, output, _ = backstop("check", path)
        assert status == 1
        assert f"error: {tmp_path}/host/etc/who.cdb: " in output
        assert "rename it to this name" in output
        status, output, _ = backstop("explain", path, "al@example.test")
        assert status == 75
        assert "451" in output

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = with_rule(tmp_path, 'type = "list"\nfile = "/etc/who"')
        write(tmp_path / "host/etc/who", "# nobody yet\n")
        status, output, _ = backstop("check", path)
        assert status == 0
        assert "warning: " in output
        assert "has no entry" in output


class TestExplain:
    def test_a_list_before_qmail(self, tmp_path: Path) -> None:
        table = 'type = "list"\nname = "gone"\nfound = "reject"\nfile = "/etc/who"'
        path = with_rule(tmp_path, table)
        write(tmp_path / "host/etc/who", "# left us\nalice@example.test\n")
        status, output, _ = backstop("explain", path, "alice@example.test")
        assert status == 1
        assert "550" in output
        assert "line 2: alice@example.test" in " ".join(output.split())
        status, output, _ = backstop("explain", path, "sales@virt.test")
        assert status == 0
        assert "not in the list" in " ".join(output.split())

    def test_observe_mode_lets_pass(self, tmp_path: Path) -> None:
        table = 'type = "list"\nfound = "reject"\naddresses = ["alice@example.test"]'
        path = with_rule(tmp_path, table)
        path.write_text('mode = "observe"\n' + path.read_text())
        status, output, _ = backstop("explain", path, "alice@example.test", "--json")
        assert status == 0
        told = json.loads(output.splitlines()[0])
        assert told["verdict"] == "accept"
        assert told["observed"] == "reject"

    def test_a_cdb_alone(self, tmp_path: Path) -> None:
        path = with_rule(tmp_path, 'type = "cdb"\nfile = "/etc/who.cdb"', alone=True)
        made = tmp_path / "host/etc/who.cdb"
        made.write_bytes(make_cdb([(b"eve@example.test", b"")]))
        asked = ["eve@example.test", "alice@example.test"]
        assert [backstop("explain", path, each)[0] for each in asked] == [0, 1]
        # What is not ours is not asked for, whatever the file has.
        made.write_bytes(make_cdb([(b"eve@foreign.test", b"")]))
        status, output, _ = backstop("explain", path, "eve@foreign.test")
        assert status == 1
        assert "553" in output


THEIRS = '''
"""A rule of another distribution."""

from pydantic import Field
from proxy.config.rules import SourceKeys
from proxy.rules.source import BaseSource, Finding, Says, SourceRule
from proxy.rules.trouble import WARNING, Trouble


class Settings(SourceKeys):
    """Local parts of so many letters."""

    letters: int = Field(description="How many.", ge=1)


class Counting(BaseSource):
    def __init__(self, letters):
        self.letters = letters

    def query(self, question):
        return f"{self.letters} letters?"

    def ask(self, question):
        found = question.mailbox.find(b"@") == self.letters
        return Finding(Says.FOUND if found else Says.MISSING)


def build(settings, context):
    return SourceRule(settings, Counting(settings.letters), context)


def check(settings, context):
    if settings.letters > 64:
        yield Trouble("nobody has so many", "write less", "letters", level=WARNING)
'''


class TestOthersRules:
    @pytest.fixture
    def installed(self, tmp_path: Path) -> str:
        """A directory for PYTHONPATH, as pip would fill it."""
        place = tmp_path / "site"
        write(place / "counting_rule.py", THEIRS)
        about = place / "counting_rule-1.0.dist-info"
        write(about / "METADATA", "Metadata-Version: 2.1\nName: counting-rule\n")
        points = "[qmail_backstop.rules]\ncounting = counting_rule\n"
        write(about / "entry_points.txt", points)
        return str(place)

    def test_it_decides(self, tmp_path: Path, installed: str) -> None:
        path = with_rule(tmp_path, 'type = "counting"\nletters = 3', alone=True)
        for address, expected in (("bob@example.test", 0), ("bobby@example.test", 1)):
            status, output, _ = backstop("explain", path, address, PYTHONPATH=installed)
            assert status == expected
            assert "3 letters?" in output

    def test_it_may_be_made_in_steps(self, tmp_path: Path, installed: str) -> None:
        in_steps = THEIRS.replace(
            "    return SourceRule(", "    yield\n    return SourceRule("
        )
        write(tmp_path / "site/counting_rule.py", in_steps)
        path = with_rule(tmp_path, 'type = "counting"\nletters = 3', alone=True)
        given = "explain", path, "bob@example.test"
        status, output, _ = backstop(*given, PYTHONPATH=installed)
        assert status == 0
        assert "3 letters?" in output

    def test_its_check_is_asked(self, tmp_path: Path, installed: str) -> None:
        path = with_rule(tmp_path, 'type = "counting"\nletters = 99', alone=True)
        status, output, _ = backstop("check", path, PYTHONPATH=installed)
        assert status == 0
        assert "rules[1].letters = 99: nobody has so many: write less" in output

    @pytest.mark.fault("R8")
    @pytest.mark.parametrize("steps", ["", "    yield\n"])
    def test_one_that_cannot_be_made_fails_the_check(
        self, tmp_path: Path, installed: str, steps: str
    ) -> None:
        broken = THEIRS.replace(
            "    return SourceRule(", f"{steps}    raise OSError('no licence')\n"
        ).replace("settings, Counting(settings.letters), context)", "")
        write(tmp_path / "site/counting_rule.py", broken)
        path = with_rule(tmp_path, 'type = "counting"\nletters = 3', alone=True)
        status, output, _ = backstop("check", path, PYTHONPATH=installed)
        assert status == 1
        assert (
            'rules[1].type = "counting": cannot be made: OSError: no licence' in output
        )

    def test_its_keys_are_checked(self, tmp_path: Path, installed: str) -> None:
        path = with_rule(tmp_path, 'type = "counting"\nletter = 3')
        status, _, error = backstop("explain", path, "a@b", PYTHONPATH=installed)
        assert status == 2
        assert "did you mean letters?" in error

    def test_without_it(self, tmp_path: Path) -> None:
        path = with_rule(tmp_path, 'type = "counting"\nletters = 3')
        status, _, error = backstop("explain", path, "a@b")
        assert status == 2
        assert "unknown type of rule" in error

    @pytest.mark.parametrize("text", ["raise RuntimeError('no licence')", "", "x ="])
    def test_a_module_that_cannot_be_used(
        self, tmp_path: Path, installed: str, text: str
    ) -> None:
        write(Path(installed) / "counting_rule.py", text)
        path = with_rule(tmp_path, 'type = "counting"\nletters = 3')
        status, _, error = backstop("explain", path, "a@b", PYTHONPATH=installed)
        assert status == 2
        assert "rules[1]: its module cannot be used: " in error
        assert "Traceback" not in error
