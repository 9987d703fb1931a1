"""The container image: built on a base that is made here, started, and talked to.

Wants root, debootstrap and buildah, and the network that both need.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.process import Settings, serving
from tests.support.backend import FakeQmail
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


async def test_it_serves_as_its_user_on_a_read_only_root(
    image: Image, host: Path, tmp_path: Path
) -> None:
    """One test: what it builds takes half a minute."""
    holds_what_it_should(image)
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
