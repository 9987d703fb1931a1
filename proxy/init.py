"""``backstop init``: look at a host, and write a configuration that fits.

Knows: where the text goes, how what was found is shown.  Knows not: what is looked
for (``look``), and what follows from it (``look.write``).  Called by ``cli``.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from typing import TextIO

from proxy import __version__, assemble, certificates, obstacles
from proxy.certificates import TlsError
from proxy.check.finding import NOTE
from proxy.check.rules import check_rules
from proxy.config import Config
from proxy.config.model import Listen, Qmail
from proxy.config.problem import printable
from proxy.config.rules import read_rule
from proxy.config.tls import Tls
from proxy.look.host import Host, look
from proxy.look.paper import storable
from proxy.look.recipients import Proposal
from proxy.look.write import Troubles, configuration
from proxy.relaying import Relaying
from proxy.rules.source import Context

GOOD, NO_QMAIL, NOT_WRITTEN = 0, 1, 2

STANDARD_OUTPUT = "-"


def run(root: str, output: str, *, as_json: bool) -> int:
    """Look below ``root``, write to the file ``output`` or to standard output; the
    exit status."""
    root = os.path.abspath(root)
    if not os.path.isdir(root):
        print(f"{printable(root)}: no such directory", file=sys.stderr)
        return NOT_WRITTEN
    path = "" if output == STANDARD_OUTPUT else output
    if path and os.path.lexists(path):
        return _refused(path, "is there already, and nothing is overwritten")
    host = look(root)
    rules = [rule_trouble(host, proposal) for proposal in host.rules]
    troubles = Troubles(certificate_trouble(host), tcprules_trouble(host), rules)
    text = configuration(host, __version__, troubles, path)
    if path:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            return _refused(path, error.strerror or str(error))
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    if as_json:
        print(json.dumps(_as_dict(host, text), indent=2))
    else:
        if not path:
            sys.stdout.write(text)
            sys.stdout.flush()
        _tell(host, path, sys.stderr)
    return GOOD if host.home else NO_QMAIL


def _refused(path: str, why: str) -> int:
    remedy = "name another file with --output, or - for standard output"
    print(f"{printable(path)}: {why} ({remedy})", file=sys.stderr)
    return NOT_WRITTEN


def certificate_trouble(host: Host) -> str:
    """Why its certificate cannot be shown to clients, in words."""
    if not host.certificate:
        return ""
    root = host.root.rstrip("/")
    keys = (root + host.key,) if host.key else ()
    tls = Tls(certificates=(root + host.certificate,), keys=keys)
    try:
        certificates.read_all(Config(tls=tls))
    except TlsError as error:
        return error.what
    return ""


def tcprules_trouble(host: Host) -> str:
    """Why its file of tcprules cannot be asked, in words."""
    listen = Listen(tcprules=host.tcprules or None)
    config = Config(listen=listen, qmail=Qmail(root=host.root))
    return obstacles.tcprules_trouble(config) or Relaying(config).open()


def rule_trouble(host: Host, proposal: Proposal) -> str:
    """Why a rule that would be sure cannot be used, in words.  Nobody is asked over
    the network."""
    if not proposal.sure:
        return ""
    if not all(storable(str(value)) for value in proposal.keys.values()):
        return "there are characters in it that TOML does not have"
    home = host.home.path if host.home else "/var/qmail"
    qmail = Qmail(root=host.root, home=home)
    try:
        rules = (read_rule(proposal.keys), read_rule({"type": "qmail"}))
        config = Config(qmail=qmail, rules=rules)
    except ValueError:
        return "there is something in it that such a rule does not take"
    if proposal.keys["type"] == "ldap":
        lacking = find_spec("ldap") is None
        return "pip install '.[ldap]' in the checkout is wanted" if lacking else ""
    root = os.fsencode(host.root)
    context = Context("", assemble.qmail_host(config), root)
    for finding in check_rules(config, context):
        if finding.level != NOTE:
            return finding.problem.what
    return ""


# What was found.


def _as_dict(host: Host, text: str) -> dict[str, object]:
    return {
        "root": host.root,
        "qmail": host.home.path if host.home else None,
        "found": [
            {"what": f.what, "file": f.path, "line": f.line, "detail": f.detail}
            for f in host.found
        ],
        "unseen": [{"file": u.path, "why": u.why} for u in host.unseen],
        "configuration": text,
    }


_SHOWN = 20


def _tell(host: Host, path: str, output: TextIO) -> None:
    for each in host.found:
        detail = f": {each.detail}" if each.detail else ""
        output.write(printable(f"found {each.what}: {each.place}{detail}") + "\n")
    for missed in host.unseen[:_SHOWN]:
        output.write(printable(f"not seen: {missed.path}: {missed.why}") + "\n")
    if len(host.unseen) > _SHOWN:
        output.write(f"not seen: {len(host.unseen) - _SHOWN} more (--json has all)\n")
    if host.unseen:
        output.write("run it as root to see everything: it only reads\n")
    if host.home is None:
        output.write(
            "no qmail was found: no /var/qmail/control, no user qmaild or alias whose"
            " home has one, no qmail-send that runs; if its disk is mounted elsewhere,"
            " name that place with --root\n"
        )
    if path:
        output.write(f"next: backstop check -c {printable(path)}\n")
    else:
        output.write("next: keep it (--output FILE), then backstop check -c FILE\n")
