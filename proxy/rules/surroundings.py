"""What a rule's program is told of the client: tcpserver's environment.

Knows: where each variable comes from.  Knows not: any program.  Used by the rules
that run programs.
"""

from __future__ import annotations

import os

from proxy.backend.client import Client
from proxy.backend.ucspi import Environment, environment, inherited
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.rules.source import SourceDown
from proxy.rules.verdict import Facts, Question


class Surroundings:
    """Makes environments; our own, without what is about us, is part of them."""

    def __init__(self, host: QmailHost) -> None:
        self._host = host
        self._inherited = inherited(os.environb)

    def of(self, question: Question, facts: Facts) -> Environment:
        """The variables of tcpserver and of tcprules, RELAYCLIENT among them."""
        variables = tuple(facts.variables)
        if question.relayclient is not None:
            variables = (*variables, (b"RELAYCLIENT", question.relayclient))
        client = Client(
            question.client,
            facts.port,
            facts.local_address,
            facts.local_port,
            variables,
        )
        return environment(self._inherited, client, self._hostname(question))

    def _hostname(self, question: Question) -> bytes:
        try:
            return self._host.moment(question.since).control().line(b"me") or b"0"
        except (ControlError, KernelError, CannotTell):
            return b"0"  # as tcpserver -l0 has it


def as_smtpd_has_it(question: Question) -> bytes:
    """The recipient as qmail-smtpd hands it to programs: as the client wrote it, but
    for an address literal of this host, which is replaced by its name (localiphost)."""
    literal = question.recipient.endswith(b"]")
    return question.mailbox if literal else question.recipient


def fit(name: str, value: bytes) -> bytes:
    """``value``, which can stand in an environment or a line; raises
    :class:`SourceDown` where it cannot."""
    if b"\0" in value or b"\n" in value:
        raise SourceDown(f"the {name} has a byte that cannot be handed on")
    return value
