"""The container image: built on a base that is made here, started, and talked to.

Wants root, debootstrap and buildah, and the network that both need.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.netspaces import CLIENTS, Wire, wired
from tests.live.process import Served, Settings, serving
from tests.live.surroundings import status_of
from tests.support.backend import FakeQmail
from tests.support.containers import container, documents, mounts, services
from tests.support.small_host import OWNER, lay_out
from tests.support.smtp_client import RawClient

ROOT = Path(__file__).parent.parent.parent
TOOLS = ("buildah", "debootstrap", "unshare")
LACKING = [tool for tool in TOOLS if not shutil.which(tool)]
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
COMPILERS = ("usr/bin/gcc", "usr/bin/cc", "usr/bin/as", "usr/bin/make")
MEBIBYTE = 1 << 20
TOKEN = "a-token-of-the-test"

pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"apt-get install {' '.join(LACKING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="building an image wants root"),
    pytest.mark.timeout(900),
]

# Starts what follows (a command of ours, whose first three words are Python's) in
# the image's own file system, read-only, as its own user, without capabilities.
INSIDE = """
root=$1 shared=$2 user=$3 path=$4; shift 7
mkdir -p "$root$shared"
mount --bind "$root" "$root"
mount --bind "$shared" "$root$shared"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" env -i PATH="$path" backstop "$@"
"""


def run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Image(NamedTuple):
    """A built image: its files, and what is said of it."""

    files: Path
    base: Path
    config: dict[str, Any]


@pytest.fixture
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    work = tmp_path_factory.mktemp("image")
    base = work / "base"
    packages = "python3,python3-venv,ca-certificates"
    run(
        "debootstrap",
        "--variant=minbase",
        f"--include={packages}",
        "bookworm",
        base,
        MIRROR,
    )
    store = ("--root", work / "store", "--runroot", work / "run")
    buildah = ("buildah", *store, "--storage-driver", "vfs")
    try:
        empty = run(*buildah, "from", "scratch")
        run(*buildah, "copy", "--quiet", empty, base, "/")
        run(*buildah, "commit", "--quiet", empty, "localhost/base:test")
        # This machine's certificates, for registries behind a proxy of its own.
        trust = ("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro")
        run(
            *(*buildah, "bud", "--isolation", "chroot", "--format", "docker", *trust),
            *("--build-arg", "BASE=localhost/base:test"),
            *("--env", f"PIP_CERT={CERTIFICATES}"),
            *("--tag", "localhost/backstop:test", ROOT),
        )
        container = run(*buildah, "from", "localhost/backstop:test")
        said = json.loads(run(*buildah, "inspect", "localhost/backstop:test"))
        files = Path(run(*buildah, "mount", container))
        yield Image(files, base, said["Docker"]["config"])
    finally:
        run(*buildah, "rm", "--all")
        run(*buildah, "rmi", "--all", "--force")
        shutil.rmtree(work, ignore_errors=True)


def size(directory: Path) -> int:
    """Bytes of the files below it."""
    return int(run("du", "-sxb", directory).split()[0])


def holds_what_it_should(image: Image) -> None:
    assert size(image.files) - size(image.base) <= 120 * MEBIBYTE
    for name in COMPILERS:
        assert not (image.files / name).exists()
    assert not list((image.files / "opt/backstop/bin").glob("pip*"))
    config = image.config
    assert (config["Entrypoint"], config["Cmd"]) == (["backstop"], ["serve"])
    assert config["User"] == "10025:10025"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "backstop", "ready"]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Where everybody may look, as on a host."""
    lay_out(tmp_path)
    tmp_path.chmod(0o755)
    found = tmp_path / "host"
    # As most distributions make them: closed to strangers.
    for name in ("home/new", "var/qmail/users", "var/qmail/queue"):
        (found / name).mkdir()
    os.chown(found / "home/new", OWNER, OWNER)
    for name in ("alice", "new"):
        (found / "home" / name).chmod(0o700)
    return found


# As a container: its mounts (source, target, ro or rw; three words each), the names of
# other containers, a user with the rights that are added and no others, what follows.
CONTAINED = """
root=$1 hosts=$2 rights=$3 count=$4; shift 4
mount --bind "$root" "$root"
while [ "$count" -gt 0 ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"
  else mkdir -p "$root${2%/*}"; touch "$root$2"; fi
  mount --bind "$1" "$root$2"
  mount -o "remount,bind,$3" "$root$2"
  shift 3; count=$((count - 1))
done
mount --bind "$hosts" "$root/etc/hosts"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --no-new-privs --bounding-set="-all$rights" \\
    --inh-caps=-all --reuid "${1%:*}" --regid "${1#*:}" --clear-groups env -i "${@:2}"
"""


class Container(NamedTuple):
    """What an engine is told of it."""

    user: str
    rights: list[str]
    places: list[tuple[Path, str, bool]]
    environment: dict[str, str]
    arguments: list[str]

    def command(self, image: Image, hosts: Path) -> list[str]:
        """What starts it: the image's own words, and its environment and arguments."""
        rights = "".join(f",+{right.lower()}" for right in self.rights)
        mounted: list[str] = []
        for source, target, fixed in self.places:
            mounted += [str(source), target, "ro" if fixed else "rw"]
        given = [f"{name}={value}" for name, value in self.environment.items()]
        config = image.config
        return [
            *("unshare", "--mount", "bash", "-ec", CONTAINED, "bash"),
            *(str(image.files), str(hosts), rights, str(len(self.places)), *mounted),
            *(self.user, *config["Env"], *given),
            *(*config["Entrypoint"], *(self.arguments or config["Cmd"])),
        ]


def of_compose(image: Image, host: Path, work: Path) -> Container:
    """The front door of the compose file, with the volumes that qmail has filled."""
    front = services()["backstop"]
    state, token = work / "state", work / "status-token"
    state.mkdir()
    # A new volume has the owner of the image's directory.
    owner = (image.files / "var/lib/backstop").stat()
    os.chown(state, owner.st_uid, owner.st_gid)
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    places = [(token, front["environment"]["BACKSTOP_STATUS__TOKEN_FILE"], True)]
    for each in mounts(front):
        below = host / each.target.removeprefix("/host/")
        source = below if each.target.startswith("/host/") else state
        places.append((source, each.target, each.read_only))
    return Container(front["user"], front["cap_add"], places, front["environment"], [])


def of_pod(image: Image, qmail: Path, work: Path) -> Container:
    """The front door of the Kubernetes file, with a volume that was empty before the
    pod's first container; ``qmail`` is that one's image."""
    volume, given = work / "volume", work / "given"
    volume.mkdir()
    *shell, script = container("files")["command"]
    for _ in range(2):  # a pod is started again, too
        files = ("unshare", "--mount", "sh", "-ec", FILES, "sh", qmail, volume)
        run(*files, *shell, script)
    ours = container("backstop")
    context = ours["securityContext"]
    given.mkdir()
    for name, text in documents()["ConfigMap", "backstop"]["data"].items():
        (given / name).write_text(text)
    sources = {"qmail": volume, "configuration": given}
    places = [
        (sources[each["name"]], each["mountPath"], each.get("readOnly", False))
        for each in ours["volumeMounts"]
    ]
    (variable,) = ours["env"]
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    rights = context["capabilities"]["add"]
    return Container(user, rights, places, {variable["name"]: TOKEN}, ours["args"])


# Runs what follows in an image, with an empty volume.
FILES = """
mkdir -p "$1/volume"
mount --bind "$2" "$1/volume"
root=$1; shift 2
exec chroot "$root" "$@"
"""


def as_an_image(base: Path, host: Path) -> Path:
    """``base`` with the files of a qmail host: its accounts and homes are there before
    any volume."""
    shutil.copytree(host, base, dirs_exist_ok=True, symlinks=True)
    for source in host.rglob("*"):
        status = source.lstat()
        os.chown(base / source.relative_to(host), status.st_uid, status.st_gid)
    return base


@contextlib.asynccontextmanager
async def contained(
    image: Image, run_as: Container, wire: Wire, work: Path
) -> AsyncIterator[Served]:
    hosts = work / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{CLIENTS[0]} qmail\n")
    limit = ["prlimit", f"--nofile={services()['backstop']['ulimits']['nofile']}"]
    process = await asyncio.create_subprocess_exec(
        *(*wire.host, *limit, *run_as.command(image, hosts)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    served = Served(process, work / "none")
    try:
        await served.said("serves 0.0.0.0:2525")
        yield served
        served.signal(signal.SIGTERM)
        await served.finished()
    finally:
        await served.kill()


ASKED = (b"alice@example.test", b"new@example.test", b"nobody@example.test")


async def talk(wire: Wire) -> list[int]:
    """One message to all of these."""
    connected = await wire.connect(CLIENTS[1], 2525)
    async with await RawClient.over(connected) as client:
        await client.reply()
        await client.command(b"HELO client.test")
        return await client.deliver(b"a@sender.test", list(ASKED), b"x\r\n")


def add_account(accounts: Path) -> None:
    """By rename, as accounts.sh and most programs that change it do."""
    rows = accounts.read_text()
    fresh = accounts.with_name(".passwd.new")
    fresh.write_text(rows + rows.splitlines()[0].replace("alice", "new") + "\n")
    fresh.rename(accounts)


async def holds_up(
    image: Image, run_as: Container, wire: Wire, work: Path, accounts: Path
) -> None:
    """It serves with the rights that it is given, and sees what happens to files."""
    checked = run_as._replace(arguments=["check", *run_as.arguments[1:]])
    async with contained(image, run_as, wire, work) as served:
        # Observe mode: nobody is refused, and it is said who would be.
        assert await talk(wire) == [250, 250, 250, 250, 354, 250]
        for name in ("new", "nobody"):
            line = await served.said(f"recipient={name}@example.test")
            assert "observed=reject" in line
        status = status_of(served.process.pid)
        assert status["Uid"].split() == ["10025"] * 4
        assert int(status["CapEff"], 16) == 1 << 2  # CAP_DAC_READ_SEARCH
        run(*within(image, served.process.pid, "0", "0"))
        # The page, for who has the password.
        inside = ("nsenter", "-t", str(served.process.pid), "-n")
        assert "403" in run(*inside, "curl", "-si", "http://127.0.0.1:8025/")
        page = ("curl", "-siH", f"Authorization: Bearer {TOKEN}")
        assert "200 OK" in run(*inside, *page, "http://127.0.0.1:8025/")
        run(*wire.host, *checked.command(image, work / "hosts"))
    enforced = {**run_as.environment, "BACKSTOP_MODE": "enforce"}
    async with contained(
        image, run_as._replace(environment=enforced), wire, work
    ) as served:
        # alice's home is closed to strangers.
        assert await talk(wire) == [250, 250, 550, 550, 354, 250]
        add_account(accounts)
        assert await talk(wire) == [250, 250, 250, 550, 354, 250]


async def as_composed(image: Image, host: Path, tmp_path: Path) -> None:
    with wired() as wire:
        backend = FakeQmail(listener=wire.listening(CLIENTS[0], 2525))
        await backend.start()
        try:
            run_as = of_compose(image, host, tmp_path)
            await holds_up(image, run_as, wire, tmp_path, host / "etc/passwd")
        finally:
            await backend.stop()
    assert len(backend.received) == 3
    assert (tmp_path / "state/history").is_file()


async def as_a_pod(image: Image, host: Path, tmp_path: Path) -> None:
    with wired() as wire:
        backend = FakeQmail(listener=wire.behind(2526))
        await backend.start()
        try:
            run_as = of_pod(image, as_an_image(image.base, host), tmp_path)
            accounts = tmp_path / "volume/etc/passwd"
            await holds_up(image, run_as, wire, tmp_path, accounts)
        finally:
            await backend.stop()
    assert len(backend.received) == 3


def within(image: Image, pid: int, user: str, group: str) -> list[str]:
    """The health check, as the engine would run it."""
    inside = ("nsenter", "-t", str(pid), "-m", "-n", "-r", "-S", user, "-G", group)
    health = image.config["Healthcheck"]["Test"][1:]
    return [*inside, "env", "-i", *environment_of(pid), *health]


def environment_of(process: int) -> list[str]:
    """NAME=value of each variable that it was started with."""
    text = Path(f"/proc/{process}/environ").read_text()
    return [word for word in text.split("\0") if word]


@pytest.mark.fault("C1", "C2", "C3")
async def test_it_serves_as_its_user_on_a_read_only_root(
    image: Image, host: Path, tmp_path: Path
) -> None:
    """One test: what it builds takes half a minute."""
    holds_what_it_should(image)
    await as_a_pod(image, host, tmp_path)
    await as_composed(image, host, tmp_path)
    (host / "home/alice").chmod(0o755)
    fake = FakeQmail()
    await fake.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(fake.stop)
        settings: Settings = {
            "qmail.root": str(host),
            "qmail.local_ips": ["192.0.2.1"],
            "backend.address": f"127.0.0.1:{fake.port}",
        }
        config = image.config
        path = next(e[5:] for e in config["Env"] if e.startswith("PATH="))
        within = ("unshare", "--mount", "sh", "-ec", INSIDE, "sh")
        where = (str(image.files), str(tmp_path), config["User"], path)
        async with serving(tmp_path, settings, within=(*within, *where)) as served:
            ps = ("ps", "-o", "ruid=,euid=,suid=", str(served.process.pid))
            assert run(*ps).split() == ["10025"] * 3
            assert await served.get("/readyz") == (200, "ready\n")
            async with await RawClient.connect(served.port) as client:
                await client.reply()
                await client.send(
                    b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<nobody@example.test>\r\n"
                    b"RCPT TO:<alice@example.test>\r\nDATA\r\n"
                )
                said = [await client.code() for _ in range(4)]
                assert said == [250, 550, 250, 354]
                await client.send(b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n")
                assert [await client.code() for _ in range(2)] == [250, 221]
        assert len(fake.received) == 1
        assert fake.received[0].message.endswith(b"Subject: x\r\n\r\nhello\r\n")
