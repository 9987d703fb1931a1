"""Everything that was found on one host, in one value.

Knows: which of the other modules looks for what.  Knows not: what configuration
follows from it (``write``).  Called by ``init`` and ``doctor``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from proxy.look import domains, home, logs, patches, recipients, smtpd, sockets, unheard
from proxy.look.domains import Domains
from proxy.look.environment import environment
from proxy.look.home import Delivery, Home
from proxy.look.recipients import Proposal
from proxy.look.script import Command, commands
from proxy.look.smtpd import Smtpd
from proxy.look.sockets import Listener
from proxy.look.tree import Found, Tree, Unseen
from proxy.qmail.passwd import Table, account

_USUAL_RULES = ("/etc/tcp.smtp.cdb", "/etc/tcprules.d/tcp.smtp.cdb")


@dataclass
class Host:
    """``found`` has all of it in order; ``listening`` is ``None`` where nobody can
    see who listens on port 25; ``rules_named`` has for each listener on port 25 the
    file of tcprules that it names, ``""`` for none."""

    root: str
    home: Home | None = None
    delivery: Delivery | None = None
    smtpd: list[Smtpd] = field(default_factory=list)
    domains: Domains = field(default_factory=Domains)
    patches: list[Found] = field(default_factory=list)
    rules: list[Proposal] = field(default_factory=list)
    log: Found | None = None
    tcprules: str = ""
    rules_named: dict[str, str] = field(default_factory=dict)
    relaying: list[Found] = field(default_factory=list)
    unheard: list[Found] = field(default_factory=list)
    hostname: str = ""
    databytes: str = ""
    certificate: str = ""
    key: str = ""
    users: tuple[str, ...] = ()
    listening: list[Listener] | None = None
    backend_port: int = 2525
    found: list[Found] = field(default_factory=list)
    unseen: list[Unseen] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Whether it is this very machine."""
        return self.root == "/"

    @property
    def front(self) -> list[Smtpd]:
        """Where qmail-smtpd is started for port 25."""
        return [each for each in self.smtpd if each.number == 25]

    @property
    def behind(self) -> Smtpd | None:
        """Where qmail-smtpd stands behind a front door already."""
        return next((each for each in self.smtpd if each.behind), None)

    def has(self, patch: str) -> Found | None:
        """A patch, and where it was seen."""
        return next((each for each in self.patches if each.what == patch), None)


def look(root: str = "/", proc: str = "/proc") -> Host:
    """Look at the machine itself, or at a host's files below ``root``."""
    tree = Tree(root)
    seen = Host(tree.root, unseen=tree.unseen)
    running = sockets.qmail_home(proc) if seen.live else ""
    seen.home = home.find_home(tree, running)
    if seen.home is not None:
        seen.found.append(Found("qmail", seen.home.path, 0, seen.home.why))
        _qmail(tree, seen, seen.home.path, proc)
    if seen.live:
        _live(seen, proc)
    passwd = Table(tree.content("/etc/passwd", 64 << 20) or b"")
    users = ("backstop", "qmaild", "nobody")
    seen.users = tuple(user for user in users if account(passwd, user.encode()))
    return seen


def _qmail(tree: Tree, seen: Host, path: str, proc: str) -> None:
    control = f"{path}/control"
    seen.found += home.control_files(tree, path)
    seen.hostname = tree.line(f"{control}/me")
    seen.databytes = tree.line(f"{control}/databytes")
    if tree.exists(f"{control}/servercert.pem"):
        seen.certificate = f"{control}/servercert.pem"
    scripts = smtpd.scripts(tree)
    started = (command for script in scripts for command in commands(tree, script))
    both = chain(started, smtpd.unit_commands(tree))
    seen.delivery = home.default_delivery(tree, both)
    if seen.delivery is not None:
        kept = (tree.text(f"{control}/defaultdelivery") or "").strip()
        seen.delivery = seen.delivery._replace(sure=seen.delivery.text == kept)
        seen.found.append(seen.delivery.found)
    seen.smtpd = smtpd.find(tree, scripts)
    if seen.live:
        _running(seen, proc)
    for each in seen.smtpd:
        what = f"qmail-smtpd by {each.kind}"
        seen.found.append(Found(what, each.path, each.line, each.words))
    _rules(tree, seen)
    seen.domains = domains.find_domains(tree, path)
    seen.found += seen.domains.found
    programs = {w for each in seen.smtpd for w in each.command if _is_smtpd(w)}
    seen.patches = list(patches.find_patches(tree, path, programs))
    seen.found += seen.patches
    rules = seen.tcprules.removesuffix(".cdb")
    variables = environment(tree, seen.front, rules)
    seen.unheard = unheard.find_unheard(tree, seen.front, rules)
    seen.found += seen.unheard
    inside = _inside(seen, f"{path}/bin/qmail-smtpd")
    _certificate(tree, seen, variables)
    seen.rules = recipients.propose(tree, path, variables, inside, _scripts(seen))
    seen.found += (_proposed(each) for each in seen.rules)
    seen.log = logs.find_log(tree, scripts)
    if seen.log is not None:
        seen.found.append(seen.log)


def _inside(seen: Host, usual: str) -> frozenset[str]:
    """The patches in the qmail-smtpd of every listener on port 25."""
    programs = {w for each in seen.front for w in each.command if _is_smtpd(w)}
    each = [
        {patch.what for patch in seen.patches if patch.path == program}
        for program in programs or {usual}
    ]
    return frozenset(set.intersection(*each))


def _scripts(seen: Host) -> frozenset[str]:
    """Shell scripts that start qmail-smtpd: what they say is a proposal."""
    files = ("xinetd", "inetd", "systemd")
    paths = (each.path for each in seen.front if each.kind not in files)
    return frozenset(path for path in paths if not path.endswith(".service"))


def _running(seen: Host, proc: str) -> None:
    """What runs counts, and what nobody's script tells: started by hand, or by a
    supervisor that is not known here."""
    known = {(each.host, each.number, _rules_of(each)) for each in seen.smtpd}
    for pid in sockets.processes(proc):
        words, path = sockets.words(pid, proc), f"{proc}/{pid}/cmdline"
        each = smtpd.listener(Command(path, 0, tuple(words)))
        if each is not None and not _is_known(each, known):
            known.add((each.host, each.number, _rules_of(each)))
            seen.smtpd.append(each)
        delivery = home.given_delivery(words, path)
        told = seen.delivery.text if seen.delivery else None
        if delivery is not None:
            seen.delivery = delivery
            if delivery.text != told:
                seen.found.append(delivery.found)


def _is_known(each: Smtpd, known: set[tuple[str, int, str]]) -> bool:
    """Other rules than the scripts say count as another listener; where a relative
    file of rules lies is not known of a process."""
    place, rules = (each.host, each.number), _rules_of(each)
    if rules and not rules.startswith("/"):
        return any(place == one[:2] for one in known)
    return (*place, rules) in known


def _certificate(tree: Tree, seen: Host, variables: Mapping[str, Found]) -> None:
    """Of ucspi-ssl and s/qmail, where there is no control/servercert.pem."""
    pair = [variables.get(name) for name in ("CERTFILE", "KEYFILE")]
    there = [each for each in pair if each and tree.exists(each.detail)]
    if len(there) == 2 and not seen.certificate:
        seen.certificate, seen.key = (each.detail for each in there)
        seen.found += there


def _proposed(proposal: Proposal) -> Found:
    found, kind = proposal.found, proposal.keys["type"]
    return found._replace(what=f"recipients for a rule {kind}")


def _is_smtpd(word: str) -> bool:
    return word.startswith("/") and os.path.basename(word).startswith("qmail-smtpd")


def _rules_of(listener: Smtpd) -> str:
    """Its -x; a run script starts in its own directory (supervise(8), runsv(8))."""
    if listener.kind == "tcpsvd":
        return ""  # ipsvd-cdb(8) is another format
    path = listener.options.get("x", "")
    if path.startswith("/") or not path or os.path.basename(listener.path) != "run":
        return path
    if "$" in path:
        return path
    return os.path.normpath(os.path.join(os.path.dirname(listener.path), path))


def _rules(tree: Tree, seen: Host) -> None:
    """tcprules: the file that every listener on port 25 names.  A usual file is used
    only if no listener was found: a listener that names none has none."""
    seen.rules_named = {each.place: _rules_of(each) for each in seen.front}
    named = set(seen.rules_named.values())
    if not seen.front:
        named = set([path for path in _USUAL_RULES if tree.exists(path)][:1])
    if len(named) != 1:
        return
    path = named.pop()
    if not (path.startswith("/") and tree.exists(path)):
        return
    seen.tcprules = path
    seen.found.append(Found("tcprules", path))
    text = path.removesuffix(".cdb")
    if text != path:
        seen.relaying = list(_relaying(tree, text))
        seen.found += seen.relaying


def _relaying(tree: Tree, path: str) -> Iterator[Found]:
    for number, line in tree.lines(path):
        # The address may be of IPv6, so the first ":allow" ends it (tcprules(1)).
        who, allow, variables = line.partition(":allow")
        if allow and ",RELAYCLIENT=" in variables:
            yield Found("may relay", path, number, who or "everybody")


def _live(seen: Host, proc: str) -> None:
    seen.listening = sockets.listeners(25, proc)
    for each in seen.listening or ():
        detail = f"{each.who} listens on {each.address}"
        seen.found.append(Found("port 25", f"{proc}/net/tcp", 0, detail))
    if seen.behind is not None:
        seen.backend_port = seen.behind.number
        return
    while sockets.listeners(seen.backend_port, proc):
        seen.backend_port += 1
