"""The gate before all rules but ``qmail``: relaying is never theirs to allow.

Knows: which reply goes with qmail-smtpd's refusals.  Knows not: any mailbox.
Called by the engine.
"""

from __future__ import annotations

from proxy.qmail.decide import NOT_RELAYED
from proxy.qmail.gate import Admitted, admitted
from proxy.qmail.host import QmailHost
from proxy.rules.qmail import UNGUARDED, guarded, verdict
from proxy.rules.verdict import Question, TraceStep, Verdict


class Gate:
    """Asks rcpthosts, badmailfrom, and locals and virtualdomains for whose the
    recipient's domain is."""

    name = "relay"

    def __init__(
        self, host: QmailHost, *, guard_relay: bool, allow_percenthack: bool
    ) -> None:
        """The arguments are those of :class:`~proxy.rules.qmail.QmailRule`."""
        self._host = host
        self._guard_relay = guard_relay
        self._allow_percenthack = allow_percenthack

    def ask(self, question: Question) -> Verdict | Question:
        """A verdict where the rules have nothing to say; else what to ask them."""
        answer = admitted(
            self._host,
            question.recipient,
            question.sender,
            question.relayclient,
            question.since,
            traced=question.traced,
        )
        if not isinstance(answer, Admitted):
            open_relay = self._guard_relay and answer.open_relay
            return verdict(guarded(answer) if open_relay else answer)
        if self._guard_relay and answer.open_relay:
            return verdict(UNGUARDED)
        if answer.hacked and not self._allow_percenthack:
            return verdict(NOT_RELAYED)
        notes: list[TraceStep] | None = list(answer.trail) if question.traced else None
        return question._replace(mailbox=answer.mailbox, notes=notes)
