"""Compose and Kubernetes files: by their schemas, and that they fit the image, our
configuration, and each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli import app
from proxy.config import Config, load
from tests.support.containers import COMPOSE, SIDECAR, image, mounts, services, words

USER = 10025
# Below qmail.root, whatever qmail's decision looks at on any host.
NEEDED = (
    *("/etc/passwd", "/etc/group", "/home"),
    *("/var/qmail/control", "/var/qmail/users", "/var/qmail/alias"),
)


def validated(*command: str) -> None:
    tool = Path(sys.executable).parent / command[0]
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> set[str]:
    return {each.name or each.callback.__name__ for each in app.registered_commands}  # type: ignore[union-attr]


def port_of(config: Config) -> int:
    (listening,) = config.listen.sockets
    assert listening.host == "0.0.0.0"
    assert listening.port >= 1024, "it has no right to bind lower ones"
    return listening.port


def fits(config: Config, grace: float, targets: dict[str, bool]) -> None:
    """What holds for both: ``targets`` are mounts, with whether they are read-only."""
    assert config.qmail.root == "/host"
    assert config.qmail.local_ips, "the container's own are not the host's"
    assert grace > config.shutdown_grace
    inside = [fixed for path, fixed in targets.items() if path.startswith("/host")]
    assert inside
    assert all(inside)


def test_the_image() -> None:
    assert image("USER") == f"{USER}:{USER}"
    assert words("ENTRYPOINT") == ["backstop"]
    assert words("CMD") == ["serve"]
    _, _, health = image("HEALTHCHECK").partition("CMD ")
    assert yaml.safe_load(health) == ["backstop", "ready"]
    assert {"serve", "ready"} <= commands()


# Compose.


@pytest.fixture
def front() -> dict[str, Any]:
    found: dict[str, Any] = services()["backstop"]
    return found


def configured(front: dict[str, Any]) -> Config:
    return load(None, {name: str(v) for name, v in front["environment"].items()})


def test_compose_takes_the_file() -> None:
    validated(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)
    )


def test_compose_runs_the_image_as_it_is(front: dict[str, Any]) -> None:
    assert not {"command", "entrypoint", "user", "healthcheck"} & set(front)
    assert (COMPOSE.parent / front["build"]).resolve() == COMPOSE.parents[2]
    assert front["read_only"] is True
    assert front["cap_drop"] == ["ALL"]
    assert front["security_opt"] == ["no-new-privileges:true"]


def test_compose_fits_the_configuration(front: dict[str, Any]) -> None:
    config = configured(front)
    assert front["ports"] == [f"25:{port_of(config)}"]
    grace = float(front["stop_grace_period"].removesuffix("s"))
    fits(config, grace, {each.target: each.read_only for each in mounts(front)})
    # The health check asks the status page from within.
    assert config.status.address
    assert front["ulimits"]["nofile"] >= 2 * config.limits.connections


def test_compose_leads_to_qmail(front: dict[str, Any]) -> None:
    host, port = configured(front).backend[0].tcp or ("", 0)
    assert host in front["depends_on"]
    assert services()[host]["expose"] == [str(port)]
    assert "ports" not in services()[host], "there is a way around the front door"


def test_compose_shares_what_the_decision_reads(front: dict[str, Any]) -> None:
    ours = mounts(front)
    below = {each.target.removeprefix("/host"): each.source for each in ours}
    assert set(NEEDED) <= set(below)
    for each in mounts(services()["qmail"]):
        assert below[each.target] == each.source
    named = {each.source for each in ours if not each.source.startswith(".")}
    assert named <= set(yaml.safe_load(COMPOSE.read_text())["volumes"])


def test_compose_keeps_the_history_where_the_user_may_write(
    front: dict[str, Any],
) -> None:
    path = configured(front).status.history
    assert path is not None
    place = str(Path(path).parent)
    (state,) = [each for each in mounts(front) if not each.read_only]
    assert state.target == place
    # A new volume has the owner of the image's directory.
    assert image("RUN") == f"mkdir -p {place} && chown {USER}:{USER} {place}"


# Kubernetes.


@pytest.fixture
def documents() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    first, pod, service = yaml.safe_load_all(SIDECAR.read_text())
    return first, pod, service


def test_kubernetes_takes_the_file() -> None:
    validated("kubernetes-validate", "--strict", str(SIDECAR))


Documents = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def placed(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["mountPath"]: each for each in container["volumeMounts"]}


def test_the_sidecar_fits_the_image_and_the_configuration(
    documents: Documents, tmp_path: Path
) -> None:
    first, pod, service = documents
    spec = pod["spec"]["template"]["spec"]
    _, ours = spec["containers"]
    # The entry point stays the image's.
    assert "command" not in ours
    serve, option, path = ours["args"]
    assert (serve, option) == ("serve", "--config")
    (source,) = [v for v in spec["volumes"] if "configMap" in v]
    assert source["configMap"]["name"] == first["metadata"]["name"]
    place = placed(ours)[str(Path(path).parent)]
    assert (place["name"], place["readOnly"]) == (source["name"], True)
    file = tmp_path / Path(path).name
    file.write_text(first["data"][file.name])
    config = load(file, {})
    ports = {port["name"]: port["containerPort"] for port in ours["ports"]}
    assert port_of(config) == ports["smtp"]
    assert config.status.address == f"0.0.0.0:{ports['status']}"
    assert [p["targetPort"] for p in service["spec"]["ports"]] == ["smtp"]
    labels = pod["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["spec"]["selector"]["matchLabels"]
    assert labels == service["spec"]["selector"]
    host, _ = config.backend[0].tcp or ("", 0)
    assert host == "127.0.0.1"
    grace = spec["terminationGracePeriodSeconds"]
    fixed = {path: each.get("readOnly", False) for path, each in placed(ours).items()}
    fits(config, grace, fixed)


def test_the_sidecar_asks_what_is_served(documents: Documents) -> None:
    _, ours = documents[1]["spec"]["template"]["spec"]["containers"]
    ready, alive = (ours[f"{kind}Probe"] for kind in ("readiness", "liveness"))
    assert ready["httpGet"] == {"path": "/readyz", "port": "status"}
    assert alive["httpGet"] == {"path": "/healthz", "port": "status"}


def test_the_sidecar_has_no_rights(documents: Documents) -> None:
    _, ours = documents[1]["spec"]["template"]["spec"]["containers"]
    context = ours["securityContext"]
    assert context["runAsUser"] == USER
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_sidecar_sees_what_the_decision_reads(documents: Documents) -> None:
    """One volume is /host: qmail's parts of it, and its image's accounts."""
    spec = documents[1]["spec"]["template"]["spec"]
    qmail, ours = spec["containers"]
    (init,) = spec["initContainers"]
    name = placed(ours)["/host"]["name"]
    parts = [each for each in placed(qmail).values() if each["name"] == name]
    there = {"/" + each["subPath"] for each in parts}
    assert there == {each["mountPath"] for each in parts}
    (whole,) = placed(init)
    assert placed(init)[whole]["name"] == name
    assert init["image"] == qmail["image"]
    shell, option, script = init["command"]
    assert (shell, option) == ("sh", "-c")
    copies = f"mkdir -p {whole}/etc && cp /etc/passwd /etc/group {whole}/etc/"
    assert script == copies
    there |= {"/etc/passwd", "/etc/group"}
    assert all(any(f"{path}/".startswith(f"{p}/") for p in there) for path in NEEDED)
