"""``backstop ready`` against a service, with a status page and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.process import Served, run, serving, write_config
from tests.support.ports import own_port
from tests.support.small_host import lay_out


@pytest.fixture
def host(tmp_path: Path) -> str:
    lay_out(tmp_path)
    return str(tmp_path / "host")


async def asked(served: Served, directory: Path, *, page: bool) -> tuple[int, str, str]:
    """What the command says, given where the service listens."""
    status = served.status.removeprefix("http://").rstrip("/") if page else None
    listen = [f"127.0.0.1:{served.port}"]
    file = write_config(
        directory / f"asked-{page}.toml",
        {"listen.addresses": listen, "status.address": status},
    )
    return await run("ready", "-c", str(file))


@pytest.mark.parametrize("page", [True, False])
async def test_ready(host: str, tmp_path: Path, page: bool) -> None:
    settings = {
        "qmail.root": host,
        "listen.addresses": [f"127.0.0.1:{own_port()}"],
        "status.address": f"127.0.0.1:{own_port()}",
    }
    async with serving(tmp_path, settings) as served:
        code, out, err = await asked(served, tmp_path, page=page)
        assert (code, err) == (0, "")
        assert out == "ready\n" if page else out.startswith("220 mx.example.test")
    code, out, err = await asked(served, tmp_path, page=page)
    assert (code, err) == (1, "")
    assert "refused" in out


async def test_a_bad_configuration(tmp_path: Path) -> None:
    file = write_config(tmp_path / "bad.toml", {"listen.addresses": ["nowhere"]})
    code, out, err = await run("ready", "-c", str(file))
    assert (code, out) == (2, "")
    assert "listen.addresses" in err
