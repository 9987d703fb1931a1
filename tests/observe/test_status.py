"""The status server, asked over a socket; foreign text stays text."""

from __future__ import annotations

import asyncio
import contextlib
import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from proxy.observe import events
from proxy.observe.history import History, Numbers
from proxy.observe.metrics import CONTENT_TYPE, Metrics
from proxy.observe.page import Explained, StatusInfo
from proxy.observe.recent import Recent
from proxy.observe.status import CONNECTIONS_MAX, Access, StatusServer
from proxy.observe.style import SCRIPT_HASH
from tests.support.ports import own_port

HOSTILE = b'<script>alert("1")</script>\r\n\x1b[31m\0\xff&amp;'

INFO = StatusInfo(
    "1.2.3", "enforce", ("192.0.2.1:25", "[::1]:25"), "127.0.0.1:2525", "up"
)


def refused(recipient: bytes, **changes: object) -> events.RecipientDecided:
    event = events.RecipientDecided(
        "s",
        "192.0.2.9",
        b"helo",
        b"",
        recipient,
        "reject",
        "",
        False,
        "qmail",
        "no such user",
        "550 5.1.1 no",
    )
    return event._replace(**changes)  # type: ignore[arg-type]


@dataclass
class Service:
    """A status server and what it shows."""

    metrics: Metrics = field(default_factory=lambda: Metrics("1.2.3", now=lambda: 0.0))
    recent: Recent = field(default_factory=lambda: Recent(now=lambda: 1795392000.5))
    info: StatusInfo = INFO
    trouble: str = ""
    url: str = ""
    history: History = field(default_factory=History)
    access: Access = field(default_factory=Access)
    asked: list[bytes] = field(default_factory=list)

    def server(self) -> StatusServer:
        return StatusServer(
            lambda: self.metrics,
            self.recent.seen,
            lambda: self.info,
            lambda: self.trouble,
            self.explain,
            history=lambda: self.history,
            access=self.access,
            now=lambda: 93784.0,
        )

    async def explain(self, address: bytes) -> Explained:
        self.asked.append(address)
        shown = address.decode()
        steps = [("control/locals:1", "<b>listed</b>")]
        return Explained(
            shown, "reject", "550 5.1.1 no", "qmail", "no <i>one</i>", steps
        )

    def observe(self, *happened: events.Event) -> None:
        for event in happened:
            self.metrics(event)
            self.recent(event)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    server = made.server()
    port = await server.start("127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{port}"
    yield made
    await server.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def get(
    http: aiohttp.ClientSession, url: str, method: str = "GET"
) -> tuple[int, str, dict[str, str]]:
    async with http.request(method, url) as response:
        return response.status, await response.text(), dict(response.headers)


async def test_health(service: Service, http: aiohttp.ClientSession) -> None:
    """O-healthz."""
    status, text, _ = await get(http, service.url + "/healthz")
    assert (status, text) == (200, "ok\n")


async def test_readiness(service: Service, http: aiohttp.ClientSession) -> None:
    """O-readyz."""
    status, text, _ = await get(http, service.url + "/readyz")
    assert (status, text) == (200, "ready\n")
    service.trouble = "backend 127.0.0.1:2525: \x1b[31mrefused\n"
    status, text, _ = await get(http, service.url + "/readyz")
    assert (status, text) == (503, "backend 127.0.0.1:2525: \\x1b[31mrefused\\x0a\n")
    # Not ready is not dead.
    assert (await get(http, service.url + "/healthz"))[0] == 200


async def test_a_warning_does_not_make_it_unready(
    service: Service, http: aiohttp.ClientSession
) -> None:
    service.info = INFO._replace(relaying="would relay <b>", warning="open\x1b[31m <b>")
    status, text, _ = await get(http, service.url + "/readyz")
    assert (status, text) == (200, "ready\nwarning: open\\x1b[31m <b>\n")
    _, text, _ = await get(http, service.url + "/")
    assert "would relay &lt;b&gt;" in text
    assert "open\\x1b[31m &lt;b&gt;" in text


async def test_metrics(service: Service, http: aiohttp.ClientSession) -> None:
    service.observe(refused(b"x@y"))
    status, text, headers = await get(http, service.url + "/metrics")
    assert status == 200
    assert headers["Content-Type"] == CONTENT_TYPE
    assert 'backstop_recipients_total{rule="qmail",verdict="reject"} 1.0\n' in text


async def test_page(service: Service, http: aiohttp.ClientSession) -> None:
    service.observe(
        events.Connected("s", "c"),
        refused(b"nobody@example.test"),
        refused(b"a@example.test", verdict="accept"),
        refused(b"b@example.test", verdict="accept"),
        refused(b"d@example.test", verdict="defer"),
    )
    status, text, headers = await get(http, service.url + "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    plain = words(text)
    for fact in (
        "version 1.2.3",
        "mode enforce",
        "qmail-backstop ready",
        "up for 1 d 2 h",
        "listening on 192.0.2.1:25, [::1]:25",
        "backend 127.0.0.1:2525 (up)",
        "1 sessions open",
        "recipients: 1 refused, 2 let in, 1 deferred",
        "11-23 00:00:00 192.0.2.9 nobody@example.test qmail no such user",
    ):
        assert fact in plain
    assert "a@example.test" not in plain
    assert "d@example.test" not in plain


def words(text: str) -> str:
    """As a browser without tables shows it."""
    return " ".join(html.unescape(re.sub("<[^>]*>", "", text)).split())


async def test_page_before_anything_happened(
    service: Service, http: aiohttp.ClientSession
) -> None:
    service.trouble = "not listening"
    service.info = service.info._replace(addresses=())
    plain = words((await get(http, service.url + "/"))[1])
    assert "not ready: not listening" in plain
    assert "listening on nothing" in plain
    assert "None yet." in plain


async def test_page_in_observe_mode(
    service: Service, http: aiohttp.ClientSession
) -> None:
    service.info = service.info._replace(mode="observe")
    service.observe(refused(b"x@y", verdict="accept", observed="reject"))
    plain = words((await get(http, service.url + "/"))[1])
    assert "recipients: 0 refused" in plain
    assert "would have been prevented today" in plain
    assert "x@y qmail no such user (let pass: observe mode)" in plain


async def test_foreign_text_is_escaped(
    service: Service, http: aiohttp.ClientSession
) -> None:
    text = HOSTILE.decode("latin-1")
    service.observe(refused(HOSTILE, client=text, rule=text, reason=text))
    service.info = StatusInfo(text, text, (text,), text, text)
    service.trouble = text
    status, page, _ = await get(http, service.url + "/")
    assert status == 200
    assert page.count("<script") == 1  # ours
    assert not re.search(r"[^ -~\n]", page)
    shown = (
        "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;"
        "\\x0d\\x0a\\x1b[31m\\x00\\xff&amp;amp;"
    )
    assert page.count(shown) == 12


async def test_page_needs_nothing_from_elsewhere(
    service: Service, http: aiohttp.ClientSession
) -> None:
    """O-status-page: one script, named by its hash, and nothing from elsewhere."""
    _, page, headers = await get(http, service.url + "/")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; ")
    assert f" script-src 'sha256-{SCRIPT_HASH}';" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in headers
    assert page.count("<script") == 1
    assert "prefers-color-scheme: dark" in page
    assert set(re.findall(r'(?:href|src)="([^"]*)"', page)) == {
        "/metrics",
        "/healthz",
        "/readyz",
    }
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz"])
async def test_methods(
    service: Service, http: aiohttp.ClientSession, path: str
) -> None:
    status, text, headers = await get(http, service.url + path, "HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 0
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        status, _, headers = await get(http, service.url + path, method)
        assert status == 405
        assert "Content-Security-Policy" in headers


async def test_unknown_path(service: Service, http: aiohttp.ClientSession) -> None:
    status, text, headers = await get(http, service.url + "/<script>")
    assert status == 404
    assert "script" not in text
    assert "Server" not in headers


async def test_stop() -> None:
    service = Service()
    server = service.server()
    await server.stop()
    port = await server.start("127.0.0.1", own_port())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await server.stop()  # an idle client does not hold it up
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await server.stop()
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_taken_port(service: Service) -> None:
    port = int(service.url.rpartition(":")[2])
    server = service.server()
    with pytest.raises(OSError, match="in use"):
        await server.start("127.0.0.1", port)
    await server.stop()


def test_recent_is_bounded_and_newest_first() -> None:
    recent = Recent(3)
    for number in range(10):
        recent(refused(b"%d@y" % number))
    shown = [refusal.recipient for refusal in recent.seen().refusals]
    assert shown == ["9@y", "8@y", "7@y"]


def test_recent_keeps_refusals_only() -> None:
    recent = Recent()
    recent(events.Connected("s", "c"))
    recent(refused(b"accepted@y", verdict="accept"))
    recent(refused(b"deferred@y", verdict="defer"))
    recent(refused(b"later@y", verdict="accept", observed="defer"))
    recent(events.BackendRefusedRecipient("s", "c", b"busy@y", "451 4.3.0 busy"))
    assert not recent.seen().refusals
    recent(events.BackendRefusedRecipient("s", "c", b"no@y", "553 sorry"))
    (refusal,) = recent.seen().refusals
    assert refusal[2:] == ("no@y", "backend", "553 sorry", False)


async def test_numbers_of_days_and_the_picture(
    service: Service, http: aiohttp.ClientSession
) -> None:
    history = service.history
    history.sample(Numbers(5, 1, 0), 93000.0)  # today
    history.sample(Numbers(1205, 3, 2), 93700.0)
    _, page, _ = await get(http, service.url + "/")
    plain = words(page)
    assert "1,205 bounces prevented today" in plain
    assert "1,205 bounces prevented in 31 days" in plain
    assert "3 recipients let in today" in plain
    assert "1205 recipients refused, 3 let in; at most 1202 in 10 min" in page
    assert page.count("<rect") == 4


async def test_who_is_wanted_and_by_whom(
    service: Service, http: aiohttp.ClientSession
) -> None:
    for number in range(30):
        service.observe(refused(b"<i>%d@y" % (number % 7), client="2001:db8::1"))
    plain = words((await get(http, service.url + "/"))[1])
    assert "most wanted <i>0@y 5" in plain
    assert "Sources of refusals 2001:db8::1 30" in plain


async def test_the_explain_box(service: Service, http: aiohttp.ClientSession) -> None:
    _, page, _ = await get(http, service.url + "/explain?address=caf%C3%A9%40y%22%3E")
    assert service.asked == ['caf\u00e9@y">'.encode()]
    plain = words(page)
    assert "reject 550 5.1.1 no" in plain
    assert "no <i>one</i> (rule qmail)" in plain
    assert "control/locals:1 <b>listed</b>" in plain
    assert 'value="caf\u00e9@y&quot;&gt;"' in page
    for nothing in ("", "?address=", "?address=%20", "?address=" + "x" * 1001):
        status, _, _ = await get(http, f"{service.url}/explain{nothing}")
        assert status == 200
    assert len(service.asked) == 1


TOKEN = "a-long-secret-word"


@pytest.fixture
async def guarded() -> AsyncIterator[Service]:
    made = Service(access=Access(TOKEN, needed=True))
    server = made.server()
    made.url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    yield made
    await server.stop()


@pytest.mark.parametrize("path", ["/", "/explain?address=x@y"])
async def test_the_page_wants_its_token(guarded: Service, path: str) -> None:
    async with aiohttp.ClientSession() as stranger:
        url = guarded.url + path
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "backstop=x"}):
            async with stranger.get(url, headers=given) as answer:
                assert answer.status == 403
                assert TOKEN not in await answer.text()
        for open_to_all in ("/metrics", "/healthz", "/readyz"):
            assert (await get(stranger, guarded.url + open_to_all))[0] == 200
        async with stranger.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as a:
            assert a.status == 200
    assert len(guarded.asked) == ("explain" in path)


async def test_a_token_once_is_enough(guarded: Service) -> None:
    jar = aiohttp.CookieJar(unsafe=True)  # of an address, too
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        async with http.get(f"{guarded.url}/?token=wrong") as answer:
            assert answer.status == 403
        async with http.get(f"{guarded.url}/?token={TOKEN}") as answer:
            assert (answer.status, str(answer.url)) == (200, guarded.url + "/")
            (first,) = answer.history
            assert "HttpOnly" in first.headers["Set-Cookie"]
            assert "SameSite=Strict" in first.headers["Set-Cookie"]
        assert (await get(http, guarded.url + "/"))[0] == 200


async def test_without_a_token_it_is_for_loopback(
    http: aiohttp.ClientSession,
) -> None:
    made = Service(access=Access("", needed=True))
    server = made.server()
    url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    status, text, _ = await get(http, url + "/")
    assert status == 403
    assert "status.token" in text
    await server.stop()


@pytest.mark.fault("N25")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8025", 200),
        ("127.0.0.1:8025", 200),
        ("127.1.2.3", 200),
        ("[::1]:8025", 200),
        ("mx.example.test:8025", 200),  # status.address
        ("attacker.example", 403),
        ("attacker.example:8025", 403),
        ("localhost.attacker.example", 403),
        ("192.0.2.1:8025", 403),
        ("", 403),
    ],
)
async def test_without_a_token_only_our_own_names_lead_here(
    http: aiohttp.ClientSession, name: str, status: int
) -> None:
    made = Service(access=Access(host="mx.example.test"))
    server = made.server()
    url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    for path in ("/", "/explain?address=a@b.test"):
        async with http.get(url + path, headers={"Host": name}) as answer:
            assert answer.status == status
    assert len(made.asked) == (status == 200)
    async with http.get(url + "/healthz", headers={"Host": name}) as answer:
        assert answer.status == 200
    await server.stop()


@pytest.mark.fault("N28")
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"BEARER  {TOKEN}", 200),
        (TOKEN, 403),
        (f"Basic {TOKEN}", 403),
        ("Bearer", 403),
    ],
)
async def test_the_scheme_is_bearer(
    guarded: Service, http: aiohttp.ClientSession, given: str, status: int
) -> None:
    async with http.get(guarded.url, headers={"Authorization": given}) as answer:
        assert answer.status == status


@pytest.mark.fault("N28")
async def test_a_question_with_the_token_is_kept(guarded: Service) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        url = f"{guarded.url}/explain?token={TOKEN}&address=a%2Bb@example.test"
        async with http.get(url) as answer:
            assert answer.status == 200
            assert TOKEN not in str(answer.url)
    assert guarded.asked == [b"a+b@example.test"]


@pytest.mark.fault("N28")
async def test_an_explanation_ends_with_its_client(
    http: aiohttp.ClientSession,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Slow(Service):
        async def explain(self, address: bytes) -> Explained:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

    made = Slow()
    server = made.server()
    port = await server.start("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /explain?address=a@b.test HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await begun.wait()
    writer.transport.abort()
    await asyncio.wait_for(ended.wait(), 30)
    await server.stop()


@pytest.mark.fault("N6")
async def test_unfinished_requests_are_few_and_end(
    http: aiohttp.ClientSession,
) -> None:
    made = Service()
    server = made.server()
    port = await server.start("127.0.0.1", 0)
    writers = []
    turned_away = 0
    for _ in range(CONNECTIONS_MAX + 20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        writers.append(writer)
        if len(writers) > CONNECTIONS_MAX:
            with contextlib.suppress(ConnectionError):
                turned_away += await reader.read() == b""
    assert server.connections == CONNECTIONS_MAX
    server.sweep()  # which sees them for the first time
    server.sweep()
    while server.connections:
        await asyncio.sleep(0)
    assert (await get(http, f"http://127.0.0.1:{port}/healthz"))[0] == 200
    for writer in writers:
        writer.transport.abort()
    await server.stop()
