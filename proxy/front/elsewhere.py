"""What a recipient hears whose backends are not those of its transaction.

Knows: the verdict.  Knows not: who decides so
(:mod:`proxy.front.session`, by :mod:`proxy.backend.choice`).
"""

from __future__ import annotations

from proxy.rules.verdict import Kind, Verdict
from proxy.smtp import replies

# One transaction, one backend: as after too many recipients, the client sends
# the message again to those that remain (RFC 5321 §4.5.3.1.10).
ELSEWHERE = Verdict(
    Kind.DEFER,
    replies.OTHER_TRANSACTION,
    "backend",
    "other backends serve its domain than that of the recipients before",
)
