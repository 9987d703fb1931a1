"""What the rule ``qmail-spp`` keeps of a session: what qmail-smtpd would know of it.

Knows: which variables are whose, what RSET clears, that a section counts as a whole or
not at all.  Knows not: how plugins are run, what their refusals mean.  Used by
``qmail_spp``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.backend.ucspi import Environment
from proxy.rules.source import Finding
from proxy.rules.spp_output import MAIL, PASS, RCPT, Output
from proxy.rules.verdict import Changed, Facts

# What qmail-smtpd looks at when it starts, and so before any plugin: what one sets
# changes nothing there.  (RELAYCLIENT would even let somebody relay.)
_READ_AT_START = {b"DATABYTES", b"PROTO", b"RELAYCLIENT"}
_READ_AT_START |= {b"ENABLE_SPP", b"NOSPP", b"SPPCONFFILE"}
_ABOUT_THE_CLIENT = b"TCP"

ADDRESS = {MAIL: b"SMTPMAILFROM", RCPT: b"SMTPRCPTTO", PASS: b"SMTPRCPTTO"}
"""The variable that ``C`` changes."""


@dataclass(slots=True)
class SppSession:
    """``environment`` is that of the plugins.  ``changed``: what they have changed of
    it themselves, as far as qmail-smtpd is to know.  ``sender``: what they have made of
    the reverse-path; ``None`` for nothing."""

    environment: Environment
    ours: set[bytes] = field(default_factory=set)
    changed: dict[bytes, bytes | None] = field(default_factory=dict)
    off: bool = False
    connected: bool = False
    helo: bytes = b""
    transaction: object = None
    mailed: bool = False
    sender: bytes | None = None
    asked: int = 0
    flushed: int = 0
    refusals: dict[bytes, Finding] = field(default_factory=dict)
    stored: dict[bytes, list[bytes]] = field(default_factory=dict)
    header: list[bytes] = field(default_factory=list)
    printed: list[bytes] = field(default_factory=list)

    def know(self, name: bytes, value: bytes) -> None:
        """What is so of the client now."""
        self.environment[name] = value
        self.ours.add(name)

    def forget(self, *names: bytes) -> None:
        """What is not so any more, after STARTTLS (RFC 3207 §4.2) or a refused AUTH;
        what plugins alone have set stays."""
        for name in self.ours.intersection(names):
            self.ours.discard(name)
            self.environment.pop(name, None)

    def follow(self, facts: Facts) -> None:
        """RSET, and a message that has begun, clear what plugins have left behind;
        MAIL and HELO do not (qmail-spp.c, spp_rset())."""
        if self.flushed != facts.flushed:
            self.flushed = facts.flushed
            self.stored.clear()
            self.header.clear()

    def begin(self, transaction: object) -> None:
        """Another MAIL, if it is one."""
        if self.transaction is not transaction:
            self.transaction = transaction
            self.mailed = False
            self.sender = None
            self.refusals.pop(MAIL, None)

    @property
    def variables(self) -> Changed:
        """What a program in the backend's place is to be told."""
        return tuple(self.changed.items())


class Section:
    """The plugins of one section, while they are run.

    Nothing of what they say counts before :meth:`done`: where a later one fails or is
    too slow, the section is run again, and must not have its lines twice in the
    message.
    """

    def __init__(self, session: SppSession, section: bytes) -> None:
        self._session = session
        self._variable = ADDRESS.get(section)
        self._changed: dict[bytes, bytes | None] = {}
        self._header: list[bytes] = []
        self._stored: list[tuple[bytes, bytes]] = []
        self.environment = dict(session.environment)
        """What the next plugin gets."""
        self.printed: list[bytes] = []
        self.address: bytes | None = None
        """What the current one was replaced by."""
        self.end = b""
        """The letter by which a plugin has ended it."""

    def heard(self, said: Output) -> list[bytes]:
        """What a plugin has said; the names of those variables that are others now,
        and are for qmail-smtpd."""
        others = []
        for name, value in said.variables:
            before = self.environment.pop(name, None)
            if value is not None:
                self.environment[name] = value
            if name in _READ_AT_START or name.startswith(_ABOUT_THE_CLIENT):
                continue
            self._changed[name] = value
            if value != before:
                others.append(name)
        self._header += said.header
        self._stored += said.stored
        self.printed += said.printed
        if said.address is not None and self._variable is not None:
            self.address = self.environment[self._variable] = said.address
        return others

    def done(self) -> None:
        """All of it counts from now on."""
        session = self._session
        session.environment = self.environment
        session.changed |= self._changed
        session.header += self._header
        session.printed[:] = self.printed
        for command, text in self._stored:
            session.stored.setdefault(command, []).append(text)
