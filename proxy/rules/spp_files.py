"""The file of qmail-spp's plugins, and the plugins that it names, looked at.

Knows: which sections there are, what is run for a line, what of a script cannot be
carried out here.  Knows not: how plugins are run, what follows from what they say.
Called by ``qmail_spp``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.rules.pointed import program as check_program
from proxy.rules.said import shown
from proxy.rules.source import Context, SourceDown
from proxy.rules.spp_output import (
    AUTH,
    CONNECTION,
    DATA,
    HELO,
    MAIL,
    PASS,
    RCPT,
    Sections,
    letters_in,
    read_sections,
)
from proxy.rules.trouble import NOTE, Trouble

_RUN = (CONNECTION, HELO, MAIL, RCPT, PASS, DATA, AUTH)
_SCRIPT_MAX = 262144

SECTION_NAMES = {
    CONNECTION: "connection",
    HELO: "helo",
    MAIL: "mail",
    RCPT: "rcpt",
    PASS: "pass",
    DATA: "data",
    AUTH: "auth",
}
"""By the letter that qmail-spp knows them by."""


def home_of(context: Context) -> bytes:
    """Where qmail-smtpd would run its plugins."""
    return os.path.join(context.root, context.host.settings.home.lstrip(b"/"))


def command_of(context: Context, home: bytes, plugin: bytes) -> tuple[bytes, ...]:
    """What is run for a line of the file."""
    if plugin.startswith(b":"):
        return b"/bin/sh", b"-c", plugin[1:]
    if plugin.startswith(b"/"):
        return (os.path.join(context.root, plugin.lstrip(b"/")),)
    return (os.path.join(home, plugin),)


def sections(context: Context, config: bytes, since: float) -> Sections:
    """The plugins of a file, whose name is from qmail's home; raises
    :class:`SourceDown`."""
    name = config if config.startswith(b"/") else b"../" + config
    try:
        lines = context.host.moment(since).control().lines(name)
    except (ControlError, KernelError, CannotTell) as error:
        raise SourceDown(f"{shown(config)}: {error}") from error
    if lines is None:
        raise SourceDown(f"{shown(config)} does not exist")
    return read_sections(lines)


def troubles(config: str, context: Context) -> Iterator[Trouble]:
    """Whether the file ``config`` can be read and the plugins in it be run, and what
    they seem to say that is not carried out."""
    try:
        plugins = sections(context, os.fsencode(config), float("inf"))
    except SourceDown as error:
        remedy = "write it, or set config to where it is"
        yield Trouble(str(error), remedy)
        return
    home = home_of(context)
    for section in _RUN:
        for plugin in plugins.get(section, ()):
            command = command_of(context, home, plugin)
            if not plugin.startswith(b":"):
                yield from check_program(command[0])
            for letter, why in _not_done(section, command):
                text = f"{shown(plugin)} seems to say {letter} in section"
                text = f"{text} {SECTION_NAMES[section]}: {why}"
                remedy = "docs/rules.md tells what qmail-spp's letters do here"
                yield Trouble(text, remedy, level=NOTE)
    for section in sorted(set(plugins) - set(_RUN) - {b""}):
        text = f"{config}: plugins of section [{shown(section)} are not run"
        yield Trouble(
            text, "move them to [rcpt], if that is what they mean", level=NOTE
        )


def _not_done(section: bytes, command: tuple[bytes, ...]) -> Iterator[tuple[str, str]]:
    """The letters of a plugin that are not carried out, as far as a script shows it."""
    letters = letters_in(command[-1] if len(command) > 1 else _script(command[0]))
    if section in (CONNECTION, HELO, MAIL) and b"P" in letters:
        yield "P", "not said, its reply is given before rules are asked"
    elif b"P" in letters and not letters & {b"E", b"R"}:
        yield "P", "only said as the first lines of a refusal by E or R"
    if section == DATA and b"S" in letters:
        yield "S", "the qmail-smtpd that could be told of it runs already"


def _script(path: bytes) -> bytes:
    """The text of a plugin that is a script; empty where it is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(_SCRIPT_MAX)
    except OSError:
        return b""
    return text if text.startswith(b"#!") else b""
