"""Other places where this host's qmail-smtpd looks recipients up, as rules.

Knows: the files and variables of patches and of qmail-ldap, the tables of ``rules``
that ask the same (docs/coming-from.md).  Knows not: whether such a rule would work
(``init`` tries), how it is written down (``write``).  Called by ``host``.

A rule that only reads files is sure where it is shown that qmail-smtpd reads them,
too.  What starts programs or changes what is done where is proposed only: qmail-smtpd
goes on doing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from proxy.look.tree import Found, Tree

_PROGRAM_MAX = 32 << 20
Keys = dict[str, "str | bool"]


class Proposal(NamedTuple):
    """A table of ``rules``: why, what is to be known of it, and whether it does what
    is done now."""

    found: Found
    keys: Keys
    words: str
    sure: bool


_BOTH = "Who passes must be known to qmail as well."


class _Place(NamedTuple):
    """What all of these look at."""

    tree: Tree
    home: str
    variables: Mapping[str, Found]
    patches: frozenset[str]
    scripts: frozenset[str]

    def there(self, name: str) -> str:
        """The path of a control file, ``""`` without it."""
        path = f"{self.home}/control/{name}"
        return path if self.tree.exists(path) else ""


def propose(
    tree: Tree,
    home: str,
    variables: Mapping[str, Found],
    patches: frozenset[str],
    scripts: frozenset[str],
) -> list[Proposal]:
    """In the order in which they are to be asked, before ``qmail``.

    ``variables`` are qmail-smtpd's, ``patches`` the names of what is in its program,
    ``scripts`` the shell scripts that start it.
    """
    place = _Place(tree, home, variables, patches, scripts)
    return [
        *_badrcptto(place),
        *_validrcptto(place),
        *_goodrcptto(place),
        *_recipients(place),
        *_plugins(place),
        *_rcptcheck(place),
        *_directory(place),
    ]


def _badrcptto(place: _Place) -> Iterator[Proposal]:
    if path := place.there("badrcptto"):
        keys: Keys = {"type": "list", "name": "badrcptto", "file": path}
        words = "Those that get no mail."
        sure = "badrcptto" in place.patches
        yield _used(Found("", path), {**keys, "found": "reject"}, words, sure)


def _used(found: Found, keys: Keys, words: str, sure: bool) -> Proposal:
    """``sure``: it was seen that qmail-smtpd reads that file."""
    if not sure:
        words += " It was not seen that qmail-smtpd reads it. If it does:"
    return Proposal(found, keys, words, sure)


def _validrcptto(place: _Place) -> Iterator[Proposal]:
    """Of two patches, which read alike named files in different ways."""
    keys: Keys = {"type": "cdb", "format": "validrcptto", "found": "pass"}
    if variable := place.variables.get("VALIDRCPTTO_CDB"):
        path = variable.detail
        if path.startswith("/"):
            words = f"qmail-smtpd refuses whom it does not name. {_BOTH}"
            found = variable._replace(detail=f"VALIDRCPTTO_CDB={path}")
            sure = variable.path not in place.scripts
            if not sure:
                words += " A shell script says so; if it is right:"
            yield Proposal(found, {**keys, "file": path}, words, sure)
        return
    text, more = place.there("validrcptto"), place.there("morevalidrcptto.cdb")
    if more or (text and "sagredo" in place.patches):
        keys["format"] = "validrcptto-sagredo"
        files = {"file": more} if more else {}
        files |= {"text": text} if text else {}
        words = f"What they refuse is refused; chkuser does the rest. {_BOTH}"
        sure = "sagredo" in place.patches
        yield _used(Found("", more or text), {**keys, **files}, words, sure)
    elif path := place.there("validrcptto.cdb"):
        words = (
            "VALIDRCPTTO_CDB was not found in qmail-smtpd's environment, so it may not"
            f" be in use, and may be old. {_BOTH}"
        )
        yield Proposal(Found("", path), {**keys, "file": path}, words, False)


def _goodrcptto(place: _Place) -> Iterator[Proposal]:
    """Eben Pratt's patch."""
    text, table = place.there("goodrcptto"), place.there("moregoodrcptto.cdb")
    if text or table:
        keys: Keys = {"type": "cdb", "format": "goodrcptto", "found": "pass"}
        keys |= {"file": table} if table else {}
        keys |= {"text": text} if text else {}
        sure = "goodrcptto" in place.patches
        words = f"Nobody else gets mail. {_BOTH}"
        yield _used(Found("", text or table), keys, words, sure)


def _recipients(place: _Place) -> Iterator[Proposal]:
    """s/qmail's."""
    if path := place.there("recipients"):
        keys: Keys = {"type": "cdb", "format": "recipients", "file": path}
        words = f"s/qmail's qmail-smtpd refuses whom it does not name. {_BOTH}"
        sure = "control/recipients" in place.patches
        yield _used(Found("", path), {**keys, "found": "pass"}, words, sure)


_TWICE = (
    "qmail-smtpd goes on running {0}, for those that are let through. To run {0} here"
    " instead, before the answer to RCPT: take {0} out there, and make this a rule."
)


def _plugins(place: _Place) -> Iterator[Proposal]:
    if path := place.there("smtpplugins"):
        keys: Keys = {"type": "qmail-spp"}
        yield Proposal(Found("", path), keys, _TWICE.format("them"), False)


def _rcptcheck(place: _Place) -> Iterator[Proposal]:
    variable = place.variables.get("RCPTCHECK")
    if variable is None or not variable.detail.startswith("/"):
        return
    keys: Keys = {"type": "rcptcheck", "program": variable.detail}
    if fd4 := place.variables.get("USE_FD4"):
        keys["use_fd4"] = fd4.detail == "1"
    found = variable._replace(detail=f"RCPTCHECK={variable.detail}")
    words = _TWICE.format("it") + " It runs as the front door's own user then."
    yield Proposal(found, {**keys, "found": "pass"}, words, False)


def _directory(place: _Place) -> Iterator[Proposal]:
    """qmail-ldap: its qmail-lspawn finds accounts there."""
    path, tree = place.there("ldapserver"), place.tree
    base = tree.line(f"{place.home}/control/ldapbasedn")
    servers = tree.line(path).split() if path else []
    if not servers:
        return
    url = " ".join(f"ldap://{server}" for server in servers)
    keys: Keys = {"type": "ldap", "url": url}
    if login := tree.line(f"{place.home}/control/ldaplogin"):
        secret = f"{place.home}/control/ldappassword"
        keys |= {"bind_dn": login, "password_file": tree.shown(secret)}
    keys |= {"base": base or "dc=example,dc=org", "ready": "qmail-ldap"}
    program = tree.content(f"{place.home}/bin/qmail-lspawn", _PROGRAM_MAX) or b""
    words = (
        "qmail-ldap's accounts. Without this rule whoever is in the directory alone"
        " would be unknown here; whom it does not have qmail's files may (missing)."
    )
    sure = bool(base) and b"ldapserver" in program
    if not sure:
        words += " It was not seen that qmail-lspawn asks it. If it does:"
    yield Proposal(Found("", path, 1), {**keys, "missing": "pass"}, words, sure)
