"""What of a question goes into a query, by name.

Knows: the names that queries and filters may use, and their letter case.  Knows
not: how values are put into one, which is its language's matter.  Used by the rules
``sql`` and ``ldap``.
"""

from __future__ import annotations

import re

from proxy.rules.verdict import Question

NAMES = ("address", "local", "domain", "at_domain", "sender", "client")
"""``address`` is local@domain, ``at_domain`` is @domain; ``sender`` is empty for
the null reverse-path, ``client`` the client's IP address."""


# Directories and many collations of databases do not see control characters (RFC
# 4518 section 2.2; Unicode's UTS 10): what has some would be found without.  U+FFFD
# is in no address.
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_UNKNOWN = "\ufffd".encode()


def values(question: Question, *, keep_case: bool) -> dict[str, bytes]:
    """All of them; A to Z become small letters, but in the local parts with
    ``keep_case``."""
    mailbox = _CONTROL.sub(_UNKNOWN, question.mailbox)
    sender = _CONTROL.sub(_UNKNOWN, question.sender)
    local, _, domain = mailbox.rpartition(b"@")
    domain = domain.lower()
    if not keep_case:
        local, sender = local.lower(), sender.lower()
    return {
        "address": local + b"@" + domain,
        "local": local,
        "domain": domain,
        "at_domain": b"@" + domain,
        "sender": sender,
        "client": question.client.encode(),
    }
