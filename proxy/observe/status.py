"""The status server: a page for people, metrics, health and readiness.

Knows: HTTP, by aiohttp, which only this module imports.  Knows not: how any
of what it shows came about.  Started by the service when ``[status]`` is
configured.

What strangers sent is shown escaped, as in the log; the page has no script
and nothing from elsewhere, and its policy forbids both.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import NamedTuple

from aiohttp import web

from proxy.observe.events import BackendRefusedRecipient, Event, RecipientDecided
from proxy.observe.lines import visible
from proxy.observe.metrics import CONTENT_TYPE, Metrics


class Refusal(NamedTuple):
    """A recipient that was refused, or would have been (``observed``)."""

    when: float
    client: str
    recipient: bytes
    rule: str
    reason: str
    observed: bool


class Recent:
    """An ``Observer`` that keeps the last refusals."""

    def __init__(
        self, limit: int = 20, *, now: Callable[[], float] = time.time
    ) -> None:
        # Shown far more seldom than kept: a Refusal is made when it is shown.
        self._kept: deque[tuple[float, RecipientDecided | BackendRefusedRecipient]]
        self._kept = deque(maxlen=limit)
        self._now = now

    def __call__(self, event: Event) -> None:
        """Keep it, if it is one."""
        if isinstance(event, RecipientDecided):
            if event.verdict == "reject" or event.observed == "reject":
                self._kept.append((self._now(), event))
        elif isinstance(event, BackendRefusedRecipient) and event.reply[:1] == "5":
            self._kept.append((self._now(), event))

    def __iter__(self) -> Iterator[Refusal]:
        """The newest first."""
        return (_refusal(when, event) for when, event in reversed(self._kept))


def _refusal(when: float, event: RecipientDecided | BackendRefusedRecipient) -> Refusal:
    client, recipient = event.client, event.recipient
    if isinstance(event, RecipientDecided):
        observed = bool(event.observed)
        return Refusal(when, client, recipient, event.rule, event.reason, observed)
    return Refusal(when, client, recipient, "backend", event.reply, False)


class StatusInfo(NamedTuple):
    """What the service tells of itself.

    ``relaying`` is whether the backend relays for us, in words; ``warning``
    what is wrong although it serves; ``more_backends`` are those after the
    first, with their states.
    """

    version: str
    mode: str
    addresses: tuple[str, ...]
    backend: str
    backend_state: str
    configuration: str = "as at the start"
    relaying: str = "not asked"
    warning: str = ""
    more_backends: tuple[tuple[str, str], ...] = ()


Readiness = Callable[[], str]
"""Why the service is not ready; empty if it is."""


# The page.

_STYLE = """
:root { color-scheme: light dark; --line: #ccc; --back: #fff; --text: #222 }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --back: #181818; --text: #ddd }
}
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; background: var(--back); color: var(--text) }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>qmail-backstop</title>
<style>{style}</style>
</head>
<body>
<h1>qmail-backstop</h1>
<table>
{facts}
</table>
<h2>Last refusals</h2>
{refusals}
<p><a href="/metrics">metrics</a> <a href="/healthz">health</a>
<a href="/readyz">readiness</a></p>
</body>
</html>
"""


def page(
    info: StatusInfo,
    metrics: Metrics,
    recent: Iterable[Refusal],
    not_ready: str,
    now: float,
) -> str:
    """The page as HTML."""
    facts = [
        ("version", info.version),
        ("mode", info.mode),
        ("state", f"not ready: {not_ready}" if not_ready else "ready"),
        *([("warning", info.warning)] if info.warning else ()),
        ("up for", _duration(now - metrics.started)),
        ("listening on", ", ".join(info.addresses) or "nothing"),
        ("backend", f"{info.backend} ({info.backend_state})"),
        *(("backend", f"{name} ({state})") for name, state in info.more_backends),
        ("configuration", info.configuration),
        ("backend relaying", info.relaying),
        ("sessions now", str(metrics.sessions)),
        ("connections", str(metrics.connections)),
        ("bounces prevented", str(metrics.prevented)),
        ("bounces leaked", _leaked(metrics)),
        ("recipients refused", str(metrics.answered("reject"))),
        ("recipients accepted", str(metrics.answered("accept"))),
        ("recipients deferred", str(metrics.answered("defer"))),
    ]
    if info.mode == "observe":
        would = metrics.observed[("reject",)]
        facts.append(("would have been prevented", str(would)))
    return _PAGE.format(
        style=_STYLE,
        facts="\n".join(
            f'<tr><th scope="row">{name}</th> <td>{_shown(value)}</td></tr>'
            for name, value in facts
        ),
        refusals=_refusals(recent),
    )


def _leaked(metrics: Metrics) -> str:
    """How many, and whether anybody looks."""
    number = sum(metrics.leaked.values())
    return str(number) if number or metrics.leakwatch() else "nobody looks (leakwatch)"


def _refusals(recent: Iterable[Refusal]) -> str:
    rows = [_refusal_row(refusal) for refusal in recent]
    if not rows:
        return "<p>None yet.</p>"
    names = ("time (UTC)", "client", "recipient", "rule", "reason")
    head = " ".join(f'<th scope="col">{name}</th>' for name in names)
    return "\n".join(["<table>", f"<tr>{head}</tr>", *rows, "</table>"])


def _refusal_row(refusal: Refusal) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(refusal.when))
    reason = refusal.reason + (" (let pass: observe mode)" if refusal.observed else "")
    values = (when, refusal.client, refusal.recipient, refusal.rule, reason)
    # The blanks are for browsers that know no tables.
    return f"<tr>{' '.join(f'<td>{_shown(value)}</td>' for value in values)}</tr>"


def _shown(value: bytes | str) -> str:
    return escape(visible(value))


def _duration(seconds: float) -> str:
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour:02}:{minute:02}:{second:02}"


# The server.

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class StatusServer:
    """Serves ``/``, ``/metrics``, ``/healthz``, ``/readyz``; GET and HEAD."""

    def __init__(
        self,
        metrics: Callable[[], Metrics],
        recent: Iterable[Refusal],
        info: Callable[[], StatusInfo],
        readiness: Readiness,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._recent = recent
        self._info = info
        self._readiness = readiness
        self._now = now
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, chosen by the system for 0.  Raises ``OSError``."""
        return await self._start(lambda runner: web.TCPSite(runner, host, port))

    async def start_on(self, sock: socket.socket) -> int:
        """As :meth:`start`, on a socket that is bound."""
        return await self._start(lambda runner: web.SockSite(runner, sock))

    async def _start(self, site: Callable[[web.AppRunner], web.BaseSite]) -> int:
        runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            await site(runner).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close every connection; may be called twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=1024)
        application.on_response_prepare.append(_set_headers)
        application.add_routes(  # get() is HEAD too; anything else gets 405
            [
                web.get("/", self._page),
                web.get("/metrics", self._serve_metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
            ]
        )
        return application

    async def _page(self, request: web.Request) -> web.Response:
        html = page(
            self._info(), self._metrics(), self._recent, self._readiness(), self._now()
        )
        return web.Response(text=html, content_type="text/html")

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics().render(), headers={"Content-Type": CONTENT_TYPE}
        )

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = self._readiness()
        if reason:
            return web.Response(status=503, text=visible(reason) + "\n")
        warning = self._info().warning
        return web.Response(
            text=f"ready\nwarning: {visible(warning)}\n" if warning else "ready\n"
        )


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.pop("Server", None)  # nobody's business
