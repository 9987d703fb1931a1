"""What all sources of recipients have in common, so that one file makes a rule.

Knows: for which domains a source is asked, how long and how many times at once, what
its answers mean, what was said before, that an error is a deferral.  Knows not: any
source.  A rule's module has ``Settings``, its keys
(:class:`~proxy.config.rules.SourceKeys` or ``RemoteKeys``), and ``build(settings,
context)``, which gives a :class:`SourceRule` around its :class:`Source`; as a generator
(:data:`~proxy.rules.slices.Steps`) where it has much to read before.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from proxy.config.rules import RemoteKeys, SourceKeys
from proxy.qmail.host import QmailHost
from proxy.qmail.smtpd import suffixes
from proxy.rules.memory import Memory
from proxy.rules.undecided import Policy, judged
from proxy.rules.verdict import (
    Answer,
    Change,
    Instead,
    Kind,
    Note,
    OnRuleError,
    Question,
    Verdict,
)
from proxy.smtp import replies
from proxy.smtp.reply import Reply

ACCEPTED = Reply(250, b"2.1.5 ok")


class Says(enum.Enum):
    """What a source makes of a recipient.

    ``FOUND`` and ``MISSING`` are facts, whose meaning the keys ``found`` and
    ``missing`` give; the others are the source's own word.
    """

    FOUND = "found"
    MISSING = "missing"
    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    PASS = "pass"


class Finding(NamedTuple):
    """A source's answer: ``note`` says why, for people; ``reply`` is said to the
    client in place of our own, where the source has one.  ``undecided``: delivery
    depends on more than the source knows.  ``change``: what is to be otherwise, for
    the rules that follow, too."""

    says: Says
    note: str = ""
    reply: Reply | None = None
    undecided: bool = False
    change: Change | None = None


class SourceDown(Exception):
    """The source cannot tell now; the text says why, for the log.  A source may
    raise anything else as well: all of it is a deferral."""


class Source(Protocol):
    """One source of recipients."""

    def query(self, question: Question) -> str:
        """What it is asked, for ``explain``; without secrets."""
        ...

    def ask(self, question: Question) -> Finding | Awaitable[Finding]:
        """What it says of ``question.mailbox``; later only where its keys are
        ``RemoteKeys``.  Must not block; what it raises is a deferral."""
        ...

    def key(self, question: Question) -> bytes | None:
        """What the answer depends on, to be remembered by; ``None``: on more than
        that."""
        ...

    async def close(self) -> None:
        """Let go of connections and programs.  Questions may still come; they are
        answered."""
        ...


class BaseSource:
    """What most sources do: the answer depends on the mailbox alone, letters of any
    case being the same, and nothing is held that must be let go."""

    def key(self, question: Question) -> bytes | None:
        return question.mailbox.lower()

    async def close(self) -> None:
        return


OnAnswer = Callable[[str, str, float], None]
"""Told a rule's name, its answer (one of :class:`Says`, or ``error``, ``timeout``,
``remembered``, ``last known good``), and how many seconds that took."""


def unheard(name: str, answer: str, seconds: float) -> None:
    """Nobody wants to know."""


def _ignored(name: str, error: Exception) -> None:
    """Nobody wants to know."""


def unsaid(level: str, text: str) -> None:
    """Nobody wants to know."""


class Context(NamedTuple):
    """What a rule may be built from besides its own keys.

    ``root`` is where the qmail host's file system is seen.  ``say`` takes a level and
    a text for the log.  ``tells_backend``: a backend is a program, whose environment
    rules may change.
    """

    name: str
    host: QmailHost
    root: bytes = b"/"
    guard_relay: bool = False
    allow_percenthack: bool = True
    undecided: Policy = "accept"
    on_answer: OnAnswer = unheard
    on_error: OnRuleError = _ignored
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str, str], None] = unsaid
    tells_backend: bool = False


T = TypeVar("T")


class SourceRule:
    """A rule around a source."""

    def __init__(self, keys: SourceKeys, source: Source, context: Context) -> None:
        self.name = context.name
        self._source = source
        self._keys = keys
        self._domains = frozenset(name.encode("latin-1") for name in keys.domains)
        self._on_answer = context.on_answer
        self._on_error = context.on_error
        self._undecided: Policy = context.undecided
        self._clock = context.clock
        remote = keys if isinstance(keys, RemoteKeys) else None
        self._remote = remote is not None
        self._timeout = remote.timeout if remote else 0.0
        self._good_for = remote.last_known_good if remote else 0.0
        places = remote.concurrency if remote else 0
        self._places: AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(places) if places else nullcontext()
        )
        longest = max(keys.cache_found, self._good_for)
        self._remembers = max(longest, keys.cache_missing) > 0
        self._found: Memory[Finding] = Memory(longest, self._clock)
        self._missing: Memory[Finding] = Memory(keys.cache_missing, self._clock)

    def ask(self, question: Question) -> Answer | Awaitable[Answer]:
        """The source's opinion; ``None`` for domains that are not its own."""
        if self._domains and not self._is_for(question.mailbox):
            return None
        began = self._clock()
        key = self._source.key(question) if self._remembers else None
        remembered = self._remembered(key)
        if remembered is not None:
            return self._told(question, remembered, "remembered", began)
        if self._remote:
            return self._wait(question, key, began)
        try:
            found = self._source.ask(question)
            assert isinstance(found, Finding), "only what has RemoteKeys may wait"
        except Exception as error:
            return self._down(question, key, error, began)
        return self._heard(question, key, found, began)

    async def close(self) -> None:
        """Let go of what the source holds."""
        await self._source.close()

    async def within(self, asked: Callable[[], Awaitable[T]]) -> T:
        """The answer to another question than that of :meth:`ask`, in its time and by
        its turns; what goes wrong is told, and raised as :class:`SourceDown`."""
        began = self._clock()
        try:
            async with asyncio.timeout(self._timeout or None), self._places:
                return await asked()
        except Exception as error:
            late = isinstance(error, TimeoutError)
            seconds = self._clock() - began
            self._on_answer(self.name, "timeout" if late else "error", seconds)
            raise SourceDown(self._reason(error)) from error

    async def once_more(
        self, question: Question, asked: Callable[[], Awaitable[Finding | None]]
    ) -> Answer:
        """As :meth:`ask`, but for another question about the recipient, on which the
        source may have nothing to say; nothing is remembered."""
        began = self._clock()
        try:
            async with asyncio.timeout(self._timeout or None), self._places:
                found = await asked()
        except Exception as error:
            return self._down(question, None, error, began)
        if found is None:
            return None
        return self._told(question, found, found.says.value, began)

    def _is_for(self, mailbox: bytes) -> bool:
        domain = mailbox[mailbox.rfind(b"@") + 1 :].lower()
        return not self._domains.isdisjoint(suffixes(domain))

    async def _wait(
        self, question: Question, key: bytes | None, began: float
    ) -> Answer:
        try:
            async with asyncio.timeout(self._timeout or None), self._places:
                found = self._source.ask(question)
                if not isinstance(found, Finding):
                    found = await found
        except Exception as error:
            return self._down(question, key, error, began)
        return self._heard(question, key, found, began)

    # What was said before.

    def _remembered(self, key: bytes | None) -> Finding | None:
        if key is None:
            return None
        found = self._found.get(key, self._keys.cache_found)
        return found or self._missing.get(key, self._keys.cache_missing)

    def _remember(self, key: bytes, finding: Finding) -> None:
        if finding.says in (Says.FOUND, Says.ACCEPT):
            self._found.put(key, finding)
            self._missing.forget(key)
        elif finding.says in (Says.MISSING, Says.REJECT):
            self._missing.put(key, finding)
            self._found.forget(key)

    # From what the source says to a verdict.

    def _heard(
        self, question: Question, key: bytes | None, finding: Finding, began: float
    ) -> Answer:
        if key is not None:
            self._remember(key, finding)
        return self._told(question, finding, finding.says.value, began)

    def _down(
        self, question: Question, key: bytes | None, error: Exception, began: float
    ) -> Answer:
        late = isinstance(error, TimeoutError)
        why = self._reason(error)
        good = self._found.get(key, self._good_for) if key is not None else None
        self._on_error(self.name, SourceDown(why))
        if good is not None:
            good = good._replace(note=f"{good.note} (last known good: {why})")
            return self._told(question, good, "last known good", began)
        return self._told(
            question, Finding(Says.DEFER, why), "timeout" if late else "error", began
        )

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        return _why(error)

    def _told(
        self, question: Question, finding: Finding, answer: str, began: float
    ) -> Answer:
        self._on_answer(self.name, answer, self._clock() - began)
        says = finding.says.value
        if finding.says is Says.FOUND:
            says = self._keys.found
        elif finding.says is Says.MISSING:
            says = self._keys.missing
        note = finding.note or finding.says.value
        steps: tuple[Note, ...] = ()
        if question.traced:
            text = f"{self._source.query(question)}: {note}"
            steps = (Note(f"rule {self.name}", text),)
        if says == Says.PASS.value:
            if question.notes is not None:
                question.notes.extend(steps)
            return None if finding.change is None else Instead(finding.change)
        verdict = _verdict(says, finding.reply, self.name, note, finding.undecided)
        change = finding.change if verdict.kind is Kind.ACCEPT else None
        if steps or change:
            verdict = replace(verdict, trace=steps, change=change)
        if verdict.undecided:
            return judged(verdict, self._undecided, question.sender)
        return verdict


@lru_cache(maxsize=256)
def _verdict(
    says: str, reply: Reply | None, name: str, note: str, undecided: bool
) -> Verdict:
    """Most answers of a rule are the same one."""
    kind = Kind(says)
    return Verdict(kind, reply or _REPLIES[kind], name, note, undecided)


_REPLIES = {
    Kind.ACCEPT: ACCEPTED,
    Kind.REJECT: replies.NO_SUCH_RECIPIENT,
    Kind.DEFER: replies.RECIPIENT_DEFERRED,
}


def _why(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, SourceDown)
        else f"{type(error).__name__}: {error}"
    )
