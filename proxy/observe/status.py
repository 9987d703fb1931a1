"""The status server: a page for people, metrics, health and readiness.

Knows: HTTP, by aiohttp, which only this module imports; who may see the page.
Knows not: what it looks like (:mod:`proxy.observe.page`), how any of it came about.
Started by the service when ``[status]`` is configured.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from aiohttp import web

from proxy.observe.history import History
from proxy.observe.lines import visible
from proxy.observe.metrics import CONTENT_TYPE, Metrics
from proxy.observe.page import Explained, Shown, StatusInfo, page
from proxy.observe.recent import Seen
from proxy.observe.style import SCRIPT_HASH

Readiness = Callable[[], str]
"""Why the service is not ready; empty if it is."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Explain = Callable[[bytes], Awaitable[Explained]]
"""What RCPT would be answered to an address."""


class Access(NamedTuple):
    """Who may see the page, which names senders and recipients: whoever knows the
    ``token``; without one everybody who reaches it under the name of ``host`` or of
    this machine, unless ``needed``, as on a public address."""

    token: str = ""
    needed: bool = False
    host: str = ""


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
# Their descriptors are taken from the mail's: people and monitors need few.
CONNECTIONS_MAX = 32
# Seconds from one look at silent connections to the next, which ends them.
SILENT_SECONDS = 5.0

_NO_TOKEN = (
    "The page names senders and recipients. On an address that others reach it wants"
    " a password: set status.token, and open /?token=..., or listen on 127.0.0.1.\n"
)
_OTHER_NAME = (
    "The page is shown under status.address and as localhost only. For another name,"
    " set status.token.\n"
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
        self._listener: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._silent: set[web.RequestHandler] = set()
        self._answering: Counter[web.RequestHandler] = Counter()

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, chosen by the system for 0.  Raises ``OSError``."""
        return await self._start(host=host, port=port)

    async def start_on(self, sock: socket.socket) -> int:
        """As :meth:`start`, on a socket that is bound."""
        return await self._start(sock=sock)

    async def _start(self, **where: Any) -> int:
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=SILENT_SECONDS,
            handler_cancellation=True,
        )
        await runner.setup()
        self._runner = runner
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(self._accept, **where)
        except BaseException:
            await self.stop()
            raise
        self._timer = loop.call_later(SILENT_SECONDS, self.sweep)
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close every connection; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def connections(self) -> int:
        """Those that are open now."""
        return len(self._connected())

    def sweep(self) -> None:
        """End connections that have asked nothing whole since the last time."""
        for each in self._connected():
            if each in self._silent:
                each.force_close()
        self._silent = {c for c in self._connected() if not self._answering[c]}
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SILENT_SECONDS, self.sweep)

    def _connected(self) -> list[web.RequestHandler]:
        server = self._runner.server if self._runner is not None else None
        return list(server.connections) if server is not None else []

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server if self._runner is not None else None
        if server is None or len(server.connections) >= CONNECTIONS_MAX:
            return _TurnedAway()
        return server()

    def _application(self) -> web.Application:
        application = web.Application(
            client_max_size=1024, middlewares=[self._count_answers]
        )
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

    @web.middleware
    async def _count_answers(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        connection = request.protocol
        self._silent.discard(connection)
        self._answering[connection] += 1
        try:
            return await handler(request)
        finally:
            self._answering[connection] -= 1
            if not self._answering[connection]:
                del self._answering[connection]

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
        token, needed, host = self._access
        if not token:
            if needed:
                return web.Response(status=403, text=_NO_TOKEN)
            if _names_us(request.headers.get("Host"), host):
                return None
            return web.Response(status=403, text=_OTHER_NAME)
        given = request.query.get("token", "")
        if given and _same(given, token):
            kept = {k: v for k, v in request.query.items() if k != "token"}
            there = str(request.rel_url.with_query(kept))
            answer = web.Response(status=303, headers={"Location": there})
            answer.set_cookie(_COOKIE, token, httponly=True, samesite="Strict")
            return answer
        scheme, _, word = request.headers.get("Authorization", "").partition(" ")
        bearer = word.strip() if scheme.lower() == "bearer" else ""  # RFC 9110 §11.1
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


class _TurnedAway(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def _names_us(given: str | None, host: str) -> bool:
    """Whether a Host header is ours: another name that leads here is somebody's who
    wants a browser to read the page for him (DNS rebinding).  Only browsers matter,
    and they always send one."""
    if given is None:
        return True
    name = given.rpartition(":")[0] if re.search(r":\d*$", given) else given
    name = name.strip("[]").lower()
    if name in ("localhost", host.lower()):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same(given: str, token: str) -> bool:
    """In a time that tells nothing of where they differ."""
    words = (given.encode("utf-8", "surrogateescape"), token.encode())
    return hmac.compare_digest(*words)


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.pop("Server", None)  # nobody's business
