"""config.example.toml, made from the models: every key, described.

Knows: how a documented TOML file looks.  Knows not: any key.  Run as
``python -m proxy.config.docs > config.example.toml``; a test holds the file
equal to it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from proxy.config.explain import toml_value
from proxy.config.keys import Key, keys_of, section_at
from proxy.config.model import Config
from proxy.config.rules import (
    RemoteKeys,
    RuleKeys,
    SourceKeys,
    settings_of,
    shipped_types,
)
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


def _table(name: str, section: type[Section]) -> Iterator[str]:
    yield ""
    yield ""
    yield from _comment(section.__doc__ or "")
    if name == "rules":
        yield from _other_rules()
    yield f"[[{name}]]" if name == "rules" else f"[{name}]"
    for key in keys_of(section):
        yield from _key(key)


_OTHERS = """\
Other sources than qmail are asked before it, or instead of it: docs/rules.md. To use \
one, take the # away from the lines that begin with #[[rules]], and from those below \
that have no blank behind it.

Every source has these keys besides its own:
"""


def _other_rules() -> Iterator[str]:
    """Tables of all types but the default's, to be uncommented."""
    kinds = [settings_of(kind) for kind in shipped_types()[1:]]
    yield "#"
    yield from _comment(_OTHERS)
    yield from _shared(SourceKeys, RuleKeys)
    if any(issubclass(kind, RemoteKeys) for kind in kinds):
        yield ""
        yield from _comment("And those that have to be waited for:")
        yield from _shared(RemoteKeys, SourceKeys)
    for kind, section in zip(shipped_types()[1:], kinds, strict=True):
        yield from _rule(kind, section)
    yield ""
    yield from _comment("The host's own files.")


def _shared(keys: type[Section], but: type[Section]) -> Iterator[str]:
    for key in keys_of(keys):
        if key.name not in but.model_fields:
            yield from _key(key, "# ")


def _rule(kind: str, section: type[RuleKeys]) -> Iterator[str]:
    """Its table; what it has like all others is not said again."""
    yield ""
    yield from _comment(section.__doc__ or "")
    yield "#[[rules]]"
    base = RemoteKeys if issubclass(section, RemoteKeys) else SourceKeys
    for key in keys_of(section):
        shared = base.model_fields.get(key.name)
        if key.name == "type":
            yield f'#type = "{kind}"'
        elif key.name in section.EXAMPLE:
            yield from _key(key._replace(default=section.EXAMPLE[key.name]), "#")
        elif shared is None or shared.description != key.description:
            yield from _key(key, "#")


def _key(key: Key, before: str = "") -> Iterator[str]:
    """A key with its default, behind ``before``."""
    yield ""
    yield from _comment(key.description)
    if key.required:
        value = key.examples[0] if key.examples else "qmail"
        yield f"{before}{key.name} = {toml_value(value)}"
    elif key.default is None:
        yield from (f"# {key.name} = {toml_value(value)}" for value in key.examples)
    else:
        yield f"{before}{key.name} = {toml_value(key.default)}"


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
