"""What becomes of virtual domains' mail: vpopmail, fastforward, lists, programs.

Knows: virtualdomains, the text of users/assign, dot-qmail conventions, vpopmail's
files.  Knows not: what one recipient gets (:mod:`proxy.qmail.decide` does); this is
about which programs matter here.  Called by ``host``.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.look.tree import Found, Tree
from proxy.qmail.passwd import Table, account

_DOMAINS_MAX = 2000
_SHOWN = 3
_VPOPMAIL_HOMES = ("/home/vpopmail", "/var/vpopmail", "/usr/local/vpopmail")
_VPOPMAIL_STORES = ("mysql", "pgsql", "ldap", "oracle", "sybase")
_LIST = re.compile(r"/(ezmlm-\w+)")


@dataclass
class Domains:
    """Domains by what their ``.qmail-default`` does; ``vpopmail`` and ``lists`` say
    where that is, ``fastforward`` which table it reads."""

    kinds: Counter[str] = field(default_factory=Counter)
    vpopmail: str = ""
    store: str = ""
    fastforward: str = ""
    lists: int = 0
    found: list[Found] = field(default_factory=list)

    @property
    def uses_vpopmail(self) -> bool:
        """Whether vdelivermail decides for any domain."""
        return any(kind.startswith("vdelivermail") for kind in self.kinds)


class _Home(NamedTuple):
    """Where a domain's dot-qmail files are: ``stem`` is what they begin with."""

    path: str
    stem: str


def find_domains(tree: Tree, home: str) -> Domains:
    """Look at every virtual domain, and at ``~alias``."""
    seen = Domains()
    homes = _Homes(tree, home)
    examples: dict[tuple[str, str], list[Found]] = {}
    looked: dict[str, None] = {}
    # The files that are named of each kind, and how many domains have others.
    shown: defaultdict[str, list[str]] = defaultdict(list)
    left: Counter[str] = Counter()
    entries = list(tree.lines(f"{home}/control/virtualdomains"))
    for number, line in entries[:_DOMAINS_MAX]:
        domain, _, prepend = line.partition(":")
        place = homes.of(prepend)
        if place is None:
            continue
        looked[place.path] = None
        kind, found = _default(tree, place)
        seen.kinds[kind] += 1
        where = found or Found("", f"{home}/control/virtualdomains", number)
        if where.path not in shown[kind]:
            if len(shown[kind]) == _SHOWN:
                left[kind] += 1
                continue
            shown[kind].append(where.path)
        alike = examples.setdefault((kind, where.path), [])
        alike.append(where._replace(detail=domain))
    for (kind, _), alike in examples.items():
        first = alike[0]
        names = ", ".join(each.detail for each in alike[:_SHOWN])
        more = f" and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
        what = f"domains: {kind}"
        seen.found.append(Found(what, first.path, first.line, names + more))
    for kind, count in left.items():
        path = f"{home}/control/virtualdomains"
        seen.found.append(Found(f"domains: {kind}", path, 0, f"{count} more"))
    if len(entries) > _DOMAINS_MAX:
        path = f"{home}/control/virtualdomains"
        cut = f"only the first {_DOMAINS_MAX} domains were looked into"
        seen.found.append(Found("domains", path, _DOMAINS_MAX, cut))
    alias = homes.home("alias")
    if alias:
        looked[alias] = None
        seen.found += _alias(tree, alias, seen)
    seen.found += _lists(tree, looked, seen)
    seen.found += _vpopmail(tree, homes, seen)
    return seen


class _Homes:
    """Whose mail a name is: users/assign as text, then passwd."""

    def __init__(self, tree: Tree, home: str) -> None:
        self._passwd = Table(tree.content("/etc/passwd", 64 << 20) or b"")
        self._assigned: dict[str, list[str]] = {}
        for line in (tree.text(f"{home}/users/assign") or "").split("\n"):
            fields = line.split(":")
            if len(fields) >= 7 and line[:1] in "=+":
                self._assigned[fields[0]] = fields

    def home(self, user: str) -> str:
        """A user's home, ``""`` without one."""
        found = account(self._passwd, os.fsencode(user))
        return os.fsdecode(found.home) if found else ""

    def of(self, prepend: str) -> _Home | None:
        """Where ``prepend-anything`` is delivered, as far as text files tell."""
        local = prepend + "-"
        for end in range(len(local), 0, -1):
            fields = self._assigned.get("+" + local[:end])
            if fields:
                return _Home(fields[4], f".qmail{fields[5]}{fields[6]}{local[end:]}")
        if prepend and (fields := self._assigned.get("=" + prepend)):
            return _Home(fields[4], f".qmail{fields[5]}{fields[6]}-")
        parts = prepend.split("-")
        for count in range(len(parts), 0, -1):
            home = self.home("-".join(parts[:count]).lower())
            if home:
                rest = "".join(part + "-" for part in parts[count:])
                return _Home(home, ".qmail-" + rest)
        alias = self.home("alias")
        return _Home(alias, f".qmail-{local}") if prepend and alias else None


def _default(tree: Tree, place: _Home) -> tuple[str, Found | None]:
    """What the last resort of a domain is, and where it stands."""
    path = f"{place.path}/{place.stem}default"
    if tree.text(path) is None:
        return "a dot-qmail file for each address", None
    for number, line in tree.lines(path):
        return kind_of(line), Found("", path, number)
    return "default delivery", Found("", path)


def kind_of(line: str) -> str:
    """What a line of a dot-qmail file does, in words."""
    if line[0] in "./":
        return "catch-all into a mailbox"
    if line[0] != "|":
        return "catch-all by forwarding"
    words = line[1:].replace("'", "").split()
    program = os.path.basename(words[0]) if words else "program"
    if program == "vdelivermail":
        last = words[-1]
        bounces = last in ("bounce-no-mailbox", "delete")
        return f"vdelivermail, {last if bounces else 'catch-all'}"
    return f"program {program}"


def _alias(tree: Tree, alias: str, seen: Domains) -> Iterator[Found]:
    names = tree.names(alias, ".qmail")
    yield Found("~alias", alias, 0, f"{len(names)} dot-qmail files")
    for number, line in tree.lines(f"{alias}/.qmail-default"):
        detail = kind_of(line)
        yield Found("~alias/.qmail-default", f"{alias}/.qmail-default", number, detail)
        if "fastforward" in line:
            tables = [word for word in line.split() if word.endswith(".cdb")]
            seen.fastforward = tables[0] if tables else "/etc/aliases.cdb"
    if tree.exists("/etc/aliases.cdb") and not seen.fastforward:
        unused = "no ~alias/.qmail-default reads it"
        yield Found("aliases.cdb", "/etc/aliases.cdb", 0, unused)
    elif seen.fastforward:
        there = "" if tree.exists(seen.fastforward) else "missing"
        yield Found("fastforward", seen.fastforward, 0, there)


_FILES_MAX = 5000


def _lists(tree: Tree, homes: dict[str, None], seen: Domains) -> Iterator[Found]:
    """ezmlm's links: L/.qmail is ``|/usr/bin/ezmlm-send L`` and the like."""
    looked = 0
    for home in homes:
        first: Found | None = None
        count = 0
        for name in tree.names(home, ".qmail-"):
            looked += 1
            if looked > _FILES_MAX:
                yield Found("ezmlm", home, 0, "not all dot-qmail files were looked at")
                return
            for number, line in tree.lines(f"{home}/{name}"):
                match = _LIST.search(line)
                if match and match[1] == "ezmlm-send":
                    count += 1
                    first = first or Found("ezmlm", f"{home}/{name}", number)
        if first is not None:
            seen.lists += count
            yield first._replace(detail=f"{count} list{'' if count == 1 else 's'}")


def _vpopmail(tree: Tree, homes: _Homes, seen: Domains) -> Iterator[Found]:
    for path in (homes.home("vpopmail"), *_VPOPMAIL_HOMES):
        if path and tree.is_directory(path + "/domains"):
            seen.vpopmail = path
            names = [n for n in tree.names(path + "/domains") if not n.startswith(".")]
            yield Found("vpopmail", path, 0, f"{len(names)} names in its domains")
            break
    if seen.vpopmail:
        for store in _VPOPMAIL_STORES:
            path = f"{seen.vpopmail}/etc/vpopmail.{store}"
            if tree.exists(path):
                seen.store = store
                yield Found("vpopmail's database", path, 0, store)
