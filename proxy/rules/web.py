"""Questions over HTTP: one request, a bounded answer, nothing followed.

Knows: aiohttp, which is loaded when a rule is built that wants it.  Knows not: what is
asked.  Used by the rules ``http`` and ``deliverabled``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator

from proxy.config.values import wrong
from proxy.rules.source import SourceDown

if TYPE_CHECKING:
    import aiohttp

BODY_MAX = 65536
"""Bytes of an answer that are read."""


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good or not text.isascii() or not text.isprintable() or " " in text:
        raise wrong("is not a URL", 'write it like "http://127.0.0.1:8998"')
    if parts.username is not None:
        raise wrong("has a user in it", "others may read it here: leave it out")
    return text


Url = Annotated[str, AfterValidator(_checked_url)]


class Heard(NamedTuple):
    """An answer: its status, its body, and whether it calls itself JSON."""

    status: int
    body: bytes
    json: bool


class Web:
    """Asks; ``keep`` says whether connections are kept between questions."""

    def __init__(self, *, keep: bool) -> None:
        # Now: at the first question all sessions would wait for it.
        importlib.import_module("aiohttp")
        self._keep = keep
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, method: str, url: str, data: Any = None, *, authorization: str = ""
    ) -> Heard:
        """The answer to a request; ``url`` is sent as it is, ``data`` as JSON.

        Redirects are not followed, no proxy of the environment is used, certificates
        are verified.  Raises :class:`SourceDown`.
        """
        import aiohttp

        session = self._session
        if session is None or session.closed:
            session = self._session = _session(keep=self._keep)
        headers = {"Authorization": authorization} if authorization else None
        try:
            try:
                return await _asked(session, method, url, data, headers)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                new = isinstance(error, aiohttp.ClientConnectorError)
                if new or not self._keep:
                    raise
            # A kept connection that the server has closed; others may be closed, too.
            # Questions change nothing: a POST may be sent again.
            async with _session(keep=False) as fresh:
                return await _asked(fresh, method, url, data, headers)
        except aiohttp.ClientError as error:
            why = str(error) or type(error).__name__
            raise SourceDown(f"{method} failed: {why}") from error

    async def close(self) -> None:
        """Close what is kept."""
        if self._session is not None:
            await self._session.close()


def _session(*, keep: bool) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # the rule has its own
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


async def _asked(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    data: Any,
    headers: dict[str, str] | None,
) -> Heard:
    from yarl import URL

    async with session.request(
        method,
        URL(url, encoded=True),
        json=data,
        headers=headers,
        allow_redirects=False,
    ) as response:
        body = await _read(response)
    return Heard(response.status, body, "json" in response.content_type)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > BODY_MAX:
            response.close()
            raise SourceDown(f"an answer of more than {BODY_MAX} bytes")
    return body
