"""A host and a backend for the tests that run the command."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from proxy.demo import lay_out
from tests.live.process import Settings, without_uvloop
from tests.support.backend import FakeQmail


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The example host; all files belong to one account, so that it is sound
    for root and for everybody else."""
    root = tmp_path / "host"
    lay_out(root)
    return root


@pytest.fixture
async def fake() -> AsyncIterator[FakeQmail]:
    """A backend that behaves as qmail-smtpd."""
    backend = FakeQmail()
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
def settings(host: Path, fake: FakeQmail) -> Settings:
    """A front door for both."""
    return {"qmail.root": str(host), "backend.address": f"127.0.0.1:{fake.port}"}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """An environment with this event loop."""
    if request.param == "asyncio":
        return without_uvloop(tmp_path / "without-uvloop")
    pytest.importorskip("uvloop")
    return {}


@pytest.fixture
def closed(host: Path) -> Path:
    """The host, with a home that only its owner may search."""
    (host / "home/alice").chmod(0o700)
    return host


@pytest.fixture
def public(closed: Path) -> Iterator[Path]:
    """The host in a directory that everybody may search."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        closed.rename(place / "host")
        adopt(place / "host", place / "host")
        yield place


def adopt(host: Path, *paths: Path) -> None:
    """Give new files of ``host`` to the account that owns the others."""
    owner = host.stat()
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if os.geteuid() == 0:
            os.chown(path, owner.st_uid, owner.st_gid)
