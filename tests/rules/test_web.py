"""deliverabled and http, against scripted servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote_to_bytes

import pytest
from aiohttp import web

from tests.support.asked import HOSTILE, Asked
from tests.support.ports import own_port

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def asked(port: int, kind: str = "http", **keys: object) -> Asked:
    return Asked(kind, {"url": f"http://127.0.0.1:{port}", **keys})


def said(status: int = 200, text: str = "", kind: str = "text/plain") -> Handler:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=text, content_type=kind)

    return answer


async def word(handler: Handler, kind: str = "http", **keys: object) -> str:
    async with served(handler) as port:
        it = asked(port, kind, **keys)
        try:
            return await it.word()
        finally:
            await it.rule.close()


CODES = {
    "reject": [0x00],
    "defer": [0x11, 0x21, 0x22, 0x2F, 0xFE, 0x77, 999],
    "accept": [0x12, 0x13, 0x14, *range(0xF1, 0xF7)],
    "pass": [0xFF],
}


@pytest.mark.parametrize(("expected", "codes"), CODES.items())
async def test_codes_of_deliverabled(expected: str, codes: list[int]) -> None:
    for code in codes:
        got = await word(said(text=str(code)), "deliverabled")
        assert got == expected, hex(code)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(204, "pass"), (400, "pass"), (403, "defer"), (404, "defer"), (500, "defer")],
)
async def test_statuses_of_deliverabled(status: int, expected: str) -> None:
    assert await word(said(status), "deliverabled") == expected


async def test_how_deliverabled_is_asked() -> None:
    heard = []

    async def answer(request: web.BaseRequest) -> web.Response:
        heard.append((request.raw_path, request.headers.get("Connection")))
        return web.Response(text="18")

    async with served(answer) as port:
        verdict = await (it := asked(port, "deliverabled")).verdict(b"a+b%@e.test")
        assert verdict is not None
        assert verdict.undecided
        await it.rule.close()
    assert heard == [("/qd1/deliverable?a%2Bb%25%40e.test", "close")]


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, "accept"), (204, "accept"), (404, "reject"), (301, "defer"), (503, "defer")],
)
async def test_statuses(status: int, expected: str) -> None:
    assert await word(said(status)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"verdict": "missing"}', "reject"),
        ('{"verdict": "pass"}', "pass"),
        ('{"verdict": "defer", "reply": "450 x"}', "defer"),
        ('{"verdict": "found", "reply": "550 x"}', "accept"),
        ('{"verdict": "what"}', "defer"),
        ('{"verdict": ["missing"]}', "defer"),
        ("[]", "defer"),
        ("{", "defer"),
        ('"' + "x" * 70000 + '"', "defer"),
    ],
)
async def test_bodies(body: str, expected: str) -> None:
    assert await word(said(200, body, "application/json")) == expected


async def test_its_own_reply() -> None:
    body = '{"verdict": "reject", "reply": "550 5.1.1 gone\\r\\n250 ok"}'
    async with served(said(200, body, "application/json")) as port:
        it = asked(port)
        assert await it.reply() == "550 5.1.1 gone"
        await it.rule.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_hostile_keys(method: str) -> None:
    heard: list[bytes] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "POST":
            text = json.loads(await request.text())["recipient"]
            heard.append(text.encode("utf-8", "surrogateescape"))
        else:
            query = request.raw_path.partition("?recipient=")[2]
            heard.append(unquote_to_bytes(query))
        return web.Response(status=404)

    async with served(answer) as port:
        it = asked(port, method=method)
        assert set(await it.words(HOSTILE)) == {"reject"}
        await it.rule.close()
    assert heard == list(HOSTILE)


@pytest.mark.parametrize("kind", ["http", "deliverabled"])
async def test_down_slow_and_back(kind: str) -> None:
    waiting = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        if "slow" in request.raw_path:
            waiting.set()
            await asyncio.sleep(60)
        return web.Response(text="241")

    port = own_port()
    async with served(slow, port):
        it = asked(port, kind, timeout=2)
        late = asyncio.ensure_future(it.word(b"slow@example.test"))
        await waiting.wait()
        assert await it.word() == "accept"
        assert await late == "defer"
        assert it.answers[-1] == "timeout"
    assert await it.word() == "defer"
    async with served(slow, port):
        assert await it.word() == "accept"
        await it.rule.close()


async def test_a_flood_is_bounded() -> None:
    most = now = 0

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return web.Response()

    async with served(answer) as port:
        it = asked(port, concurrency=3)
        words = await asyncio.gather(*(it.word() for _ in range(50)))
        assert set(words) == {"accept"}
        assert most <= 3
        await it.rule.close()
