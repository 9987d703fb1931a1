"""``backstop check``, vpopmail's part: what of it is not known here.

Knows: how to ask the decision about each virtual domain.  Knows not: what
vdelivermail does (:mod:`proxy.qmail.vpopmail`).  Called by ``command``.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.check.finding import NOTE, WARNING, Finding, Settings
from proxy.qmail.control import ControlError
from proxy.qmail.decide import Decision, decide
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.questions import Answers, AskAccounts, Found, Mailbox
from proxy.qmail.vpopmail import (
    EXTENSION_NOT_KNOWN,
    NOT_USABLE,
    SOURCE_NOT_KNOWN,
)
from proxy.qmail.vpopmail_data import LDAP

_DOMAINS_MAX = 1000

# vadddomain makes this mailbox in each domain; with an extension it is the one
# that may not be known.
_NAME, _WHOLE = b"postmaster", b"postmaster-backstop-check"


def check_vpopmail(host: QmailHost, settings: Settings) -> Iterator[Finding]:
    """Recipients of vpopmail that are accepted only in case of doubt, and why."""
    told: set[str] = set()
    for domain in _domains(host):
        for step in _asked(host, domain).trail:
            text, note = step.text, f"{step.where()}: {step.note()}"
            if text in told:
                continue
            told.add(text)
            if text == SOURCE_NOT_KNOWN:
                remedy = "set it to what vpopmail was built with"
                yield settings.finding(WARNING, ("vpopmail", "source"), note, remedy)
            elif text == NOT_USABLE:
                extra = "ldap" if step.values == (LDAP,) else "sql"
                remedy = f"pip install '.[{extra}]' in the checkout"
                yield settings.finding(WARNING, ("vpopmail", "source"), note, remedy)
            elif text == EXTENSION_NOT_KNOWN:
                what = "whether vpopmail was built with --enable-qmail-ext is not known"
                remedy = "set it; until then mail to USER-anything is accepted"
                yield settings.finding(NOTE, ("vpopmail", "qmail_ext"), what, remedy)


def _domains(host: QmailHost) -> list[bytes]:
    """Those of virtualdomains that are written out."""
    try:
        names = host.moment().send().virtualdomains
    except (ControlError, KernelError, CannotTell):
        return []  # check_host tells of it
    plain = [name for name in names if b"@" not in name and not name.startswith(b".")]
    return [name for name in plain if name][:_DOMAINS_MAX]


def _asked(host: QmailHost, domain: bytes) -> Decision:
    """The decision; a database is taken to know the user before the dash."""
    answers: Answers = {}
    decision = decide(host, _WHOLE + b"@" + domain)
    if isinstance(decision.need, AskAccounts):
        answers = {decision.need: Found({}, {_NAME: Mailbox(0, b"", b"")})}
        decision = decide(host, _WHOLE + b"@" + domain, answers=answers)
    return decision
