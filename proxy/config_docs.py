"""config.example.toml, made from the models: every key, described.

Knows: how a documented TOML file looks.  Knows not: any key.  Run as
``python -m proxy.config_docs > config.example.toml``; a test holds the file
equal to it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from proxy.config.explain import toml_value
from proxy.config.load import SMALLEST
from proxy.config.model import Config, Section, section_at

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
    tables: list[tuple[str, type[Section]]] = []
    for name, field in Config.model_fields.items():
        section = section_at((name,))
        if section is None:
            yield from _key(name, field)
        else:
            tables.append((name, section))
    for name, section in tables:
        yield from _table(name, section)


def _table(name: str, section: type[Section]) -> Iterator[str]:
    yield ""
    yield ""
    yield from _comment(section.__doc__ or "")
    yield f"[[{name}]]" if name == "rules" else f"[{name}]"
    for key, field in section.model_fields.items():
        yield from _key(key, field)


def _key(name: str, field: FieldInfo) -> Iterator[str]:
    yield ""
    yield from _comment(field.description or "")
    if field.is_required():  # only a rule's type, which has one value so far
        yield f'{name} = "qmail"'
    elif field.default is None:
        examples = field.examples or []
        yield from (f"# {name} = {toml_value(value)}" for value in examples)
    else:
        yield f"{name} = {toml_value(field.default)}"


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
