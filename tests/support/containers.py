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
    for each in service["volumes"]:
        if isinstance(each, dict):
            fixed = bool(each.get("read_only"))
            found.append(Mount(each["source"], each["target"], fixed))
        else:
            source, target, *options = each.split(":")
            found.append(Mount(source, target, options == ["ro"]))
    return found


def documents() -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of the Kubernetes file, by kind and name."""
    found = list(yaml.safe_load_all(SIDECAR.read_text()))
    named = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(named) == len(found)
    return named


def pod() -> dict[str, Any]:
    """The pod of the Kubernetes file."""
    found: dict[str, Any] = documents()["StatefulSet", "qmail"]["spec"]["template"]
    return found


def container(name: str) -> dict[str, Any]:
    """One of its containers, be it for the start only."""
    spec = pod()["spec"]
    all_of_them = [*spec["initContainers"], *spec["containers"]]
    (found,) = [each for each in all_of_them if each["name"] == name]
    return dict(found)


def image(name: str) -> str:
    """The last value of an instruction of the Dockerfile, joined lines as one."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith(name + " ")]
    return lines[-1].removeprefix(name).strip()


def words(name: str) -> list[str]:
    """The same, of an instruction in its JSON form."""
    found: list[str] = json.loads(image(name))
    return found
