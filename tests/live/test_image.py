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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.netspaces import CLIENTS, Wire, wired
from tests.live.process import Served, Settings, serving
from tests.support.backend import FakeQmail
from tests.support.containers import mounts, services
from tests.support.small_host import lay_out
from tests.support.smtp_client import RawClient

ROOT = Path(__file__).parent.parent.parent
TOOLS = ("buildah", "debootstrap", "unshare")
LACKING = [tool for tool in TOOLS if not shutil.which(tool)]
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
COMPILERS = ("usr/bin/gcc", "usr/bin/cc", "usr/bin/as", "usr/bin/make")
MEBIBYTE = 1 << 20

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
    return tmp_path / "host"


# As a container of the compose file: its mounts (source, target, ro or rw; three words
# each), a name for its qmail, its user without any right, and what follows.
COMPOSED = """
root=$1 hosts=$2 count=$3; shift 3
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
exec chroot "$root" setpriv --no-new-privs --bounding-set=-all --inh-caps=-all \\
    --reuid "${1%:*}" --regid "${1#*:}" --clear-groups env -i "${@:2}"
"""


def composed(image: Image, host: Path, work: Path) -> list[str]:
    """The command that starts the service of the compose file, its environment and the
    image's own command behind it."""
    front = services()["backstop"]
    state = work / "state"
    state.mkdir()
    # A new volume has the owner of the image's directory.
    owner = (image.files / "var/lib/backstop").stat()
    os.chown(state, owner.st_uid, owner.st_gid)
    hosts = work / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{CLIENTS[0]} qmail\n")
    places: list[str] = []
    for each in mounts(front):
        source = host / each.target.removeprefix("/host/")
        if not each.target.startswith("/host/"):
            source = state
        places += [str(source), each.target, "ro" if each.read_only else "rw"]
    given = [f"{name}={value}" for name, value in front["environment"].items()]
    limit = ["prlimit", f"--nofile={front['ulimits']['nofile']}"]
    config = image.config
    return [
        *(*limit, "unshare", "--mount", "bash", "-ec", COMPOSED, "bash"),
        *(str(image.files), str(hosts), str(len(places) // 3), *places),
        *(config["User"], *config["Env"], *given),
        *(*config["Entrypoint"], *config["Cmd"]),
    ]


async def as_composed(image: Image, host: Path, tmp_path: Path) -> None:
    (host / "var/qmail/users").mkdir(exist_ok=True)
    with wired() as wire:
        backend = FakeQmail(listener=wire.listening(CLIENTS[0], 2525))
        await backend.start()
        process = await asyncio.create_subprocess_exec(
            *wire.host,
            *composed(image, host, tmp_path),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        served = Served(process, tmp_path / "none")
        try:
            await served.said("serves 0.0.0.0:2525")
            await talk(image, served, wire)
            served.signal(signal.SIGTERM)
            await served.finished()
        finally:
            await served.kill()
            await backend.stop()
    assert len(backend.received) == 1
    assert (tmp_path / "state/history").is_file()


async def talk(image: Image, served: Served, wire: Wire) -> None:
    """Mail, and the health check as the engine would run it."""
    connected = await wire.connect(CLIENTS[1], 2525)
    async with await RawClient.over(connected) as client:
        await client.reply()
        await client.command(b"HELO client.test")
        asked = [b"nobody@example.test", b"alice@example.test"]
        said = await client.deliver(b"a@sender.test", asked, b"x\r\n")
        assert said == [250, 550, 250, 354, 250]
    pid = served.process.pid
    user, group = image.config["User"].split(":")
    inside = ("nsenter", "-t", str(pid), "-m", "-n", "-r", "-S", user, "-G", group)
    health = image.config["Healthcheck"]["Test"][1:]
    assert run(*inside, "env", "-i", *environment_of(pid), *health) == "ready"


def environment_of(process: int) -> list[str]:
    """NAME=value of each variable that it was started with."""
    text = Path(f"/proc/{process}/environ").read_text()
    return [word for word in text.split("\0") if word]


async def test_it_serves_as_its_user_on_a_read_only_root(
    image: Image, host: Path, tmp_path: Path
) -> None:
    """One test: what it builds takes half a minute."""
    holds_what_it_should(image)
    await as_composed(image, host, tmp_path)
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
