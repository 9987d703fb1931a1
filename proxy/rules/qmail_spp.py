"""The rule ``qmail-spp``: plugins made for the qmail-spp patch, unchanged.

Knows: which plugins are run when, in which environment, what their refusals mean for
a recipient (qmail-spp.c).  Knows not: the form of what they say (``spp_output``), how
programs are run (``running``).

Rules are asked at RCPT, so the sections connection, helo and mail are run then, before
the first recipient that they concern; their refusals are said to it.  The sections data
and auth have their own time (``stages``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from proxy.backend.ucspi import Environment
from proxy.config.rules import RemoteKeys, Then
from proxy.config.values import Text
from proxy.rules.running import OUTPUT_MAX, Programs
from proxy.rules.said import refused, shown
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.spp_files import (
    AUTH,
    CONNECTION,
    DATA,
    HELO,
    MAIL,
    RCPT,
    command_of,
    home_of,
    sections,
    troubles,
)
from proxy.rules.spp_output import Output, Sections, header_of, read_output, reply_of
from proxy.rules.stages import Stage
from proxy.rules.surroundings import Surroundings, as_smtpd_has_it, fit
from proxy.rules.trouble import Trouble
from proxy.rules.verdict import Facts, Question
from proxy.smtp import replies
from proxy.smtp.reply import Reply

_ADDRESS = {MAIL: b"SMTPMAILFROM", RCPT: b"SMTPRCPTTO"}
_STORED_FOR = {b"M": "MAIL", b"R": "RCPT", b"D": "DATA"}
_CANNOT_EXECUTE = 120  # qmail-spp.c, after execv()
_TOLD_MAX = 100
_AUTHENTICATED = (b"SMTPAUTHMETHOD", b"SMTPAUTHUSER")


class Settings(RemoteKeys):
    """Plugins made for the qmail-spp patch, as control/smtpplugins names them, run
    unchanged: their refusals are said to the client. Plugins that do not object leave
    the recipient to the next rule."""

    runs_programs: ClassVar[bool] = True

    type: Literal["qmail-spp"] = Field(description="Plugins made for qmail-spp.")
    config: Text = Field(
        default="control/smtpplugins",
        min_length=1,
        description="The file with the plugins, from qmail.home. SPPCONFFILE in"
        " listen.tcprules or in the environment wins, and NOSPP there switches plugins"
        " off, as in qmail-smtpd.",
    )
    found: Then = Field(
        default="pass",
        description="What it means that no plugin objects: accept, reject, or pass:"
        " the next rule is asked. accept: the plugins know every recipient.",
    )

    def is_forgetful(self) -> bool:
        return True


@dataclass(slots=True)
class _Session:
    """What qmail-smtpd would know of a session besides what it was told."""

    environment: Environment
    ours: set[bytes] = field(default_factory=set)
    off: bool = False
    connected: bool = False
    helo: bytes = b""
    transaction: object = None
    mailed: bool = False
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


class QmailSpp(BaseSource):
    """Runs the plugins."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._config = os.fsencode(settings.config)
        self._context = context
        self._home = home_of(context)
        self._surroundings = Surroundings(context.host)
        self._programs = Programs(settings.concurrency, context)
        self._told: set[str] = set()

    def query(self, question: Question) -> str:
        return f"plugins of {shown(self._config)}"

    def key(self, question: Question) -> bytes | None:
        return None  # the answer depends on everything

    async def ask(self, question: Question) -> Finding:
        facts = question.facts()
        session = self._session(question, facts)
        if self._off(session, question, facts):
            return Finding(Says.PASS, "switched off")
        plugins = self._plugins(session, question)
        if session.transaction is not facts.transaction:
            session.transaction = facts.transaction
            session.mailed = False
            session.refusals.pop(MAIL, None)
        await self._greet(session, plugins, facts)
        session.follow(facts)
        await self._mail(session, plugins, question)
        if session.off:
            return Finding(Says.PASS, "switched off by a plugin")
        for finding in session.refusals.values():
            return finding
        stored = _stored(session, b"R") or await self._rcpt(
            session, plugins, question, facts
        )
        self._unsaid(session)
        return stored

    async def at_data(self, question: Question) -> Stage:
        """What plugins say to DATA, in a transaction in which they were asked for a
        recipient; and the lines that they want in the message."""
        facts = question.facts()
        session = (facts.session or {}).get(self)
        if not isinstance(session, _Session):
            return Stage()
        session.follow(facts)
        if session.off or session.transaction is not facts.transaction:
            return Stage(header=self._header(session))
        stored = _stored(session, b"D")
        if stored is None:
            plugins = self._plugins(session, question)
            await self._section(session, plugins, DATA)
            stored = session.refusals.pop(DATA, None)
            self._unsaid(session)
        if stored is not None:
            return _stage(stored)
        return Stage(header=self._header(session))

    async def at_auth(self, question: Question, mechanism: bytes, user: bytes) -> Stage:
        """What plugins say to an AUTH that has succeeded."""
        facts = question.facts()
        session = self._session(question, facts)
        if self._off(session, question, facts):
            return Stage()
        plugins = self._plugins(session, question)
        if not plugins.get(AUTH):
            return Stage()
        await self._greet(session, plugins, facts)
        session.follow(facts)
        session.know(b"SMTPAUTHMETHOD", mechanism.lower())
        session.know(b"SMTPAUTHUSER", fit("user name", user))
        if not (session.refusals or session.off):
            await self._section(session, plugins, AUTH)
        finding = next(iter(session.refusals.values()), None)
        session.refusals.pop(AUTH, None)
        self._unsaid(session)
        return Stage() if finding is None else _stage(finding)

    async def close(self) -> None:
        await self._programs.close()

    def _session(self, question: Question, facts: Facts) -> _Session:
        kept = {} if facts.session is None else facts.session
        session = kept.get(self)
        if session is None:
            environment = self._surroundings.of(question, facts)
            session = kept[self] = _Session(environment, transaction=self)
        assert isinstance(session, _Session)
        return session

    def _off(self, session: _Session, question: Question, facts: Facts) -> bool:
        """Whether plugins are not run; if they are, in today's surroundings."""
        if not session.off and b"NOSPP" in session.environment:
            session.off = True
        if question.relayclient is not None:
            session.know(b"RELAYCLIENT", question.relayclient)
        else:
            session.forget(b"RELAYCLIENT")
        if facts.user:
            session.know(b"SMTPAUTHUSER", facts.user)
        else:
            session.forget(*_AUTHENTICATED)
        return session.off

    def _plugins(self, session: _Session, question: Question) -> Sections:
        config = session.environment.get(b"SPPCONFFILE") or self._config
        return sections(self._context, config, question.since)

    # The sections.  What would have been run before, and was not yet, is run first.

    async def _greet(self, session: _Session, plugins: Sections, facts: Facts) -> None:
        if not session.connected:
            await self._section(session, plugins, CONNECTION)
            session.connected = True
        if facts.helo != session.helo and not session.off:
            session.environment[b"SMTPHELOHOST"] = fit("HELO name", facts.helo)
            session.refusals.pop(HELO, None)
            await self._section(session, plugins, HELO)
            session.helo = facts.helo

    async def _mail(
        self, session: _Session, plugins: Sections, question: Question
    ) -> None:
        if session.mailed or session.off:
            return
        stored = _stored(session, b"M")
        if stored is not None:
            session.refusals[MAIL] = stored
        else:
            session.environment[_ADDRESS[MAIL]] = fit("sender", question.sender)
            await self._section(session, plugins, MAIL)
        session.mailed = True

    async def _rcpt(
        self, session: _Session, plugins: Sections, question: Question, facts: Facts
    ) -> Finding:
        recipient = fit("recipient", as_smtpd_has_it(question))
        session.environment |= {
            _ADDRESS[RCPT]: recipient,
            b"SMTPRCPTCOUNT": b"%d" % facts.accepted,
            b"SMTPRCPTCOUNTALL": b"%d" % facts.asked,
            b"SMTPRCPTHOSTSOK": b"1",  # others are refused before rules are asked
        }
        last = await self._section(session, plugins, RCPT)
        refused_now = session.refusals.pop(RCPT, None)
        if refused_now is not None:
            return refused_now
        became = session.environment[_ADDRESS[RCPT]]
        note = "a plugin says O" if last == b"O" else "no plugin objects"
        says = Says.ACCEPT if last == b"O" else Says.FOUND
        if became == recipient:
            return Finding(says, note)
        return Finding(says, f"a plugin makes it {shown(became)}", became=became)

    async def _section(
        self, session: _Session, plugins: Sections, section: bytes
    ) -> bytes:
        """Run a section, up to the plugin that ends it; the letter it did that by."""
        session.printed.clear()
        for plugin in plugins.get(section, ()):
            said = await self._plugin(session, plugin)
            session.header += said.header
            session.printed += said.printed
            for command, text in said.stored:
                session.stored.setdefault(command, []).append(text)
            if said.address is not None and section in _ADDRESS:
                session.environment[_ADDRESS[section]] = said.address
                if section == MAIL:
                    self._tell(f"{shown(plugin)} says C in section mail")
            if said.end:
                self._ended(session, section, plugin, said)
                return said.end
        return b""

    def _ended(
        self, session: _Session, section: bytes, plugin: bytes, said: Output
    ) -> None:
        note = f"{shown(plugin)} says {shown(said.end + said.text)}"
        if said.end == b"A":
            session.off = True
        elif said.end == b"D":
            finding = Finding(Says.DEFER, note, replies.HANG_UP)
            session.refusals[section] = finding
        elif said.end in (b"E", b"R"):
            texts = [*session.printed, said.text]
            session.printed.clear()
            reply = reply_of(texts, last=said.end == b"R")
            session.refusals[section] = _answer(reply, note)

    async def _plugin(self, session: _Session, plugin: bytes) -> Output:
        command = command_of(self._context, self._home, plugin)
        ended = await self._programs.run(command, session.environment, self._home)
        name = shown(plugin)
        if ended.status < 0:
            raise SourceDown(f"{name}: ended by signal {-ended.status}")
        if ended.status == _CANNOT_EXECUTE:
            raise SourceDown(f"{name}: exit status 120: cannot execute")
        said = read_output(ended.output, session.environment)
        if ended.cut and not said.end:
            raise SourceDown(f"{name}: says more than {OUTPUT_MAX} bytes")
        return said

    # What is left over.

    def _header(self, session: _Session) -> bytes:
        """The lines for the message; :meth:`_Session.follow` forgets them."""
        good, bad = header_of(session.header)
        for line in bad:
            self._tell(f"H{shown(line)} is no header field")
        return good

    def _unsaid(self, session: _Session) -> None:
        """A P whose line belongs to no refusal: the backend's own reply follows."""
        for text in session.printed:
            self._tell(f"P{shown(text)} is no line of a refusal")
        session.printed.clear()

    def _tell(self, what: str) -> None:
        if what not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(what)
            text = f"rule {self._context.name}: {what}: this is not done here"
            self._context.say("warning", text)


class SppRule(SourceRule):
    """The rule, with its say at DATA and AUTH."""

    def __init__(self, settings: Settings, spp: QmailSpp, context: Context) -> None:
        super().__init__(settings, spp, context)
        self._spp = spp

    async def at_data(self, question: Question) -> Stage:
        """See :class:`~proxy.rules.stages.Staged`."""
        return await self.within(lambda: self._spp.at_data(question))

    async def at_auth(self, question: Question, mechanism: bytes, user: bytes) -> Stage:
        """See :class:`~proxy.rules.stages.Staged`."""
        return await self.within(lambda: self._spp.at_auth(question, mechanism, user))


def _stored(session: _Session, command: bytes) -> Finding | None:
    """The answer that an earlier plugin has left for a command."""
    texts = session.stored.get(command)
    if texts is None:
        return None
    return _answer(reply_of(texts), f"an answer stored for {_STORED_FOR[command]}")


def _answer(reply: Reply | None, note: str) -> Finding:
    """A plugin's own words; a deferral where they are no refusal: it refuses, and has
    not said for how long."""
    if reply is None:
        return Finding(Says.DEFER, f"{note} (not a refusal: 4NN or 5NN)")
    return refused(reply, note)


def _stage(finding: Finding) -> Stage:
    return Stage(finding.reply or replies.INTERNAL, finding.note)


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SppRule(settings, QmailSpp(settings, context), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """Whether the file can be read and the plugins in it be run, and what they say
    that is not carried out."""
    return troubles(settings.config, context)
