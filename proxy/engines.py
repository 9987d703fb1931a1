"""The engines of a running service: made anew at each reload, let go when unused.

Knows: that sessions keep the rules they began with, and that rules hold connections
and programs.  Knows not: any rule.  Called by ``service``.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from proxy import assemble
from proxy.config import Config
from proxy.observe.events import Event, RuleAnswered
from proxy.qmail.host import QmailHost
from proxy.rules.engine import Closable, Engine
from proxy.rules.slices import in_slices


class Engines:
    """Makes the configured rules; ``observer`` hears what sources say, ``failed``
    the name of a rule that fails, and how; ``say`` what rules' programs say."""

    def __init__(
        self,
        observer: Callable[[Event], None],
        failed: Callable[[str, Exception], None],
        say: Callable[[str, str], None],
    ) -> None:
        self._observer = observer
        self._failed = failed
        self._say = say
        self._held: list[tuple[Closable, ...]] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def make(self, config: Config, host: QmailHost) -> Engine:
        """The rules of ``config`` on ``host``; what they hold is let go with the
        last session that has them.  Sessions are served while large files are
        read."""
        steps = assemble.engine_in_steps(
            config, host, self._failed, self._answered, self._say, serving=True
        )
        engine = await in_slices(steps)
        if engine.holders:
            self._held.append(engine.holders)
            weakref.finalize(engine, self._unused, engine.holders).atexit = False
        return engine

    async def close(self) -> None:
        """Let go of everything."""
        held, self._held = self._held, []
        await asyncio.gather(*map(_close, held), *self._closing)

    def _unused(self, holders: tuple[Closable, ...]) -> None:
        if holders in self._held:
            self._held.remove(holders)
            task = asyncio.ensure_future(_close(holders))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _answered(self, rule: str, answer: str, seconds: float) -> None:
        self._observer(RuleAnswered(rule, answer, seconds))


async def _close(holders: tuple[Closable, ...]) -> None:
    for holder in holders:
        await holder.close()
