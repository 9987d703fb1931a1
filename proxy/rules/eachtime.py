"""A program that is run for each question, with the addresses in its environment.

Knows: what the program is told of the question.  Knows not: its arguments, what its
end means (its rule does), how programs are run (``running``).  Used by ``command`` and
``rcptcheck``.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.rules.running import Ended, Programs
from proxy.rules.source import BaseSource, Context
from proxy.rules.surroundings import Surroundings, fit
from proxy.rules.verdict import Question


class EachTime(BaseSource):
    """The half of a source that runs its program; ``run`` is for the other half."""

    def __init__(self, concurrency: int, context: Context) -> None:
        self._surroundings = Surroundings(context.host)
        self._programs = Programs(concurrency, context)

    def key(self, question: Question) -> bytes | None:
        return None  # the answer depends on the sender and the client, too

    async def close(self) -> None:
        await self._programs.close()

    async def run(
        self,
        command: Sequence[str | bytes],
        question: Question,
        recipient: bytes,
        **more: bytes,
    ) -> Ended:
        """How it ends, with RECIPIENT, SENDER, HELO and ``more`` beside what
        tcpserver gives; raises :class:`~proxy.rules.source.SourceDown`."""
        facts = question.facts()
        environment = self._surroundings.of(question, facts)
        environment[b"RECIPIENT"] = fit("recipient", recipient)
        environment[b"SENDER"] = fit("sender", question.sender)
        environment[b"HELO"] = fit("HELO name", facts.helo)
        environment.update({name.encode(): value for name, value in more.items()})
        return await self._programs.run(command, environment)
