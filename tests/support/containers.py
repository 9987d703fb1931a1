"""What deploy/ and the Dockerfile say of containers, read as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "deploy/compose/compose.yaml"
SIDECAR = ROOT / "deploy/kubernetes/sidecar.yaml"


class Mount(NamedTuple):
    """A volume, or a file beside the compose file (``./name``), in a container."""

    source: str
    target: str
    read_only: bool


def services() -> dict[str, Any]:
    """The services of the compose file."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def mounts(service: dict[str, Any]) -> list[Mount]:
    """Those of one service."""
    found = []
    for text in service["volumes"]:
        source, target, *options = text.split(":")
        found.append(Mount(source, target, options == ["ro"]))
    return found


def image(name: str) -> str:
    """The last value of an instruction of the Dockerfile, joined lines as one."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith(name + " ")]
    return lines[-1].removeprefix(name).strip()


def words(name: str) -> list[str]:
    """The same, of an instruction in its JSON form."""
    found: list[str] = json.loads(image(name))
    return found
