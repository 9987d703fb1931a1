"""deliverabled and http, against scripted servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest
from aiohttp import web
from pydantic import ValidationError

from proxy.config.rules import settings_of
from proxy.rules.verdict import Kind
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


async def test_what_deliverabled_cannot_tell_may_be_refused_bounces() -> None:
    async with served(said(text="18")) as port:
        url = f"http://127.0.0.1:{port}"
        it = Asked("deliverabled", {"url": url}, undecided="no-null-sender")
        verdict = await it.verdict(sender=b"")
        assert verdict is not None
        assert (verdict.kind, verdict.reply.code) == (Kind.REJECT, 550)
        verdict = await it.verdict(sender=b"a@elsewhere.test")
        assert verdict is not None
        assert verdict.kind is Kind.ACCEPT
        await it.rule.close()


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


class Tired:
    """An HTTP server that closes each connection after some answers, without a word,
    when the next question comes."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self.connections = 0
        self.together = asyncio.Event()
        self.wanted = 1
        self._waiting = 0

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        for _ in range(self._answers):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            self._waiting += 1
            if self._waiting >= self.wanted:
                self.together.set()
            await self.together.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()


@pytest.mark.fault("R4")
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_kept_connections_that_were_closed(method: str) -> None:
    """Each is as good as none, however many there are."""
    tired = Tired(1)
    tired.wanted = 5
    async with await asyncio.start_server(tired, "127.0.0.1", 0) as server:
        it = asked(server.sockets[0].getsockname()[1], method=method)
        several = [it.word(b"bob%d@example.test" % n) for n in range(5)]
        assert await asyncio.gather(*several) == ["accept"] * 5
        for _ in range(6):
            assert await it.word() == "accept", it.errors
        await it.rule.close()


@pytest.mark.fault("R4")
async def test_a_server_that_always_closes_is_a_deferral() -> None:
    tired = Tired(0)
    async with await asyncio.start_server(tired, "127.0.0.1", 0) as server:
        it = asked(server.sockets[0].getsockname()[1], method="POST")
        assert await it.word() == "defer"
        assert tired.connections == 2
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


GOOD = {"url": "http://127.0.0.1/"}


def file(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


class Guarded:
    """Lets in who says ``wanted``; says aloud what it was told."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.told: list[str | None] = []

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.told.append(request.headers.get("Authorization"))
        if self.told[-1] == self.wanted:
            return web.Response(text=f"welcome, {self.wanted}")
        return web.Response(status=401, text=f"not {self.told[-1]}")


class TestCredentials:
    TOKEN = "aZ09-._~+/tok3n=="
    BASIC = "Basic dXNlcjpww6Rzczp3b3Jk"  # user:päss:word

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_a_token(self, tmp_path: Path, method: str) -> None:
        place = file(tmp_path / "token", self.TOKEN + "\n")
        guard = Guarded(f"Bearer {self.TOKEN}")
        async with served(guard) as port:
            it = asked(port, token_file=place, method=method)
            verdict = await it.verdict()
            assert verdict is not None
            assert verdict.kind.value == "accept"
            told = f"{verdict} {[step.note() for step in verdict.trace]}"
            assert self.TOKEN not in told
            await it.rule.close()
            stranger = asked(port)
            assert await stranger.word() == "defer"
            await stranger.rule.close()
        assert guard.told == [f"Bearer {self.TOKEN}", None]

    async def test_a_name_and_a_password(self, tmp_path: Path) -> None:
        place = file(tmp_path / "password", "p\u00e4ss:word\n")
        async with served(Guarded(self.BASIC)) as port:
            it = asked(port, user="user", password_file=place)
            assert await it.word() == "accept"
            await it.rule.close()

    async def test_refused_ones_are_not_told_and_read_anew(
        self, tmp_path: Path
    ) -> None:
        place = file(tmp_path / "password", "old-s3cret")
        async with served(Guarded(self.BASIC)) as port:
            it = asked(port, user="user", password_file=place)
            verdict = await it.verdict()
            assert verdict is not None
            assert verdict.kind.value == "defer"
            told = f"{verdict} {[step.note() for step in verdict.trace]} {it.errors}"
            assert "401" in told
            assert "old-s3cret" not in told
            assert "dXNlcjpvbGQtczNjcmV0" not in told  # user:old-s3cret
            file(tmp_path / "password", "p\u00e4ss:word")
            assert await it.word() == "accept"
            await it.rule.close()

    @pytest.mark.parametrize("secret", ["tok3n.s3cret", 'p\u00e4"ss\\w/rd', "P s&w:rd"])
    @pytest.mark.parametrize(
        "says",
        [
            '{"verdict": "missing", "reply": "550 no, %s"}',
            '{"verdict": "reject", "reply": "554 %s"}',
            '{"verdict": "defer", "reply": "450 %s"}',
            '{"verdict": "missing", "reply": "550 no", "asked by": "%s"}',
            '{"verdict": "found", "%s": 1}',
            '{"verdict": "%s"}',
            '{"verdict": "missing", "reply": {"%s": 1}}',
            "%s",
            "x" * 190 + "%s",
        ],
    )
    @pytest.mark.parametrize("write", ["as it is", "json", "numbers", "url", "basic"])
    async def test_what_it_was_shown_is_told_to_nobody(
        self, tmp_path: Path, secret: str, says: str, write: str
    ) -> None:
        """Not to the client, in the service's own words; not to the log."""
        shown = {
            "as it is": secret,
            "json": json.dumps(secret)[1:-1],
            "numbers": "".join(f"\\u{ord(each):04x}" for each in secret),
            "url": quote(secret, safe=""),
            "basic": base64.b64encode(f"user:{secret}".encode()).decode(),
        }[write]

        async def answer(request: web.BaseRequest) -> web.Response:
            status = 200 if says[0] == "{" else 500
            return web.Response(
                status=status, text=says % shown, content_type="application/json"
            )

        place = file(tmp_path / "password", secret)
        async with served(answer) as port:
            it = asked(port, user="user", password_file=place)
            verdict = await it.verdict()
            await it.rule.close()
        assert verdict is not None
        told = [verdict.reply.text, verdict.reason, *it.errors]
        told += [step.note() for step in verdict.trace]
        half = len(shown) // 2
        for text in told:
            plain = text.encode("latin-1", "replace").decode("utf-8", "replace")
            for each in (text, plain):
                assert secret not in each
                assert secret[:-1] not in each
                assert shown[:half] not in each or write == "numbers"
        is_json = '"' not in shown
        if '"550 no"' in says and is_json:
            assert verdict.reply.text == "550 no"

    async def test_nobody_else_is_told(self, tmp_path: Path) -> None:
        """Not by a redirect, to whatever host."""
        place = file(tmp_path / "token", self.TOKEN)
        guard = Guarded("")
        async with served(guard) as elsewhere:

            async def away(request: web.BaseRequest) -> web.Response:
                there = {"Location": f"http://127.0.0.1:{elsewhere}/"}
                return web.Response(status=307, headers=there)

            async with served(away) as port:
                it = asked(port, token_file=place)
                assert await it.word() == "defer"
                await it.rule.close()
        assert guard.told == []

    @pytest.mark.parametrize("text", ["", "two words", "caf\u00e9", "a\x01b"])
    async def test_what_is_no_token_is_a_deferral(
        self, tmp_path: Path, text: str
    ) -> None:
        place = file(tmp_path / "token", text)
        guard = Guarded("")
        async with served(guard) as port:
            it = asked(port, token_file=place)
            assert await it.word() == "defer"
            assert it.errors[0].startswith(place)
            assert not text or text not in it.errors[0]
            await it.rule.close()
        assert guard.told == []

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ({"user": "x"}, "has user but no password_file"),
            ({"password_file": "/x"}, "has password_file but no user"),
            ({"user": "a:b", "password_file": "/x"}, "no name for HTTP"),
            (
                {"user": "x", "password_file": "/x", "token_file": "/y"},
                "both token_file and user",
            ),
            ({"url": "http://u:s3cret@h.test/"}, "has a user in it"),
        ],
    )
    def test_settings_that_are_refused(
        self, keys: dict[str, object], says: str
    ) -> None:
        with pytest.raises(ValidationError) as raised:
            settings_of("http").model_validate({"type": "http", **GOOD, **keys})
        (error,) = raised.value.errors()
        assert says in error["ctx"]["what"]
        assert "s3cret" not in error["ctx"]["what"]
