"""A backend that refuses in its greeting: the client, or us?"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from proxy.backend.choice import Place
from proxy.backend.settings import BackendSettings
from proxy.observe.events import BackendFailed
from tests.front.test_identity import Backend, before
from tests.support.backend import FakeQmail
from tests.support.front import Front, running
from tests.support.several import place, started
from tests.support.smtp_client import RawClient

NOT_YOU = b"554-5.7.1 not you\r\n554 5.7.1 see http://bl.test\r\n"
WAYS: dict[str, dict[str, object]] = {
    "proxy": {"send_proxy": "v1"},
    "transparent": {"transparent": True},
    "command": {"command": ("/bin/sh", "-c", 'printf "$0"; cat', NOT_YOU.decode())},
}


async def answers(front: Front, times: int = 1) -> list[bytes]:
    """What so many recipients are told, and DATA."""
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"EHLO c.test")
        await client.command(b"MAIL FROM:<>")
        rcpt = b"RCPT TO:<a@example.test>"
        said = [await client.command(rcpt) for _ in range(times)]
        return [*said, (await client.command(b"DATA"))[:3]]


@pytest.mark.parametrize("way", WAYS)
async def test_who_sees_the_client_refuses_the_client(way: str) -> None:
    if way == "transparent" and os.geteuid() != 0:
        pytest.skip("run as root: IP_TRANSPARENT")
    fake = FakeQmail(script={"greeting": NOT_YOU})
    settings = BackendSettings(**WAYS[way])  # type: ignore[arg-type]
    async with running(fake=fake, backend=settings) as front:
        assert await answers(front, 2) == [NOT_YOU, NOT_YOU, b"503"]
        (failed,) = front.of(BackendFailed)
        assert isinstance(failed, BackendFailed)
        assert failed.step == "connect"
        assert "not you" in failed.why
        assert not front.backend.resting


@pytest.mark.parametrize("way", ["proxy", "command"])
async def test_later_stays_later(way: str) -> None:
    settings = dict(WAYS[way])
    if way == "command":
        settings["command"] = ("/bin/sh", "-c", "echo 421 later; cat")
    fake = FakeQmail(script={"greeting": b"421 later\r\n"})
    async with running(fake=fake, backend=BackendSettings(**settings)) as front:  # type: ignore[arg-type]
        assert (await answers(front))[0] == b"451 4.4.1 cannot pass mail on now\r\n"


@pytest.mark.parametrize("settings", [{}, {"identify": "xclient"}])
async def test_who_sees_us_only_refuses_us(settings: dict[str, str]) -> None:
    fake = FakeQmail(script={"greeting": NOT_YOU})
    async with running(fake=fake, backend=BackendSettings(**settings)) as front:  # type: ignore[arg-type]
        assert (await answers(front))[0] == b"451 4.4.1 cannot pass mail on now\r\n"


async def test_another_backend_is_not_asked_to_judge_anew() -> None:
    refusing, other = FakeQmail(script={"greeting": NOT_YOU}), FakeQmail()
    async with started(refusing, other):
        known = replace(place(refusing).settings, send_proxy="v1")
        places = [Place(known), place(other, backup=True)]
        async with running(places=lambda _: places) as front:
            assert (await answers(front))[0] == NOT_YOU
    assert not other.connections


@pytest.mark.parametrize(
    ("anew", "told"),
    [
        (b"554 5.7.1 not you", b"554 5.7.1 not you\r\n"),
        (b"521 not you", b"521 not you\r\n"),
        (
            b"550 5.7.0 not allowed",
            b"451 4.3.0 cannot pass mail on now\r\n",
        ),
        (b"501 bad attribute", b"451 4.3.0 cannot pass mail on now\r\n"),
    ],
)
async def test_the_greeting_behind_xclient(anew: bytes, told: bytes) -> None:
    backend = Backend(b"XCLIENT ADDR", anew=anew)
    async with before(backend, identify="xclient") as front:
        assert (await answers(front))[0] == told
