"""The direction of imports: the folders know only what lies before them."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).parent

# What each place may import of the project.  Top-level modules are the places
# where everything is put together; nothing below them may import them.
MAY_IMPORT = {
    "system": {"system"},
    "smtp": {"smtp"},
    "qmail": {"qmail", "smtp", "system"},
    "rules": {
        "rules",
        "qmail",
        "smtp",
        "config.rules",
        "config.section",
        "config.values",
        # What programs are told of the client, and what they say.
        "backend.client",
        "backend.ear",
        "backend.ucspi",
    },
    "backend": {"backend", "smtp", "system"},
    "observe": {"observe"},
    "front": {"front", "backend", "rules", "smtp", "observe.events"},
    "config": {"config"},
    "report": {"report", "observe.heavy", "observe.lines"},
    "look": {"look", "qmail"},
}

# The only places for these libraries; "smtp" and "qmail" know none at all.
LIBRARIES = {
    "aiosmtpd": {"front.session"},
    "aiosmtplib": {"backend.channel", "backend.connect"},
    "aiohttp": {"observe.status", "rules.web"},
    "yarl": {"rules.web"},
    "prometheus_client": {"observe.metrics"},
    "ldap": {"rules.directory"},
    "pydantic": {"config", "rules"},
    "pydantic_core": {"config", "rules"},
    "pydantic_settings": {"config"},
    "typer": {"cli", "manpages"},
    "click": {"cli"},
    "rich": {
        "explain",
        "check.command",
        "cli",
        "terminal",
        "report.command",
        "doctor.show",
    },
    "sqlalchemy": {"rules.database"},
    "asyncmy": {"rules.drivers"},
    "asyncpg": {"rules.drivers"},
    "dns": {"doctor.names"},
    "uvloop": {"process.loops"},
    "compression": {"report.sources"},  # the standard library's, from 3.14 on
}

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module
            found.add(node.module)
            if node.module == "proxy":
                found.update(f"proxy.{alias.name}" for alias in node.names)
    return found


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_direction_of_imports(path: Path) -> None:
    name = name_of(path)
    allowed = next((v for k, v in MAY_IMPORT.items() if within(name, k)), None)
    if allowed is None:
        return
    for imported in imports(path):
        if imported.startswith("proxy.") and imported != "proxy.__version__":
            inner = imported.removeprefix("proxy.")
            assert any(within(inner, place) for place in allowed), imported


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_in_their_places(path: Path) -> None:
    name = name_of(path)
    for imported in imports(path):
        top = imported.partition(".")[0]
        if top == "proxy" or top in sys.stdlib_module_names:
            continue
        assert any(within(name, place) for place in LIBRARIES.get(top, ())), imported


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_name_has_its_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module says nothing of itself"
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.name.startswith("_") or ast.get_docstring(node), node.name


def public_methods(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public methods of public classes."""
    tree = ast.parse(path.read_text())
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    return [
        method
        for each in classes
        for method in each.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and not (each.name.startswith("_") or method.name.startswith("_"))
    ]


# Methods that are described where they are asked for: in a class of ours that
# names them (a Protocol, mostly), or in asyncio's.
DESCRIBED = {
    method.name
    for path in MODULES
    for method in public_methods(path)
    if ast.get_docstring(method)
} | {name for name in dir(asyncio.Protocol) if not name.startswith("_")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_method_is_described(path: Path) -> None:
    missing = [m.name for m in public_methods(path) if m.name not in DESCRIBED]
    assert not missing
