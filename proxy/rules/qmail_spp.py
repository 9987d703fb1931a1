"""The rule ``qmail-spp``: plugins made for the qmail-spp patch, unchanged.

Knows: which plugins are run when, in which environment, what their refusals mean for
a recipient (qmail-spp.c).  Knows not: the form of what they say (``spp_output``), what
is kept of it (``spp_session``), how programs are run (``running``).

Rules are asked at RCPT, so the sections connection, helo and mail are run then, before
the first recipient that they concern; their refusals are said to it.  The section pass
is run for a recipient that all rules have let in; data and auth have their own time
(``stages``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    SECTION_NAMES,
    command_of,
    home_of,
    sections,
    troubles,
)
from proxy.rules.spp_output import (
    AUTH,
    CONNECTION,
    DATA,
    HELO,
    MAIL,
    PASS,
    RCPT,
    Output,
    Sections,
    header_of,
    read_output,
    reply_of,
)
from proxy.rules.spp_session import ADDRESS, Section, SppSession
from proxy.rules.stages import Stage
from proxy.rules.surroundings import Surroundings, as_smtpd_has_it, fit
from proxy.rules.trouble import Trouble
from proxy.rules.verdict import NOTHING, Answer, Change, Facts, Question
from proxy.smtp import replies
from proxy.smtp.reply import Reply

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
        description="What it means that no plugin objects, or that all are switched"
        " off: accept, reject, or pass: the next rule is asked. accept: the plugins"
        " know every recipient.",
    )

    def is_forgetful(self) -> bool:
        return True


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
        session.begin(facts.transaction)
        if self._off(session, question, facts):
            return Finding(
                Says.FOUND, "switched off", change=self._change(session, question)
            )
        plugins = self._plugins(session, question)
        await self._greet(session, plugins, facts)
        session.follow(facts)
        await self._mail(session, plugins, question, facts)
        if session.off:
            note = "switched off by a plugin"
            return Finding(Says.FOUND, note, change=self._change(session, question))
        for finding in session.refusals.values():
            return finding
        stored = _stored(session, b"R") or await self._rcpt(
            session, plugins, question, facts
        )
        session.asked = facts.asked
        self._unsaid(session)
        return stored

    async def at_pass(self, question: Question) -> Finding | None:
        """What plugins of the section pass say, of a recipient that is accepted and
        that the others were asked for (spp_rcpt_accepted() of sagredo's patch)."""
        facts = question.facts()
        session = (facts.session or {}).get(self)
        if not isinstance(session, SppSession) or session.off:
            return None
        if (session.transaction, session.asked) != (facts.transaction, facts.asked):
            return None
        plugins = self._plugins(session, question)
        if not plugins.get(PASS):
            return None
        session.environment[b"SMTPRCPTCOUNT"] = b"%d" % (facts.accepted + 1)
        found = await self._recipient(session, plugins, PASS, question, facts)
        self._unsaid(session)
        if found.says in (Says.FOUND, Says.ACCEPT):
            return found._replace(says=Says.PASS)
        return found

    async def at_data(self, question: Question) -> Stage:
        """What plugins say to DATA, in a transaction in which they were asked for a
        recipient; and the lines that they want in the message."""
        facts = question.facts()
        session = (facts.session or {}).get(self)
        if not isinstance(session, SppSession):
            return Stage()
        session.follow(facts)
        if session.off or session.transaction is not facts.transaction:
            return Stage(header=self._header(session))
        stored = _stored(session, b"D")
        if stored is None:
            plugins = self._plugins(session, question)
            await self._section(session, plugins, DATA, facts)
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
            await self._section(session, plugins, AUTH, facts)
        finding = next(iter(session.refusals.values()), None)
        session.refusals.pop(AUTH, None)
        self._unsaid(session)
        return Stage() if finding is None else _stage(finding)

    async def close(self) -> None:
        await self._programs.close()

    def _session(self, question: Question, facts: Facts) -> SppSession:
        kept = {} if facts.session is None else facts.session
        session = kept.get(self)
        if session is None:
            environment = self._surroundings.of(question, facts)
            session = kept[self] = SppSession(environment, transaction=self)
        assert isinstance(session, SppSession)
        return session

    def _off(self, session: SppSession, question: Question, facts: Facts) -> bool:
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

    def _plugins(self, session: SppSession, question: Question) -> Sections:
        config = session.environment.get(b"SPPCONFFILE") or self._config
        return sections(self._context, config, question.since)

    # The sections.  What would have been run before, and was not yet, is run first.

    async def _greet(
        self, session: SppSession, plugins: Sections, facts: Facts
    ) -> None:
        if not session.connected:
            await self._section(session, plugins, CONNECTION, facts)
            session.connected = True
        if facts.helo != session.helo and not session.off:
            session.environment[b"SMTPHELOHOST"] = fit("HELO name", facts.helo)
            session.refusals.pop(HELO, None)
            await self._section(session, plugins, HELO, facts)
            session.helo = facts.helo

    async def _mail(
        self,
        session: SppSession,
        plugins: Sections,
        question: Question,
        facts: Facts,
    ) -> None:
        if session.mailed or session.off:
            return
        stored = _stored(session, b"M")
        if stored is not None:
            session.refusals[MAIL] = stored
        else:
            session.environment[ADDRESS[MAIL]] = fit("sender", question.sender)
            section = await self._section(session, plugins, MAIL, facts)
            session.sender = section.address
        session.mailed = True

    async def _rcpt(
        self,
        session: SppSession,
        plugins: Sections,
        question: Question,
        facts: Facts,
    ) -> Finding:
        session.environment |= {
            b"SMTPRCPTCOUNT": b"%d" % facts.accepted,
            b"SMTPRCPTCOUNTALL": b"%d" % facts.asked,
            b"SMTPRCPTHOSTSOK": b"1",  # others are refused before rules are asked
        }
        return await self._recipient(session, plugins, RCPT, question, facts)

    async def _recipient(
        self,
        session: SppSession,
        plugins: Sections,
        name: bytes,
        question: Question,
        facts: Facts,
    ) -> Finding:
        """What a section says of the recipient."""
        recipient = fit("recipient", as_smtpd_has_it(question))
        session.environment[ADDRESS[RCPT]] = recipient
        section = await self._section(session, plugins, name, facts)
        refused_now = session.refusals.pop(name, None)
        if refused_now is not None:
            return refused_now
        became = section.address or recipient
        note = "a plugin says O" if section.end == b"O" else "no plugin objects"
        if became == recipient:
            became = b""
        else:
            note = f"a plugin makes it {shown(became)}"
        if session.sender not in (None, question.sender):
            note = f"{note}; the sender is {shown(session.sender)} now"
        says = Says.ACCEPT if section.end == b"O" else Says.FOUND
        return Finding(says, note, change=self._change(session, question, became))

    def _change(
        self, session: SppSession, question: Question, recipient: bytes = b""
    ) -> Change | None:
        """What plugins have changed so far, ``recipient`` being the new one, if any."""
        sender = session.sender if session.sender != question.sender else None
        told = session.variables if self._context.tells_backend else ()
        change = Change(recipient, sender, told)
        return None if change == NOTHING else change

    async def _section(
        self, session: SppSession, plugins: Sections, name: bytes, facts: Facts
    ) -> Section:
        """Run a section, up to the plugin that ends it."""
        section = Section(session, name)
        for plugin in plugins.get(name, ()):
            said = await self._plugin(section.environment, plugin)
            for variable in section.heard(said):
                self._late(variable, name, facts)
            if said.end:
                section.end = said.end
                section.done()
                self._ended(session, name, plugin, said)
                return section
        section.done()
        return section

    def _ended(
        self, session: SppSession, section: bytes, plugin: bytes, said: Output
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

    async def _plugin(self, environment: Environment, plugin: bytes) -> Output:
        command = command_of(self._context, self._home, plugin)
        ended = await self._programs.run(command, environment, self._home)
        name = shown(plugin)
        if ended.status < 0:
            raise SourceDown(f"{name}: ended by signal {-ended.status}")
        if ended.status == _CANNOT_EXECUTE:
            raise SourceDown(f"{name}: exit status 120: cannot execute")
        said = read_output(ended.output)
        if ended.cut and not said.end:
            raise SourceDown(f"{name}: says more than {OUTPUT_MAX} bytes")
        return said

    # What is left over.

    def _header(self, session: SppSession) -> bytes:
        """The lines for the message; :meth:`SppSession.follow` forgets them."""
        good, bad = header_of(session.header)
        for line in bad:
            self._tell(f"H{shown(line)} is no header field")
        return good

    def _unsaid(self, session: SppSession) -> None:
        """A P whose line belongs to no refusal: the backend's own reply follows."""
        for text in session.printed:
            self._tell(f"P{shown(text)} is no line of a refusal")
        session.printed.clear()

    def _late(self, variable: bytes, section: bytes, facts: Facts) -> None:
        """Tell of a variable that does not reach qmail-smtpd."""
        what = f"variable {shown(variable)} of section {SECTION_NAMES[section]}"
        if not self._context.tells_backend:
            self._tell(f"{what} for qmail-smtpd (no backend is a command)")
        elif section == DATA or facts.accepted or facts.user:
            self._tell(f"{what} for a qmail-smtpd that runs already")

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

    async def last_word(self, question: Question) -> Answer:
        """See :class:`~proxy.rules.engine.LastWord`."""
        return await self.once_more(question, lambda: self._spp.at_pass(question))

    async def at_data(self, question: Question) -> Stage:
        """See :class:`~proxy.rules.stages.Staged`."""
        return await self.within(lambda: self._spp.at_data(question))

    async def at_auth(self, question: Question, mechanism: bytes, user: bytes) -> Stage:
        """See :class:`~proxy.rules.stages.Staged`."""
        return await self.within(lambda: self._spp.at_auth(question, mechanism, user))


def _stored(session: SppSession, command: bytes) -> Finding | None:
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
