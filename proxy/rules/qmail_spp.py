"""The rule ``qmail-spp``: plugins made for the qmail-spp patch, unchanged.

Knows: which plugins are run when, in which environment, what their refusals mean for
a recipient (qmail-spp.c).  Knows not: the form of what they say (``spp_output``), how
programs are run (``running``).

Rules are asked at RCPT, so the sections connection, helo and mail are run then, before
the first recipient that they concern; their refusals are said to it.
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
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.rules.pointed import program as check_program
from proxy.rules.running import OUTPUT_MAX, Programs
from proxy.rules.said import refusal, refused, shown
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.spp_output import Output, Sections, read_output, read_sections
from proxy.rules.surroundings import Surroundings, as_smtpd_has_it, fit
from proxy.rules.trouble import NOTE, Trouble
from proxy.rules.verdict import Facts, Question
from proxy.smtp import replies

CONNECTION, HELO, MAIL, RCPT = b"c", b"h", b"m", b"r"

_RUN = (CONNECTION, HELO, MAIL, RCPT)
_ADDRESS = {MAIL: b"SMTPMAILFROM", RCPT: b"SMTPRCPTTO"}
_CANNOT_EXECUTE = 120  # qmail-spp.c, after execv()


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


@dataclass(slots=True)
class _Session:
    """What qmail-smtpd would know of a session besides what it was told."""

    environment: Environment
    off: bool = False
    connected: bool = False
    helo: bytes = b""
    transaction: object = None
    mailed: bool = False
    refusals: dict[bytes, Finding] = field(default_factory=dict)
    stored: dict[bytes, bytes] = field(default_factory=dict)

    def begin(self, transaction: object) -> None:
        """Another MAIL."""
        self.transaction = transaction
        self.mailed = False
        self.refusals.pop(MAIL, None)
        for command in (b"R", b"D"):
            self.stored.pop(command, None)


class QmailSpp(BaseSource):
    """Runs the plugins."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._config = os.fsencode(settings.config)
        self._context = context
        self._home = home_of(context)
        self._surroundings = Surroundings(context.host)
        self._programs = Programs(settings.concurrency, context)
        self._told: set[bytes] = set()

    def query(self, question: Question) -> str:
        return f"plugins of {shown(self._config)}"

    def key(self, question: Question) -> bytes | None:
        return None  # the answer depends on everything

    async def ask(self, question: Question) -> Finding:
        facts = question.facts()
        session = self._session(question, facts)
        if not session.off and b"NOSPP" in session.environment:
            session.off = True
        if session.off:
            return Finding(Says.PASS, "switched off")
        environment = session.environment
        if question.relayclient is not None:
            environment[b"RELAYCLIENT"] = question.relayclient
        if facts.user:
            environment[b"SMTPAUTHUSER"] = facts.user
        config = environment.get(b"SPPCONFFILE") or self._config
        plugins = sections(self._context, config, question.since)
        if session.transaction is not facts.transaction:
            session.begin(facts.transaction)
        await self._before(session, plugins, question, facts)
        if session.off:
            return Finding(Says.PASS, "switched off by a plugin")
        for finding in session.refusals.values():
            return finding
        return _stored(session) or await self._rcpt(session, plugins, question, facts)

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

    async def _before(
        self, session: _Session, plugins: Sections, question: Question, facts: Facts
    ) -> None:
        """What qmail-smtpd would have run before this RCPT, and was not yet."""
        if not session.connected:
            await self._section(session, plugins, CONNECTION)
            session.connected = True
        if facts.helo != session.helo and not session.off:
            session.environment[b"SMTPHELOHOST"] = fit("HELO name", facts.helo)
            session.refusals.pop(HELO, None)
            await self._section(session, plugins, HELO)
            session.helo = facts.helo
        if session.mailed or session.off:
            return
        answer = session.stored.pop(b"M", None)
        if answer is not None:
            session.refusals[MAIL] = _answer(answer, "an answer stored for MAIL")
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
        refusals = session.refusals
        if RCPT in refusals:
            finding = refusals[RCPT]
            if last in (b"R", b"D"):
                # The connection would be over, and with it all that comes.
                refusals[CONNECTION] = finding
            del refusals[RCPT]
            return finding
        if b"D" in session.stored:
            return _answer(session.stored[b"D"], "an answer stored for DATA")
        became = session.environment[_ADDRESS[RCPT]]
        if became != recipient:
            note = f"a plugin changes the address to {shown(became)}: not done here"
            return Finding(Says.ACCEPT, note, undecided=True)
        if last == b"O":
            return Finding(Says.ACCEPT, "a plugin says O")
        return Finding(Says.FOUND, "no plugin objects")

    async def _section(
        self, session: _Session, plugins: Sections, section: bytes
    ) -> bytes:
        """Run a section, up to the plugin that ends it; the letter it did that by.

        A refusal is left in ``session``.  Raises :class:`SourceDown`.
        """
        for plugin in plugins.get(section, ()):
            said = await self._plugin(session, plugin)
            if said.address is not None and section in _ADDRESS:
                session.environment[_ADDRESS[section]] = said.address
                if section == MAIL:
                    self._tell(b"C in section mail")
            for command, text in said.stored.items():
                session.stored.setdefault(command, text)
            note = f"{shown(plugin)} says {shown(said.end + said.text)}"
            if said.end == b"A":
                session.off = True
            elif said.end == b"D":
                finding = Finding(Says.DEFER, note, replies.HANG_UP)
                session.refusals[section] = finding
            elif said.end in (b"E", b"R"):
                session.refusals[section] = _answer(said.text, note)
            if said.end:
                return said.end
        return b""

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
        for letter in said.other:
            self._tell(bytes([letter]))
        return said

    def _tell(self, what: bytes) -> None:
        if what not in self._told:
            self._told.add(what)
            text = f"a plugin says {shown(what)}: this is not done here"
            self._context.say("warning", f"rule {self._context.name}: {text}")


def _stored(session: _Session) -> Finding | None:
    """The answer that an earlier plugin has left for this recipient."""
    for command, name in ((b"R", "RCPT"), (b"D", "DATA")):
        if command in session.stored:
            note = f"an answer stored for {name}"
            return _answer(session.stored[command], note)
    return None


def _answer(text: bytes, note: str) -> Finding:
    """A plugin's own words; a deferral where they are no refusal: it refuses, and has
    not said for how long."""
    reply = refusal(text)
    if reply is None:
        return Finding(Says.DEFER, f"{note} (not a refusal: 4NN or 5NN)")
    return refused(reply, note)


def home_of(context: Context) -> bytes:
    """Where qmail-smtpd would run its plugins."""
    return os.path.join(context.root, context.host.settings.home.lstrip(b"/"))


def command_of(context: Context, home: bytes, plugin: bytes) -> tuple[bytes, ...]:
    """What is run for a line of the file."""
    if plugin.startswith(b":"):
        return b"/bin/sh", b"-c", plugin[1:]
    if plugin.startswith(b"/"):
        return (os.path.join(context.root, plugin.lstrip(b"/")),)
    return (os.path.join(home, plugin),)


def sections(context: Context, config: bytes, since: float) -> Sections:
    """The plugins of a file, whose name is from qmail's home; raises
    :class:`SourceDown`."""
    name = config if config.startswith(b"/") else b"../" + config
    try:
        lines = context.host.moment(since).control().lines(name)
    except (ControlError, KernelError, CannotTell) as error:
        raise SourceDown(f"{shown(config)}: {error}") from error
    if lines is None:
        raise SourceDown(f"{shown(config)} does not exist")
    return read_sections(lines)


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, QmailSpp(settings, context), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """Whether the file can be read, and the plugins in it be run."""
    try:
        plugins = sections(context, os.fsencode(settings.config), float("inf"))
    except SourceDown as error:
        remedy = "write it, or set config to where it is"
        yield Trouble(str(error), remedy)
        return
    home = home_of(context)
    for section in _RUN:
        for plugin in plugins.get(section, ()):
            if not plugin.startswith(b":"):
                yield from check_program(command_of(context, home, plugin)[0])
    for section in sorted(set(plugins) - set(_RUN) - {b""}):
        text = f"{settings.config}: plugins of section [{shown(section)} are not run"
        yield Trouble(text, "the front door asks at RCPT only", level=NOTE)
