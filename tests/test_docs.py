"""The documentation, held to the code: replies, keys, links, examples."""

from __future__ import annotations

import pathlib
import re
import tomllib
from collections.abc import Iterator

import pytest

from proxy.config import Config, load
from proxy.config.keys import key_paths
from proxy.rules import qmail as qmail_rule
from proxy.smtp import replies
from proxy.smtp.reply import Reply
from tests.support.driver import MemoryDriver

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted(ROOT.glob("docs/*.md"))]

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
    for page in PAGES:
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
    """At once, or by one page between."""
    linked = {(page.parent / t.partition("#")[0]).resolve() for page, t in links()}
    missing = [name_of(page) for page in PAGES if page.resolve() not in linked]
    assert missing == ["README.md"]


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


# Examples.


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, block) for page in PAGES for block in blocks(page, "toml")],
    ids=lambda v: "" if isinstance(v, str) else name_of(v),
)
def test_configurations_load(
    page: pathlib.Path, text: str, tmp_path: pathlib.Path
) -> None:
    tomllib.loads(text)
    path = tmp_path / "config.toml"
    path.write_text(text)
    load(path, {})


def test_the_readmes_configuration_is_what_it_says() -> None:
    (text,) = blocks(ROOT / "README.md", "toml")
    config = Config.model_validate(tomllib.loads(text))
    assert config.mode == "observe"
    assert config.backend[0].address == "127.0.0.1:2525"
    assert config.qmail.default_delivery == Config().qmail.default_delivery


def test_the_readme_moves_qmail_smtpd_and_nothing_else() -> None:
    """Its sed line, on the run script that most servers have."""
    (line,) = re.findall(r"sed -i 's/(.+)/(.+)/' /service", README)
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
