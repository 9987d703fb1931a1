"""The status server: a page for people, metrics, health and readiness.

Knows: HTTP, by aiohttp, which only this module imports; who may see the page.
Knows not: what it looks like (:mod:`proxy.observe.page`), how any of it came about.
Started by the service when ``[status]`` is configured.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from proxy.observe.history import History
from proxy.observe.lines import visible
from proxy.observe.metrics import CONTENT_TYPE, Metrics
from proxy.observe.page import Explained, Shown, StatusInfo, page
from proxy.observe.recent import Seen
from proxy.observe.style import SCRIPT_HASH

Readiness = Callable[[], str]
"""Why the service is not ready; empty if it is."""

Explain = Callable[[bytes], Awaitable[Explained]]
"""What RCPT would be answered to an address."""


class Access(NamedTuple):
    """Who may see the page, which names senders and recipients: whoever knows the
    ``token``; without one everybody, unless ``needed``, as on a public address."""

    token: str = ""
    needed: bool = False


# The server.

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
    f" script-src 'sha256-{SCRIPT_HASH}'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


_COOKIE = "backstop"
_ADDRESS_MAX = 1000
# Explanations at a time: somebody may hold the key down.
_EXPLAIN_AT_ONCE = 4

_NO_TOKEN = (
    "The page names senders and recipients. On an address that others reach it wants"
    " a password: set status.token, and open /?token=..., or listen on 127.0.0.1.\n"
)
_WRONG_TOKEN = "Open /?token=... with the word of status.token.\n"


class StatusServer:
    """Serves ``/``, ``/explain``, ``/metrics``, ``/healthz``, ``/readyz``; GET and
    HEAD."""

    def __init__(
        self,
        metrics: Callable[[], Metrics],
        seen: Callable[[], Seen],
        info: Callable[[], StatusInfo],
        readiness: Readiness,
        explain: Explain,
        *,
        history: Callable[[], History] = History,
        kept: bool = False,
        access: Access = Access(),  # noqa: B008 -- a value that does not change
        now: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._seen = seen
        self._info = info
        self._readiness = readiness
        self._explain = explain
        self._history = history
        self._kept = kept
        self._access = access
        self._now = now
        self._explaining = asyncio.Semaphore(_EXPLAIN_AT_ONCE)
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
                web.get("/explain", self._explained),
                web.get("/metrics", self._serve_metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
            ]
        )
        return application

    async def _page(self, request: web.Request) -> web.Response:
        return self._refusal(request) or self._shown(None)

    async def _explained(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        address = request.query.get("address", "").strip()
        if not address or len(address) > _ADDRESS_MAX:
            return self._shown(None)
        async with self._explaining:
            given = address.encode("utf-8", "surrogateescape")
            return self._shown(await self._explain(given))

    def _shown(self, explained: Explained | None) -> web.Response:
        now, history = self._now(), self._history()
        shown = Shown(
            self._info(),
            self._metrics(),
            self._seen(),
            history.slots(now),
            history.days(1, now),
            history.days(31, now),
            self._readiness(),
            now,
            history.since,
            self._kept,
        )
        return web.Response(text=page(shown, explained), content_type="text/html")

    def _refusal(self, request: web.Request) -> web.Response | None:
        """What is said instead of the page to those who may not see it."""
        token, needed = self._access
        if not token:
            return web.Response(status=403, text=_NO_TOKEN) if needed else None
        given = request.query.get("token", "")
        if given and _same(given, token):
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(_COOKIE, token, httponly=True, samesite="Strict")
            return answer
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        for known in (request.cookies.get(_COOKIE, ""), bearer):
            if _same(known, token):
                return None
        return web.Response(status=403, text=_WRONG_TOKEN)

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


def _same(given: str, token: str) -> bool:
    """In a time that tells nothing of where they differ."""
    words = (given.encode("utf-8", "surrogateescape"), token.encode())
    return hmac.compare_digest(*words)


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.pop("Server", None)  # nobody's business
