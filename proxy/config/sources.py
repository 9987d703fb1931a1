"""Where the configuration comes from: one file, and variables above it.

Knows: the places (``--config``, ``$BACKSTOP_CONFIG``, two names), TOML, variables
that begin with ``BACKSTOP_``, secrets in files.  Knows not: any key by name.
Called through :func:`proxy.config.load`.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from proxy.config.explain import SECRET_SUFFIX, Sources, nearest, problems_of
from proxy.config.keys import key_paths
from proxy.config.model import Config, KeyPath
from proxy.config.problem import ConfigError, Problem, printable, shown
from proxy.config.values import tables

PREFIX = "BACKSTOP_"
CONFIG_VARIABLE = "BACKSTOP_CONFIG"
PLACES = (Path("/etc/backstop/config.toml"), Path("config.toml"))
SMALLEST = 'backend.address = "127.0.0.1:2525"\n[[rules]]\ntype = "qmail"\n'
"""The three lines of the smallest configuration."""

_FILE_MAX = 1 << 20

Table = dict[str, Any]


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration from ``path`` (else from the first place that has
    one), with the environment's word over the file's.

    Raises :class:`ConfigError`, which tells all that is wrong.
    """
    variables = _Variables(environ)
    file = _read_file(path, environ)
    merged = _merge(_one_backend(file.table, variables), variables.table)
    several = isinstance(merged.get("backend"), list)
    name = str(file.path or "no file")
    types = _rule_types(merged.get("rules"))
    sources = Sources(name, file.text, variables.names, several, types)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(problems_of(error, sources)) from error
    config._source = file.path
    return config


def _rule_types(rules: object) -> list[object]:
    """The type of each rule, whatever it is."""
    with contextlib.suppress(ValidationError, PydanticCustomError):
        rules = tables(rules)
    if not isinstance(rules, list | tuple):
        return []
    return [rule.get("type") if isinstance(rule, dict) else None for rule in rules]


@dataclass(frozen=True, slots=True)
class _File:
    """The file as read; without ``path`` there is none."""

    path: Path | None
    text: str
    table: Table


def _read_file(path: Path | None, environ: Mapping[str, str]) -> _File:
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is None:
        path = next((place for place in PLACES if _present(place)), None)
    if path is None:
        if f"{PREFIX}BACKEND__ADDRESS" in environ:
            return _File(None, "", {})  # a container may do without a file
        raise ConfigError([_nothing_found()])
    text = _decoded(path, _content(path))
    return _File(path, text, _parsed(path, text))


def _present(path: Path) -> bool:
    """Whether there is something, even something unreadable: to pass over it
    in silence would mean to serve with another file's settings."""
    try:
        return os.path.lexists(path)
    except OSError:
        return True


def _nothing_found() -> Problem:
    looked = ", ".join([f"${CONFIG_VARIABLE}", *map(str, PLACES)])
    lines = "".join(f"\n    {line}" for line in SMALLEST.splitlines())
    return Problem(
        "no configuration file",
        "",
        "",
        f"looked for --config, {looked}",
        f"write these three lines to {PLACES[0]}:{lines}",
    )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        remedy = "name the file with --config, or mend its permissions"
        raise ConfigError([Problem(str(path), "", "", what, remedy)]) from error
    if len(content) > _FILE_MAX:
        what = f"is longer than {_FILE_MAX} bytes"
        raise ConfigError([Problem(str(path), "", "", what, "is it the right one?")])
    return content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        problem = Problem(
            str(path),
            "",
            "",
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
            before.count(b"\n") + 1,
            len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1,
        )
        raise ConfigError([problem]) from error


_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")


def _parsed(path: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Also what tomllib lets through: too many digits, too many brackets.
        match = _TOML_PLACE.fullmatch(str(error))
        what, line, column = match.groups() if match else (str(error), None, None)
        if match and line is None:
            what += " at the end of the file"
            line = str(len(text.splitlines()))
        problem = Problem(
            str(path),
            "not TOML",
            "",
            printable(what),
            _toml_remedy(what),
            int(line or 0),
            int(column or 0),
        )
        raise ConfigError([problem]) from error


def _toml_remedy(what: str) -> str:
    if what == "Cannot overwrite a value":
        return "the key stands there twice: take one of them out"
    if what.startswith("Cannot declare"):
        return "the table stands there twice: put all its keys below the first"
    return 'text stands in quotes, and a table begins with a line like "[listen]"'


def _one_backend(file: Table, variables: _Variables) -> Table:
    """``file`` with one table where a variable sets one of its keys."""
    backends = file.get("backend")
    if "backend" not in variables.table or not isinstance(backends, list):
        return file
    if len(backends) > 1:
        name = next(n for path, n in variables.names.items() if path[0] == "backend")
        what = f"the file has {len(backends)} backends: which one is meant?"
        raise _variable_error(name, "", what, "set it in the file")
    return {**file, "backend": backends[0] if backends else {}}


def _merge(below: Table, above: Table) -> Table:
    """``below`` with what ``above`` says, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value)
        merged[key] = value
    return merged


# The environment.


def _known_variables() -> dict[str, KeyPath]:
    """Every variable by name, with the key that it sets."""
    return {
        PREFIX + "__".join(map(str, path)).upper(): path
        for path in key_paths()
        if path[0] != "rules"
    } | {f"{PREFIX}RULES": ("rules",)}


# What Kubernetes sets in every container for a service named "backstop".
_KUBERNETES = re.compile(
    rf"{PREFIX}(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)"
)


class _Variables:
    """The variables that set a key, from the environment itself or from a file
    that ``..._FILE`` names (a secret that shall not stand in the environment).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._known = _known_variables()
        self.names: dict[KeyPath, str] = {}
        values: dict[str, str] = {}
        problems: list[Problem] = []
        for name in sorted(environ):
            if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
                continue
            try:
                self._take(name, environ, values)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        self.table: Table = _Environment(values)()

    def _take(
        self, name: str, environ: Mapping[str, str], values: dict[str, str]
    ) -> None:
        if name in self._known:
            key, value = name, environ[name]
        elif name.removesuffix(SECRET_SUFFIX) in self._known:
            key = name.removesuffix(SECRET_SUFFIX)
            if key in environ:
                what = f"{key} is set too"
                raise _variable_error(name, "", what, "unset one of them")
            value = _secret(name, environ[name])
        elif _KUBERNETES.fullmatch(name):
            return
        else:
            near = nearest(name, [*self._known, CONFIG_VARIABLE])
            raise _variable_error(name, "", "unknown variable", f"did you mean {near}?")
        values[key.lower()] = value
        self.names[self._known[key]] = name


class _Settings(BaseSettings, Config):
    """The keys, as pydantic-settings wants to have them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", enable_decoding=False
    )


class _Environment(EnvSettingsSource):
    """pydantic-settings' way from variables to tables, on given variables."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        super().__init__(_Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._values


def _secret(name: str, path: str) -> str:
    """A file's text without the line end that editors add."""
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        remedy = "name a file that the front door's user may read"
        raise _variable_error(name, shown(path), what, remedy) from error
    except UnicodeDecodeError as error:
        what = "the file is not UTF-8"
        raise _variable_error(name, shown(path), what, "save it so") from error
    return text.removesuffix("\n").removesuffix("\r")


def _variable_error(name: str, value: str, what: str, remedy: str) -> ConfigError:
    shown_name = printable(name)
    return ConfigError([Problem("environment", shown_name, value, what, remedy)])
