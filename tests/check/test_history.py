"""``backstop check`` tells whether the status page's numbers can be kept."""

from __future__ import annotations

from pathlib import Path

from proxy.check.command import findings
from proxy.check.finding import WARNING
from proxy.config import load
from tests.live.surroundings import wants_root
from tests.support.small_host import lay_out

ROOT = {"BACKSTOP_PROCESS__ALLOW_ROOT": "true"}


def told(
    tmp_path: Path, path: Path, env: dict[str, str], status: str = ""
) -> list[str]:
    """What is said of the key."""
    config = tmp_path / "config.toml"
    if not config.exists():
        lay_out(tmp_path)
    status = status or 'address = "127.0.0.1:8025"\n'
    text = config.read_text().partition("[status]")[0]
    config.write_text(f'{text}\n[status]\nhistory = "{path}"\n{status}')
    return [
        found.problem.what
        for found in findings(load(config, env), env)
        if found.problem.key == "status.history" and found.level == WARNING
    ]


def test_each_trouble(tmp_path: Path) -> None:
    path = tmp_path / "history"
    assert told(tmp_path, path, ROOT) == []
    (line,) = told(tmp_path, path, ROOT, "# none\n")
    assert line == "there is no page whose numbers could be kept"
    (line,) = told(tmp_path, tmp_path / "gone/history", ROOT)
    assert line == f"{tmp_path}/gone is no directory"
    path.write_text("{")
    (line,) = told(tmp_path, path, ROOT)
    assert line == f"{path} is damaged (not JSON)"


def test_it_is_the_run_user_that_has_to_write(tmp_path: Path) -> None:
    wants_root()
    place = tmp_path / "state"
    place.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    user = {"BACKSTOP_PROCESS__USER": "nobody"}
    (line,) = told(tmp_path, place / "history", user)
    assert line == f"{place} cannot be written to by the front door's user"
    place.chmod(0o777)
    assert told(tmp_path, place / "history", user) == []
