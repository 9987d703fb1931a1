"""config.example.toml, made from the models: every key, described.

Knows: how a documented TOML file looks.  Knows not: any key.  Run as
``python -m proxy.config_docs > config.example.toml``; a test holds the file
equal to it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from proxy.config.explain import toml_value
from proxy.config.keys import Key, keys_of, section_at
from proxy.config.model import Config
from proxy.config.rules import settings_of, shipped_types
from proxy.config.section import Section
from proxy.config.sources import SMALLEST

_WIDTH = 78

_HEAD = """\
qmail-backstop: every key, with its default.

Read from --config FILE, else $BACKSTOP_CONFIG, else /etc/backstop/config.toml, \
else ./config.toml. A key that is left out has its default, so that three lines \
are a whole configuration:
"""

_ENVIRONMENT = """\
Every key can also be set by an environment variable, which wins: \
limits.connections is BACKSTOP_LIMITS__CONNECTIONS, lists stand between commas, and \
rules are JSON. BACKSTOP_..._FILE names a file that has the value, for secrets.

Durations are in seconds, sizes in bytes. "backstop check" tells whether all is \
well; the service reads the file anew on HUP.
"""


def example() -> str:
    """The whole text of config.example.toml."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from _comment(_HEAD)
    yield "#"
    yield from (f"#     {line}" for line in SMALLEST.splitlines())
    yield "#"
    yield from _comment(_ENVIRONMENT)
    for key in keys_of(Config):
        yield from _key(key)
    for name in Config.model_fields:
        section = section_at((name,))
        if section is not None:
            yield from _table(name, section)
        if name == "rules":
            for kind in shipped_types()[1:]:
                yield from map(_commented, _rule(kind))


def _table(name: str, section: type[Section]) -> Iterator[str]:
    yield ""
    yield ""
    yield from _comment(section.__doc__ or "")
    yield f"[[{name}]]" if name == "rules" else f"[{name}]"
    for key in keys_of(section):
        yield from _key(key)


def _rule(kind: str) -> Iterator[str]:
    """A rule of another type than the default's."""
    yield ""
    section = settings_of(kind)
    yield from _comment(section.__doc__ or "")
    yield "[[rules]]"
    for key in keys_of(section):
        yield from [f'type = "{kind}"'] if key.name == "type" else _key(key)


def _commented(line: str) -> str:
    return line if not line or line.startswith("#") else f"# {line}"


def _key(key: Key) -> Iterator[str]:
    yield ""
    yield from _comment(key.description)
    if key.required:
        value = key.examples[0] if key.examples else "qmail"
        yield f"{key.name} = {toml_value(value)}"
    elif key.default is None:
        yield from (f"# {key.name} = {toml_value(value)}" for value in key.examples)
    else:
        yield f"{key.name} = {toml_value(key.default)}"


def _comment(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield "#"
        words = " ".join(paragraph.split())
        wrapped = textwrap.wrap(
            words, _WIDTH - 2, break_long_words=False, break_on_hyphens=False
        )
        yield from (f"# {line}" for line in wrapped)


if __name__ == "__main__":
    print(example(), end="")
