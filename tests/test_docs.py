"""The documentation, held to the code: replies, keys, links, examples."""

from __future__ import annotations

import pathlib
import re
import tomllib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import typer.core
import typer.main

from proxy.cli import app
from proxy.config import Config, load
from proxy.config.keys import key_paths
from proxy.observe.catalogue import TABLE
from proxy.rules import qmail as qmail_rule
from proxy.smtp import replies
from proxy.smtp.reply import Reply
from tests.support.driver import MemoryDriver
from tests.support.extras import skip_without

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted(ROOT.glob("docs/*.md"))]
# Their links are held as well.
MORE = [ROOT / "bench/README.md", ROOT / "CHANGELOG.md"]

# Keys that are accepted and change nothing yet; the models say so as well.
NOT_IN_EFFECT: set[str] = set()


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)
    return [str(block) for block in found]


def prose(page: pathlib.Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```\n", "", page.read_text(), flags=re.M | re.S)


def anchors(page: pathlib.Path) -> set[str]:
    """The names that headings get, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


# Links.


def links() -> Iterator[tuple[pathlib.Path, str]]:
    for page in [*PAGES, *MORE]:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"),
    list(links()),
    ids=lambda v: v if isinstance(v, str) else name_of(v),
)
def test_links_lead_somewhere(page: pathlib.Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.is_file()
    assert there.is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(there)


def test_every_page_is_reached_from_the_readme() -> None:
    """At once, or by pages between."""
    leads = [
        (page, (page.parent / target.partition("#")[0]).resolve())
        for page, target in links()
    ]
    reached = {ROOT / "README.md"}
    while more := {to for page, to in leads if page in reached} - reached:
        reached |= more
    assert [name_of(page) for page in PAGES if page not in reached] == []


def external() -> Iterator[tuple[str, str]]:
    """Links and bare addresses that leave the project."""
    for page in [*PAGES, *MORE]:
        for target in re.findall(r"\w+://[^\s)>`\"']+", prose(page)):
            yield name_of(page), target


def test_links_to_other_places_are_well_formed() -> None:
    """Schemes of the web have a host; nothing points to this machine's own files."""
    for page, target in external():
        parts = urlsplit(target)
        assert parts.scheme not in ("file", "ftp"), (page, target)
        if parts.scheme in ("http", "https"):
            assert re.fullmatch(r"[a-z0-9.-]+(:\d+)?", parts.netloc), (page, target)


def test_links_that_are_written_by_reference_are_none() -> None:
    """[text][name], or HTML, would not be seen by the tests above."""
    for page in [*PAGES, *MORE]:
        other = r"\]\[[\w -]+\]|^\[[^\]]+\]:|(?:href|src)="
        assert not re.findall(other, prose(page), re.M), page


def test_every_page_there_is_is_held() -> None:
    """A new folder with pages has to be added above."""
    kept = {".venv", "node_modules", "build", "dist", ".pytest_cache", ".hypothesis"}
    found = {
        path
        for path in ROOT.rglob("*.md")
        if not kept & set(path.relative_to(ROOT).parts)
    }
    assert found == {*PAGES, *MORE}


def test_pages_that_other_files_name_are_there() -> None:
    """In messages, comments and units: whoever reads them looks for the page."""
    named: set[str] = set()
    pattern = r"(?:docs|deploy)/[\w-]+\.md(?:#[\w-]+)?"
    for folder in ("proxy", "deploy", "bench", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".yaml", ".yml", ".service", ".conf"):
                named.update(re.findall(pattern, path.read_text(errors="replace")))
    assert len(named) > 5
    for target in named:
        name, _, anchor = target.partition("#")
        assert (ROOT / name).is_file(), target
        assert not anchor or anchor in anchors(ROOT / name), target


def test_every_file_of_deploy_is_named_in_its_readme() -> None:
    text = (ROOT / "deploy/README.md").read_text()
    for folder in (each for each in (ROOT / "deploy").iterdir() if each.is_dir()):
        assert f"]({folder.name}/" in text, folder.name


# Replies.


def wires_of(*said: Reply) -> set[str]:
    return {line for reply in said for line in reply.wire.decode().splitlines()}


def spoken() -> set[str]:
    """The lines that bear our name or a number, said by a real dialogue."""
    driver = MemoryDriver(size=7)
    driver.feed(b"EHLO c\r\nHELO c\r\nQUIT\r\n")
    encrypting = MemoryDriver(starttls=True)
    encrypting.feed(b"EHLO c\r\n")
    text = (driver.sent + encrypting.sent).decode().replace("mx.test", "HOSTNAME")
    return set(text.replace("SIZE 7", "SIZE N").splitlines())


CONSTANTS = {k: v for k, v in vars(replies).items() if isinstance(v, Reply)}
RULES = [reply for _, reply, _ in qmail_rule._ANSWERS.values()]
REPLIES = ROOT / "docs/replies.md"
OWN, BACKENDS = prose(REPLIES).split("## The backend's own\n")
LINES = re.findall(r"`([2-5][0-9][0-9][ -][^`]+)`", OWN)


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_every_reply_is_in_the_page(name: str) -> None:
    assert CONSTANTS[name].text in LINES


def test_every_reply_of_rules_and_dialogue_is_in_the_page() -> None:
    assert wires_of(*RULES) <= set(LINES)
    assert spoken() <= set(LINES)


@pytest.mark.parametrize("line", sorted(set(LINES)))
def test_every_reply_in_the_page_is_in_the_code(line: str) -> None:
    assert line in wires_of(*CONSTANTS.values(), *RULES) | spoken()


def test_the_pages_quote_no_other_reply() -> None:
    """In logs and elsewhere: ours with an enhanced code are those of the code."""
    known = wires_of(*CONSTANTS.values(), *RULES)
    for page in PAGES:
        text = page.read_text()
        for line in re.findall(r'"([2-5]\d\d \d\.\d+\.\d+ [^"]+)"', text):
            assert line in known, name_of(page)


# Keys.

KEYS = {".".join(map(str, path)): path for path in key_paths()}
TABLES = {path[0] for path in KEYS.values() if len(path) > 1}


def keys_named(page: pathlib.Path) -> Iterator[str]:
    text = prose(page)
    for table, key in re.findall(r"`\[(\w+)\]`? `?(\w+)`", text):
        yield f"{table}.{key}"
    names = "|".join(sorted(map(str, TABLES)))
    for key in re.findall(rf"`((?:{names})\.[a-z_]+)(?:`| =)", text):
        yield str(key)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_key_that_is_named_exists(page: pathlib.Path) -> None:
    files = {path.name for path in ROOT.rglob("*.py")} | {"control.c"}
    for key in keys_named(page):
        assert key in KEYS or key in files, key


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_variable_that_is_named_exists(page: pathlib.Path) -> None:
    known = {"BACKSTOP_" + key.replace(".", "__").upper() for key in KEYS}
    known |= {"BACKSTOP_RULES", "BACKSTOP_CONFIG"}
    named = re.findall(r"BACKSTOP_[A-Z_]*[A-Z]", page.read_text())
    assert set(named) - {"BACKSTOP_..._FILE"} <= known


def test_what_has_no_effect_yet_is_said_to_have_none() -> None:
    assert set(KEYS) >= NOT_IN_EFFECT
    for key in NOT_IN_EFFECT:
        table, name = key.split(".")
        section = getattr(Config(), table)
        description = type(section).model_fields[name].description
        assert "Not in effect yet" in description, key
        assert f"`{key}`" in prose(ROOT / "README.md"), key
        page = ROOT / "docs/configuration.md"
        assert f"`{key}`" in prose(page).split("## Not in effect yet")[1], key


# Commands and metrics.

COMMANDS = typer.main.get_command(app)


def commands_named(page: pathlib.Path) -> Iterator[list[str]]:
    """What stands behind ``backstop`` in code: its words."""
    text = page.read_text()
    code = [line for each in blocks(page, "sh") for line in each.splitlines()]
    code += re.findall(r"`([^`\n]+)`", text)
    for line in code:
        found = re.search(r"(?:^|[|;&] |enforce )backstop ([^|;&<>#]+)", line)
        if found:
            yield found[1].split()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_that_is_named_exists(page: pathlib.Path) -> None:
    assert isinstance(COMMANDS, typer.core.TyperGroup)
    for words in commands_named(page):
        command: typer.core.TyperGroup | object = COMMANDS
        if not words[0].startswith("-"):
            assert words[0] in COMMANDS.commands, words
            command = COMMANDS.commands[words[0]]
        assert isinstance(command, (typer.core.TyperGroup, typer.core.TyperCommand))
        options = {name for each in command.params for name in each.opts}
        named = {w for w in words if re.fullmatch(r"--?[a-z][a-z-]*", w)}
        assert named <= options | {"--help"}, words


@pytest.mark.parametrize("command", sorted(getattr(COMMANDS, "commands", ())))
def test_every_command_is_described(command: str) -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    table = text.split("## Commands and exit statuses")[1].split("\n## ")[0]
    assert f"`backstop {command}`" in table


METRICS = {entry.name for entry in TABLE}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_metric_that_is_named_exists(page: pathlib.Path) -> None:
    for name in re.findall(r"\bbackstop_[a-z_]+[a-z]\b", page.read_text()):
        assert name in METRICS, name


# Examples.


@pytest.mark.fault("P1")
@pytest.mark.parametrize(
    ("page", "text"),
    [(page, block) for page in PAGES for block in blocks(page, "toml")],
    ids=lambda v: "" if isinstance(v, str) else name_of(v),
)
def test_configurations_load(
    page: pathlib.Path, text: str, tmp_path: pathlib.Path
) -> None:
    rules = tomllib.loads(text).get("rules", [])
    skip_without(*(rule["type"] for rule in rules))
    path = tmp_path / "config.toml"
    path.write_text(text)
    load(path, {})


def test_the_readmes_configuration_is_what_it_says() -> None:
    (text,) = blocks(ROOT / "README.md", "toml")
    config = Config.model_validate(tomllib.loads(text))
    assert config.mode == "observe"
    assert config.backend[0].address == "127.0.0.1:2525"
    assert config.qmail.default_delivery == Config().qmail.default_delivery


def test_the_readme_needs_ten_lines() -> None:
    """From a running qmail to observe mode."""
    steps = README.split("### 1. Install")[1].split("### 5. ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", steps, re.M | re.S)
    assert 5 <= sum(block.count("\n") for block in found) <= 10
    assert "run.before" in README.split("### Back")[1]


def test_the_readme_moves_qmail_smtpd_and_nothing_else() -> None:
    """Its sed line, on the run script that most servers have."""
    (line,) = re.findall(r"sed -i.before 's/(.+)/(.+)/' /service", README)
    pattern = line[0].replace(r"\(", "(").replace(r"\)", ")").replace(r"\|", "|")
    for port in ("smtp", "25"):
        for rest in ("/var/qmail/bin/qmail-smtpd 2>&1", "rblsmtpd qmail-smtpd"):
            before = f"tcpserver -l 0 -x /etc/tcp.smtp.cdb -c 40 -u 82 -g 81 0 {port} "
            after = re.sub(pattern, line[1], before + rest)
            assert after == before[: -len(f"0 {port} ")] + "127.0.0.1 2525 " + rest


@pytest.mark.parametrize("path", sorted(ROOT.glob("deploy/*/**/run")), ids=name_of)
def test_run_scripts_can_be_run(path: pathlib.Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n")
    assert path.stat().st_mode & 0o111 == 0o111
