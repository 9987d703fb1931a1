"""Compose and Kubernetes files: by their schemas, and that they fit the image, our
configuration, and each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import __version__
from proxy.cli import app
from proxy.config import Config, load, read_address
from tests.support.containers import (
    COMPOSE,
    ROOT,
    SIDECAR,
    container,
    documents,
    image,
    mounts,
    pod,
    services,
    words,
)

USER = 10025
# To become USER, and what is kept then.
RIGHTS = ["DAC_READ_SEARCH", "SETUID", "SETGID"]
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


DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.fault("C5")
def test_the_image_takes_every_extra_of_the_service() -> None:
    """Which it has is an argument, of each stage that asks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = set(project["optional-dependencies"]) - {"dev", "fuzz"}
    assert all(re.search(rf"EXTRAS=\S*\b{name}\b", DOCKERFILE) for name in optional)
    stages = DOCKERFILE.split("\nFROM ")[1:]
    assert len(stages) == 2
    assert all("\nARG EXTRAS\n" in stage for stage in stages)
    assert '".[$EXTRAS]"' in stages[0]


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
    given = {name: str(value) for name, value in front["environment"].items()}
    del given["BACKSTOP_STATUS__TOKEN_FILE"]
    return load(None, {**given, "BACKSTOP_STATUS__TOKEN": "what-the-secret-has"})


def test_compose_takes_the_file() -> None:
    validated(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)
    )


@pytest.mark.fault("C1", "C2", "C3")
def test_compose_runs_the_image_as_it_is(front: dict[str, Any]) -> None:
    assert not {"command", "entrypoint", "healthcheck"} & set(front)
    build = front["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == COMPOSE.parents[2]
    assert "ARG EXTRAS={EXTRAS}\n".format(**build["args"]) in DOCKERFILE
    assert front["image"] == f"qmail-backstop:{__version__}"
    assert front["read_only"] is True
    assert front["security_opt"] == ["no-new-privileges:true"]
    # To give them to another user than root, cap_add is not enough.
    assert front["user"] == "0:0"
    assert front["cap_drop"] == ["ALL"]
    assert front["cap_add"] == RIGHTS
    assert configured(front).process.keep_read_capability is True
    # Images of others are not left to what is newest, either.
    for service in services().values():
        assert not service["image"].endswith(":latest")


@pytest.mark.fault("C1")
def test_compose_mounts_no_single_file(front: dict[str, Any]) -> None:
    """One that is replaced by rename stays the old one in the container, and one that
    is not there becomes a directory."""
    for each in front["volumes"]:
        path = each["source"] if isinstance(each, dict) else each.partition(":")[0]
        if path.startswith((".", "/")):
            assert isinstance(each, dict), path
            assert each["bind"] == {"create_host_path": False}
            assert each["target"] == "/host/etc"


def test_compose_fits_the_configuration(front: dict[str, Any]) -> None:
    config = configured(front)
    assert config.mode == "observe"
    mail, page = front["ports"]
    assert mail == f"25:{port_of(config)}"
    grace = float(front["stop_grace_period"].removesuffix("s"))
    fits(config, grace, {each.target: each.read_only for each in mounts(front)})
    assert "BACKSTOP_QMAIL__DEFAULT_DELIVERY" in front["environment"]
    # The health check asks the status page from within; the host alone sees it.
    host, port = read_address(config.status.address or "")
    assert host == "0.0.0.0"
    assert page == f"127.0.0.1:{port}:{port}"
    assert front["ulimits"]["nofile"] >= 2 * config.limits.connections


@pytest.mark.fault("C3")
def test_compose_gives_the_page_its_password(front: dict[str, Any]) -> None:
    (secret,) = front["secrets"]
    path = front["environment"]["BACKSTOP_STATUS__TOKEN_FILE"]
    assert path == f"/run/secrets/{secret}"
    text = COMPOSE.read_text()
    (file,) = yaml.safe_load(text)["secrets"][secret].values()
    assert f"openssl rand -hex 16 > {file.removeprefix('./')}" in text


def test_compose_leads_to_qmail(front: dict[str, Any]) -> None:
    host, port = configured(front).backend[0].tcp or ("", 0)
    assert host in front["depends_on"]
    assert services()[host]["expose"] == [str(port)]
    assert "ports" not in services()[host], "there is a way around the front door"


def test_compose_shares_what_the_decision_reads(front: dict[str, Any]) -> None:
    ours = mounts(front)
    below = {each.target.removeprefix("/host"): each.source for each in ours}
    assert all(any(f"{p}/".startswith(f"{b}/") for b in below) for p in NEEDED)
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
    made = f"mkdir -p {place} && chown {USER}:{USER} {place}"
    assert image("RUN").endswith(made)


# The accounts of a running container.

PASSWD = "root:x:0:0::/root:/bin/sh\nalias:x:7790:2108::/var/qmail/alias:/bin/true\n"
GROUP = "root:x:0:\nqmail:x:2107:\n"
# What stands for the engine: its words, and the container's files below its place.
ENGINE = """#!/bin/sh
echo "$*" >>"${0%/*}/asked"
for path; do :; done
cat "${0%/*}$path"
"""


class Accounts:
    """A copy of the compose file's directory, with a container's files."""

    def __init__(self, place: Path) -> None:
        self.inside = place / "container"
        (self.inside / "etc").mkdir(parents=True)
        self.engine = self.inside / "engine"
        self.engine.write_text(ENGINE)
        self.engine.chmod(0o755)
        self.script = place / "compose/accounts.sh"
        self.script.parent.mkdir()
        shutil.copy(COMPOSE.parent / "accounts.sh", self.script)
        self.there = self.script.parent / "accounts"

    def change(self, passwd: str = PASSWD, group: str = GROUP) -> None:
        (self.inside / "etc/passwd").write_text(passwd)
        (self.inside / "etc/group").write_text(group)

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.script],
            env={**os.environ, "ENGINE": f"{self.engine} compose"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.there.iterdir()}


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    found = Accounts(tmp_path)
    found.change()
    return found


@pytest.mark.fault("C1")
def test_accounts_are_copied_by_rename(accounts: Accounts) -> None:
    done = accounts.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert accounts.files() == {"passwd": PASSWD, "group": GROUP}
    asked = (accounts.inside / "asked").read_text().splitlines()
    assert asked[1] == "compose exec -T qmail cat /etc/passwd"
    before = (accounts.there / "passwd").open()
    accounts.change(PASSWD + "new:x:2000:100::/home/new:\n")
    assert accounts.run().returncode == 0
    assert "new:" in accounts.files()["passwd"]
    with before:
        assert before.read() == PASSWD, "it was written over while it may be read"
    unchanged = (accounts.there / "passwd").stat().st_ino
    assert accounts.run().returncode == 0
    assert (accounts.there / "passwd").stat().st_ino == unchanged


@pytest.mark.fault("C1")
@pytest.mark.parametrize("passwd", ["", PASSWD[:-5], PASSWD[:26], "root:x:0:0::/:\n"])
def test_half_a_copy_of_the_accounts_replaces_nothing(
    accounts: Accounts, passwd: str
) -> None:
    assert accounts.run().returncode == 0
    accounts.change(passwd)
    done = accounts.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "in the container's /etc/passwd" in done.stderr
    assert accounts.files()["passwd"] == PASSWD
    (accounts.inside / "etc/passwd").unlink()
    assert accounts.run().returncode == 1
    assert accounts.files()["passwd"] == PASSWD


# Kubernetes.


def test_kubernetes_takes_the_file() -> None:
    validated("kubernetes-validate", "--strict", str(SIDECAR))


def placed(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["mountPath"]: each for each in container["volumeMounts"]}


def pod_configuration(tmp_path: Path) -> Config:
    """What the pod is given, with the variable that the secret sets."""
    _, _, path = container("backstop")["args"]
    file = tmp_path / Path(path).name
    file.write_text(documents()["ConfigMap", "backstop"]["data"][file.name])
    token = "a-token-of-the-secret"
    (variable,) = container("backstop")["env"]
    return load(file, {variable["name"]: token})


@pytest.mark.fault("C2")
def test_the_sidecar_fits_the_image_and_the_configuration(tmp_path: Path) -> None:
    spec, ours = pod()["spec"], container("backstop")
    # The entry point stays the image's.
    assert "command" not in ours
    serve, option, path = ours["args"]
    assert (serve, option) == ("serve", "--config")
    (source,) = [v for v in spec["volumes"] if "configMap" in v]
    assert ("ConfigMap", source["configMap"]["name"]) in documents()
    place = placed(ours)[str(Path(path).parent)]
    assert (place["name"], place["readOnly"]) == (source["name"], True)
    config = pod_configuration(tmp_path)
    assert config.mode == "observe"
    assert config.process.keep_read_capability is True
    assert config.status.token
    ports = {port["name"]: port["containerPort"] for port in ours["ports"]}
    assert port_of(config) == ports["smtp"]
    assert config.status.address == f"0.0.0.0:{ports['status']}"
    host, _ = config.backend[0].tcp or ("", 0)
    assert host == "127.0.0.1"
    grace = spec["terminationGracePeriodSeconds"]
    fixed = {path: each.get("readOnly", False) for path, each in placed(ours).items()}
    fits(config, grace, fixed)


@pytest.mark.fault("C3")
def test_the_objects_fit_each_other() -> None:
    all_of_them = documents()
    for (kind, _), each in all_of_them.items():
        if kind != "Namespace":
            assert ("Namespace", each["metadata"]["namespace"]) in all_of_them
    stateful = all_of_them["StatefulSet", "qmail"]["spec"]
    labels = pod()["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == labels
    services = {
        n: d["spec"] for (kind, n), d in all_of_them.items() if kind == "Service"
    }
    # The one that a StatefulSet names has no address of its own.
    assert services[stateful["serviceName"]]["clusterIP"] == "None"
    assert [p["targetPort"] for p in services["smtp"]["ports"]] == ["smtp"]
    assert all(each["selector"] == labels for each in services.values())
    policy = all_of_them["NetworkPolicy", "qmail"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    mail, page = policy["ingress"]
    assert mail == {"ports": [{"port": "smtp"}]}
    assert page["from"]
    assert page["ports"] == [{"port": "status"}]
    spec = pod()["spec"]
    for each in [*spec["initContainers"], *spec["containers"]]:
        assert not each["image"].endswith(":latest")
    assert container("backstop")["image"].endswith(f":{__version__}")


@pytest.mark.fault("C3")
def test_the_page_is_opened_with_a_secret_that_no_file_has() -> None:
    """The pod comes up without, and the page is closed meanwhile."""
    (variable,) = container("backstop")["env"]
    key = variable["valueFrom"]["secretKeyRef"]
    assert key["optional"] is True
    told = f"create secret generic {key['name']}"
    assert told in SIDECAR.read_text()
    assert (
        f'--from-literal={key["key"]}="$(openssl rand -hex 16)"' in SIDECAR.read_text()
    )


def test_the_sidecar_asks_what_is_served() -> None:
    ours = container("backstop")
    ready, alive = (ours[f"{kind}Probe"] for kind in ("readiness", "liveness"))
    assert ready["httpGet"] == {"path": "/readyz", "port": "status"}
    assert alive["httpGet"] == {"path": "/healthz", "port": "status"}


@pytest.mark.fault("C2")
def test_the_sidecar_has_the_right_to_read_and_no_other() -> None:
    context = container("backstop")["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    # To give them to another user than root, "add" is not enough.
    assert (context["runAsUser"], context["runAsGroup"]) == (0, 0)
    assert context["capabilities"] == {"drop": ["ALL"], "add": RIGHTS}
    labels = documents()["Namespace", "mail"]["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "privileged"}


@pytest.mark.fault("C3")
def test_the_sidecar_sees_what_the_decision_reads() -> None:
    """One volume is /host: qmail's parts of it, and its image's accounts."""
    qmail, init = container("qmail"), container("files")
    name = placed(container("backstop"))["/host"]["name"]
    parts = [each for each in placed(qmail).values() if each["name"] == name]
    there = {"/" + each["subPath"]: each["mountPath"] for each in parts}
    assert there.pop("/etc") == "/accounts"
    assert all(path == target for path, target in there.items())
    # What the image has at these places was copied before: all else of /var/qmail is
    # the image's own, and not hidden.
    (whole,) = placed(init)
    assert placed(init)[whole]["name"] == name
    assert init["image"] == qmail["image"]
    *_, script = init["command"]
    assert all(path in script for path in there)
    covered = {*there, "/etc"}
    assert all(any(f"{path}/".startswith(f"{p}/") for p in covered) for path in NEEDED)
