"""What is answered where only the delivery itself could tell: ``qmail.undecided``.

Knows: the policies and their replies.  Knows not: why a recipient is undecided.
Called by the rule ``qmail`` and for sources.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from proxy.qmail.trail import Step
from proxy.rules.verdict import Kind, Verdict
from proxy.smtp import replies

Policy = Literal["accept", "no-null-sender", "defer", "reject"]


def judged(verdict: Verdict, policy: Policy, sender: bytes) -> Verdict:
    """``verdict``, an acceptance in doubt, as ``policy`` has it for ``sender``."""
    if verdict.kind is not Kind.ACCEPT or policy == "accept":
        return verdict
    if policy == "no-null-sender":
        # ``<>`` and what qmail-send has for a bounce of a bounce.
        if sender not in (b"", b"#@[]"):
            return verdict
        kind, reply = Kind.REJECT, replies.NO_BOUNCES
    elif policy == "defer":
        kind, reply = Kind.DEFER, replies.MAILBOX_DEFERRED
    else:
        kind, reply = Kind.REJECT, replies.NO_SUCH_RECIPIENT
    step = Step(b"qmail.undecided", 0, "{}: {}", (policy, kind.value))
    return replace(verdict, kind=kind, reply=reply, trace=[*verdict.trace, step])
