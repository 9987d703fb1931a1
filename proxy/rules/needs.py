"""Who answers what the qmail decision cannot read in files.

Knows: which question is whose.  Knows not: what an answer means.  Used by the rule
``qmail``.
"""

from __future__ import annotations

import time

from proxy.qmail.host import QmailHost
from proxy.qmail.questions import (
    Answer,
    AskAccounts,
    AskCount,
    AskDaemon,
    AskLimits,
    NoAnswer,
    Question,
)
from proxy.rules import vusaged
from proxy.rules.counts import Counts
from proxy.rules.source import OnAnswer, SourceDown, unheard
from proxy.rules.verdict import OnRuleError
from proxy.rules.vpopmail import VpopmailDatabases

QUOTA = "vpopmail-quota"
"""What log and metrics call counts and the usage daemon."""


class Needs:
    """vpopmail's databases, its usage daemon, and counts of its domains."""

    def __init__(
        self,
        host: QmailHost,
        root: bytes = b"/",
        on_answer: OnAnswer = unheard,
        on_error: OnRuleError | None = None,
    ) -> None:
        """``root`` is where the qmail host's file system is seen, for sockets in it.
        ``on_answer`` hears of every answer; ``on_error`` why there was none."""
        settings = host.settings.vpopmail
        self._root = root
        self._on_answer = on_answer
        self._on_error = on_error
        self._databases = VpopmailDatabases(settings, on_answer, on_error, root)
        self._counts = Counts(host.view, settings.timeout)

    async def ask(self, question: Question) -> Answer:
        """The answer; what goes wrong is :class:`NoAnswer`."""
        if isinstance(question, AskAccounts | AskLimits):
            return await self._databases.ask(question)
        began = time.monotonic()
        answer = await self._stored(question)
        said = "error" if isinstance(answer, NoAnswer) else "found"
        self._on_answer(QUOTA, said, time.monotonic() - began)
        if isinstance(answer, NoAnswer) and self._on_error is not None:
            self._on_error(QUOTA, SourceDown(answer.why))
        return answer

    async def _stored(self, question: AskDaemon | AskCount) -> Answer:
        if isinstance(question, AskDaemon):
            return await vusaged.ask(question, self._root)
        return await self._counts.ask(question)

    async def close(self) -> None:
        """Close the connections, give up what is being counted."""
        await self._counts.close()
        await self._databases.close()
