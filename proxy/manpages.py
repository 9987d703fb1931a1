"""backstop(1) and backstop.toml(5), made from the commands and the models.

Knows: how a manual page looks (man-pages(7)).  Knows not: any command or key.  Run
as ``python -m proxy.manpages DIRECTORY``; a test holds docs/man equal to it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from proxy import __version__
from proxy.cli import app
from proxy.config.explain import toml_value
from proxy.config.keys import Key, keys_of, section_at
from proxy.config.model import Config
from proxy.config.rules import settings_of, shipped_types
from proxy.config.section import Section
from proxy.config.sources import SMALLEST

_FILES = (
    ("/etc/backstop/config.toml", "The configuration, see backstop.toml(5)."),
    ("./config.toml", "The same, where there is no other."),
)
_VARIABLES = (
    ("BACKSTOP_CONFIG", "The configuration file, where --config does not name one."),
    (
        "BACKSTOP_SECTION__KEY",
        "A key of the configuration, over what the file says:"
        " BACKSTOP_LIMITS__CONNECTIONS is limits.connections. With _FILE behind it:"
        " the name of a file that has the value.",
    ),
)
_SIGNALS = (
    (
        "TERM",
        "Take no more connections, let open transactions finish within"
        " shutdown_grace, then end with 0. A second one ends at once.",
    ),
    (
        "HUP",
        "Read configuration, certificates and tables anew. A bad configuration is"
        " logged, and the old one stays.",
    ),
)
_STATUSES = (
    ("0", "Good."),
    ("1", "A refusal, or a check that failed."),
    ("2", "Wrong usage, or a configuration that cannot be used."),
    ("75", "Temporary answers only, and no refusal."),
)

Lines = Iterator[str]


def commands_page() -> str:
    """backstop(1)."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return _page("BACKSTOP", 1, _commands(root))


def configuration_page() -> str:
    """backstop.toml(5)."""
    return _page("BACKSTOP.TOML", 5, _configuration())


def write(directory: Path) -> None:
    """Both pages, as files below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "backstop.1").write_text(commands_page())
    (directory / "backstop.toml.5").write_text(configuration_page())


def _page(name: str, section: int, body: Lines) -> str:
    release = f"qmail\\-backstop {_text(__version__)}"
    head = f'.TH "{_text(name)}" "{section}" "" "{release}" "qmail\\-backstop"'
    return "\n".join([head, ".nh", ".ad l", *_first_paragraphs(body)]) + "\n"


def _first_paragraphs(body: Lines) -> Lines:
    """Without a new paragraph or line where a heading has just begun one."""
    before = ""
    for line in body:
        if not (before.startswith((".SH", ".SS")) and line in (".PP", ".br")):
            yield line
        before = line


# backstop(1)


def _commands(root: TyperGroup) -> Lines:
    yield from _section("NAME")
    yield _text("backstop - refuse unknown recipients before an unmodified qmail")
    yield from _section("SYNOPSIS")
    commands = {
        name: each
        for name, each in root.commands.items()
        if isinstance(each, TyperCommand)
    }
    for name, command in commands.items():
        words = " ".join(_usage(command))
        yield from (".br", f"\\fBbackstop {_text(name)}\\fR {words}".rstrip())
    yield from _section("DESCRIPTION")
    yield from _paragraphs(
        "backstop is an SMTP front door. It listens on port 25, decides at RCPT TO"
        " whether this host's qmail would deliver to the recipient, answers 550 at"
        " once when it would not, and relays accepted messages to qmail-smtpd on"
        " another port. What cannot be told now is answered 451; 250 is said after"
        " qmail-smtpd's own 250. Of qmail's files none is ever written."
    )
    yield from _section("COMMANDS")
    for name, command in commands.items():
        yield from _command(name, command)
    yield from _section("EXIT STATUS")
    yield from _items(_STATUSES)
    yield from _section("ENVIRONMENT")
    yield from _items(_VARIABLES)
    yield from _section("SIGNALS")
    yield from _items(_SIGNALS)
    yield from _section("FILES")
    yield from _items(_FILES)
    yield from _section("SEE ALSO")
    yield _text("backstop.toml(5), qmail-smtpd(8), dot-qmail(5), qmail-users(5)")


def _usage(command: TyperCommand) -> Iterator[str]:
    if any(isinstance(each, TyperOption) for each in command.params):
        yield "[\\fIoptions\\fR]"
    for each in command.params:
        if isinstance(each, TyperArgument):
            name = each.metavar or "ARGUMENT"
            yield f"\\fI{_text(name)}\\fR" + ("..." if each.nargs == -1 else "")


def _command(name: str, command: TyperCommand) -> Lines:
    usage = " ".join(_usage(command))
    yield f".SS \\fBbackstop {_text(name)}\\fR {usage}".rstrip()
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    for each in command.params:
        text = getattr(each, "help", None) or ""
        if isinstance(each, TyperArgument):
            yield from _item(each.metavar or "ARGUMENT", text)
        elif isinstance(each, TyperOption):
            names = ", ".join((*each.opts, *each.secondary_opts))
            takes = "" if each.is_flag else f" {each.metavar or 'VALUE'}"
            yield from _item(names + takes, text)


# backstop.toml(5)


def _configuration() -> Lines:
    yield from _section("NAME")
    yield _text("backstop.toml - the configuration of backstop")
    yield from _section("DESCRIPTION")
    yield from _paragraphs(
        "A file of TOML: tables in brackets, with keys below them. It is"
        " --config FILE, else $BACKSTOP_CONFIG, else /etc/backstop/config.toml, else"
        " ./config.toml. A key that is left out has its default; an unknown key is an"
        " error. backstop check tells whether all is well. Three lines are a whole"
        " configuration:"
    )
    yield from (".RS 4", ".nf", *map(_text, SMALLEST.splitlines()), ".fi", ".RE")
    yield from _paragraphs(
        "Durations are in seconds, sizes in bytes. Every key can be set by a variable"
        " of the environment as well, see backstop(1)."
    )
    yield from _section("KEYS ABOVE ALL TABLES")
    for key in keys_of(Config):
        yield from _key(key)
    for name in Config.model_fields:
        section = section_at((name,))
        if section is not None and name != "rules":
            yield from _table(f"[{name}]", section)
    for kind in shipped_types():
        yield from _table(f'[[rules]] type = "{kind}"', settings_of(kind))
    yield from _section("SEE ALSO")
    yield _text("backstop(1)")


def _table(title: str, section: type[Section]) -> Lines:
    yield from _section(title)
    yield from _paragraphs(inspect.cleandoc(section.__doc__ or ""))
    for key in keys_of(section):
        yield from _key(key)


def _key(key: Key) -> Lines:
    yield from _item(key.name, key.description)
    if key.required:
        return
    shown = toml_value(key.default)
    if shown:
        yield from (".br", _text(f"Default: {shown}"))


# roff


def _section(title: str) -> Lines:
    yield f".SH {_text(title)}"


def _item(head: str, text: str) -> Lines:
    yield from (".TP", f"\\fB{_text(head)}\\fR", _text(" ".join(text.split())))


def _items(pairs: tuple[tuple[str, str], ...]) -> Lines:
    for head, text in pairs:
        yield from _item(head, text)


def _paragraphs(text: str) -> Lines:
    for paragraph in text.split("\n\n"):
        yield from (".PP", _text(" ".join(paragraph.split())))


def _text(text: str) -> str:
    """As roff shows it: no character of it is a command."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in ".'" else text


if __name__ == "__main__":
    write(Path(sys.argv[1]))
