"""What the status page shows of a running service, put together of all its workers.

Knows: the metrics, refusals and history of this process and the others', the rules
that are in force, the backends in words.  Knows not: HTTP and HTML
(:mod:`proxy.observe`).  Made by
``service``.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy import __version__
from proxy.config import Config
from proxy.config.values import is_loopback
from proxy.observe.history import History, Numbers
from proxy.observe.kept import Kept, Say
from proxy.observe.metrics import Metrics
from proxy.observe.page import Explained, StatusInfo
from proxy.observe.recent import Recent, Seen, together
from proxy.observe.status import Access, StatusServer
from proxy.rules.engine import Engine
from proxy.rules.verdict import ANYBODY, Question, Verdict
from proxy.watch import Watch

Others = Callable[[], Sequence[Mapping[str, Any]]]
"""The snapshots of the other workers."""

# What a sample costs grows with the workers, and a picture is made of ten minutes.
_SAMPLE_SECONDS = 5.0


class Showing:
    """Keeps what the page wants to know; serves it once it is started."""

    def __init__(self, metrics: Metrics, others: Others, say: Say) -> None:
        """``say`` tells what is wrong with the file of ``status.history``."""
        self.metrics = metrics
        self._others = others
        self._say = say
        self.recent = Recent()
        self._history = History(time.time())
        self._kept: Kept | None = None
        self._server: StatusServer | None = None
        self._sampled = 0.0

    def all_metrics(self) -> Metrics:
        """The numbers of all workers."""
        others = self._others()
        return self.metrics.with_others(others) if others else self.metrics

    def snapshot(self) -> dict[str, Any]:
        """What this worker shows to the others."""
        return self.metrics.snapshot() | {"seen": self.recent.snapshot()}

    def tick(self) -> None:
        """Keep the numbers now and then; called once a second."""
        self.recent.count()
        if self._server is not None:
            since = time.time() - self._sampled
            if not 0 <= since < _SAMPLE_SECONDS:
                self.history()
                if self._kept is not None:
                    self._kept.tick(self._history)

    def history(self) -> History:
        """What was, up to now."""
        self._sampled = now = time.time()
        self._history.sample(self._totals(), now)
        return self._history

    def _totals(self) -> Numbers:
        metrics = self.all_metrics()
        passed = metrics.observed[("reject",)]  # in observe mode
        return Numbers(
            metrics.prevented + passed,
            metrics.answered("accept") - passed,
            metrics.answered("defer"),
            sum(metrics.leaked.values()),
        )

    async def start(
        self,
        sock: socket.socket,
        config: Config,
        info: Callable[[], StatusInfo],
        readiness: Callable[[], str],
        engine: Callable[[], Engine],
    ) -> int:
        """Serve on a bound socket; the port.  Raises ``OSError``."""

        async def explain(address: bytes) -> Explained:
            return await _explained(engine(), address)

        if config.status.history is not None:
            self._kept = Kept(config.status.history, self._say)
            self._history = self._kept.read()
            # A worker that replaces another has its numbers, which are in there.
            self._history.begin(self._totals())
        self._server = StatusServer(
            self.all_metrics,
            self._seen,
            info,
            readiness,
            explain,
            history=self.history,
            kept=self._kept is not None,
            access=access(config, sock),
        )
        return await self._server.start_on(sock)

    async def stop(self) -> None:
        """Close every connection, and keep what is to be kept."""
        if self._server is not None:
            await self._server.stop()
        if self._kept is not None:
            self._kept.save(self.history())

    def _seen(self) -> Seen:
        return together(
            self.recent.seen(),
            [other["seen"] for other in self._others() if "seen" in other],
        )


def status_info(
    mode: str, addresses: Sequence[str], configuration: tuple[str, float], watch: Watch
) -> StatusInfo:
    """What the service says of itself; ``configuration``: what became of it, and when
    (seconds since the epoch)."""
    first, *more = watch.states()
    what, when = configuration
    return StatusInfo(
        version=__version__,
        mode=mode,
        addresses=tuple(addresses),
        backend=first[0],
        backend_state=first[1],
        configuration=what,
        relaying=watch.relaying,
        warning=watch.warning,
        more_backends=tuple(more),
        configured=when,
    )


def access(config: Config, sock: socket.socket) -> Access:
    """Who may see the page on this socket: on loopback everybody, unless a token is
    set; elsewhere nobody without one."""
    name = sock.getsockname()
    local = not isinstance(name, tuple) or _is_local(str(name[0]))
    address = config.status.address or ""
    host = address.rpartition(":")[0].strip("[]")
    return Access(config.status.token or "", not local, host)


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return is_loopback(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


async def _explained(engine: Engine, address: bytes) -> Explained:
    answer = engine.ask(Question(address, ANYBODY))
    verdict = answer if isinstance(answer, Verdict) else await answer
    kind = verdict.observed or verdict.kind
    return Explained(
        address.decode("utf-8", "replace"),
        kind.value,
        verdict.reply.text,
        verdict.rule,
        verdict.reason + (" (let pass: observe mode)" if verdict.observed else ""),
        [(step.where(), step.note()) for step in verdict.trace],
    )
