"""``backstop check`` and the start, on hosts with vpopmail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy import assemble, obstacles
from proxy.check.finding import Settings
from proxy.check.vpopmail import check_vpopmail
from proxy.config import Config
from proxy.config.vpopmail import Vpopmail
from tests.support.files import Files
from tests.support.vpopmail_host import (
    HOME,
    account,
    built,
    cdb_accounts,
    own,
    vpopmail_files,
    vpopmail_host,
)


def _sound(files: Files) -> None:
    cdb_accounts(files, [account(b"postmaster")])
    built(files, b"USE_CDB")


def _unknown_extension(files: Files) -> None:
    cdb_accounts(files, [account(b"postmaster")])


def _no_source(files: Files) -> None:
    built(files)


def _two_sources(files: Files) -> None:
    cdb_accounts(files, [account(b"postmaster")])
    own(files, HOME + b"/etc/vpopmail.mysql", b"localhost|0|u|secret|d\n")
    built(files)


def _no_driver(files: Files) -> None:
    own(files, HOME + b"/etc/vpopmail.ldap", b"localhost|389|u|secret|o=x\n")
    built(files)


@pytest.mark.parametrize(
    ("lay_out", "told"),
    [
        (_sound, []),
        (_unknown_extension, ["note qmail_ext: set it"]),
        (_no_source, ["warning source: set it", "nothing found"]),
        (_two_sources, ["warning source: set it", "cdb and mysql found"]),
        (_no_driver, ["warning source: pip install '.[ldap]' in the checkout"]),
    ],
)
def test_what_is_not_known_is_said_once(
    lay_out: Callable[[Files], None], told: list[str]
) -> None:
    files = vpopmail_files()
    files.control(b"virtualdomains", b"v.test:v.test\na.test:a.test\n")
    lay_out(files)
    host = vpopmail_host(files)
    findings = list(check_vpopmail(host, Settings(Config(), {})))
    shown = " ".join(
        f"{found.level} {found.problem.key.rpartition('.')[2]}: {found.problem.remedy}"
        f" {found.problem.what}"
        for found in findings
    )
    assert len(findings) == bool(told)
    for words in told:
        assert words in shown
    assert "secret" not in shown


def test_with_a_database_the_extension_is_looked_at_too() -> None:
    files = vpopmail_files()
    files.control(b"virtualdomains", b"v.test:v.test\n")
    own(files, HOME + b"/etc/vpopmail.pgsql", b"localhost|1|u|secret|d\n")
    host = vpopmail_host(files, usable=frozenset({"pgsql"}))
    (found,) = check_vpopmail(host, Settings(Config(), {}))
    assert found.problem.key == "vpopmail.qmail_ext"


def test_a_source_without_its_packages_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(obstacles, "usable", frozenset)
    problem = obstacles.vpopmail_problem(Config(vpopmail=Vpopmail(source="mysql")))
    assert "asyncmy" in problem
    assert "'.[sql]'" in problem
    for source in ("auto", "cdb"):
        config = Config.model_validate({"vpopmail": {"source": source}})
        assert not obstacles.vpopmail_problem(config)


def test_the_keys_reach_the_decision() -> None:
    keys = Vpopmail(
        source="cdb",
        home="/vpop",
        qmail_ext=True,
        layout="many-domains",
        delete="reject",
        over_quota="defer",
        connections=2,
        timeout=1.5,
    )
    settings = assemble.vpopmail_settings(Config(vpopmail=keys))
    assert settings.source == "cdb"
    assert settings.home == b"/vpop"
    assert settings.qmail_ext is True
    assert settings.layout == "many-domains"
    assert settings.refuse_deleted
    assert settings.over_quota == "defer"
    assert (settings.connections, settings.timeout) == (2, 1.5)
