"""What lets clients relay, or turns them away, where no tcprules say it: it goes on
in front of qmail-smtpd, and the front door does not hear of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proxy.look.environment import given
from proxy.look.smtpd import Smtpd
from proxy.look.tree import Found, Tree

# By what the names of programs in front of qmail-smtpd begin with.
_PROGRAMS = {
    "relay-ctrl": "lets clients relay that have read their mail (POP before SMTP)",
    "pbscheck": "lets clients relay that have read their mail (POP before SMTP)",
    "poplock": "lets clients relay that have read their mail (POP before SMTP)",
    "relaylock": "lets clients relay by their address",
    "tcpd": "asks /etc/hosts.allow, which may set RELAYCLIENT",
}
_XINETD = ("only_from", "no_access", "access_times")
_WRAPPED = ("/etc/hosts.allow", "/etc/hosts.deny")
_RELAYING = "RELAYCLIENT"
WHAT = "relaying or denial that is not of tcprules"


def find_unheard(tree: Tree, smtpds: Iterable[Smtpd], rules: str) -> list[Found]:
    """``smtpds`` listen on port 25; ``rules`` is the text of their tcprules."""
    found = [found for smtpd in smtpds for found in _of(tree, smtpd)]
    for number, line in tree.lines(rules) if rules else ():
        who = line.partition(":")[0]
        if line[:1] == "=" or "@" in who:
            detail = f"{who} is by the client's name or TCPREMOTEINFO"
            found.append(Found(WHAT, rules, number, detail))
    for path in _WRAPPED:
        for number, line in tree.lines(path):
            if _RELAYING in line or "qmail-smtpd" in line or "tcp-env" in line:
                found.append(Found(WHAT, path, number, line))
    return list(dict.fromkeys(found))


def _of(tree: Tree, smtpd: Smtpd) -> Iterator[Found]:
    relaying = given(tree, smtpd).get(_RELAYING)
    if relaying is not None:
        detail = "sets RELAYCLIENT for all clients of that listener: they may relay"
        yield Found(WHAT, relaying.path, relaying.line, detail)
    for name in smtpd.before:
        for begin, why in _PROGRAMS.items():
            if name.startswith(begin):
                yield Found(WHAT, smtpd.path, smtpd.line, f"{name} {why}")
                break
    if smtpd.kind == "tcpsvd":
        for option in {"x", "i"} & set(smtpd.options):
            detail = f"-{option} {smtpd.options[option]}: not of tcprules' kind"
            yield Found(WHAT, smtpd.path, smtpd.line, detail)
    if smtpd.kind == "xinetd":
        for number, line in tree.lines(smtpd.path):
            if number > smtpd.line and line.startswith(_XINETD):
                yield Found(WHAT, smtpd.path, number, line)
            if number > smtpd.line and line == "}":
                return
