"""Real servers for the tests of rules that ask them; one of each a test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mariadb import MariaDB, mariadb
from tests.support.openldap import OpenLDAP, openldap
from tests.support.postgres import Postgres, postgres

# As the directories of vpopmail and qmail-ldap have them, with numbers from the arc
# for experiments.
SCHEMA = "\n".join(
    f"attributetype ( 1.3.6.1.4.1.4203.666.1.{number} NAME {name}"
    " EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )"
    for number, name in enumerate(
        [
            "'qmailGID'",
            "'qmailUID'",
            "'qmaildomain'",
            "'mailQuota'",
            "'mailMessageStore'",
            "( 'aa' 'aliasAddress' )",
            "( 'di' 'deliveryInstruction' )",
            "'mailAlternateAddress'",
            "'accountStatus'",
        ],
        start=901,
    )
) + (
    "\nobjectclass ( 1.3.6.1.4.1.4203.666.3.901 NAME 'qmailUser' SUP top STRUCTURAL"
    " MAY ( uid $ userPassword $ qmailGID $ qmailUID $ qmaildomain $ mailQuota $"
    " mailMessageStore ) )"
    "\nobjectclass ( 1.3.6.1.4.1.4203.666.3.902 NAME 'valias' SUP top STRUCTURAL"
    " MUST aa MAY di )"
    "\nobjectclass ( 1.3.6.1.4.1.4203.666.3.903 NAME 'mailUser' SUP top STRUCTURAL"
    " MUST mail MAY ( uid $ mailAlternateAddress $ accountStatus ) )"
)


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A running PostgreSQL."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def maria() -> Iterator[MariaDB]:
    """A running MariaDB."""
    with mariadb() as server:
        yield server


@pytest.fixture(scope="module")
def slapd() -> Iterator[OpenLDAP]:
    """A running OpenLDAP that knows the attributes of vpopmail and qmail-ldap."""
    pytest.importorskip("ldap")
    with openldap(SCHEMA) as server:
        yield server
