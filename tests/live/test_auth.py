"""AUTH through the running service: other people's clients, HUP, workers."""

from __future__ import annotations

import asyncio
import base64
import smtplib
from pathlib import Path

import pytest

from tests.live.process import PATIENCE, Served, Settings, serving
from tests.live.test_clients import program, ran
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

PASSWORD = "wonder-land"


@pytest.fixture
def patched(fake: FakeQmail) -> FakeQmail:
    """A backend with the usual patch for AUTH."""
    fake.mechanisms = b"PLAIN LOGIN CRAM-MD5"
    fake.users[b"alice"] = PASSWORD.encode()
    return fake


async def offers(served: Served) -> bool:
    async with await RawClient.connect(served.port) as client:
        await client.reply()
        return b"AUTH PLAIN LOGIN CRAM-MD5" in await client.command(b"EHLO me.test")


async def until_offered(served: Served) -> None:
    """It is asked at the start, beside everything else."""
    async with asyncio.timeout(PATIENCE):
        while not await offers(served):
            await asyncio.sleep(0.01)


def assert_no_secret(served: Served) -> None:
    for secret in (PASSWORD, "wrong"):
        for text in (secret, f"\0alice\0{secret}"):
            assert secret not in served.log
            assert base64.b64encode(text.encode()).decode() not in served.log


@pytest.mark.parametrize("workers", [1, 2])
async def test_pythons_smtplib(
    tmp_path: Path, settings: Settings, patched: FakeQmail, workers: int
) -> None:
    always = {**settings, "auth.offer": "always", "listen.workers": workers}
    async with serving(tmp_path, always) as served:
        await served.said(" serves ", times=workers)
        if workers == 1:
            await until_offered(served)
        else:
            async with asyncio.timeout(PATIENCE):
                while patched.commands.count(b"QUIT") < workers:
                    await asyncio.sleep(0.01)

        def talk() -> None:
            with smtplib.SMTP("127.0.0.1", served.port, timeout=PATIENCE) as smtp:
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    smtp.sendmail("a@b.test", ["x@foreign.test"], "no\n")
                smtp.login("alice", PASSWORD)
                smtp.sendmail("a@b.test", ["x@foreign.test"], "yes\n")
            with smtplib.SMTP("127.0.0.1", served.port, timeout=PATIENCE) as smtp:
                # It tries every mechanism, and has no further attempt then.
                with pytest.raises(smtplib.SMTPAuthenticationError):
                    smtp.login("alice", "wrong")
                code, _ = smtp.docmd("AUTH", "PLAIN AGFsaWNlAHdyb25n")
                assert code == 421

        await asyncio.to_thread(talk)
        await served.said("outcome=refused", times=3)
        accepted = await served.said("outcome=accepted")
        assert "mechanism=CRAM-MD5" in accepted
        assert "code=235 user=alice" in accepted
        await served.said("event=limit")
    assert served.log.count("user=") == 1
    assert_no_secret(served)
    (mail,) = patched.received
    assert b" with ESMTPA id " in mail.message
    assert b"(authenticated as alice)" in mail.message


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
async def test_swaks(
    tmp_path: Path, settings: Settings, patched: FakeQmail, mechanism: str
) -> None:
    path = program("swaks", "swaks")
    async with serving(tmp_path, {**settings, "auth.offer": "always"}) as served:
        await until_offered(served)

        async def swaks(*more: str) -> tuple[int, str]:
            return await ran(
                *(path, "--server", "127.0.0.1", "--port", str(served.port)),
                *("--helo", "me.test", "--from", "a@b.test"),
                *("--to", "x@foreign.test", *more),
            )

        login = ("--auth", mechanism, "--auth-user", "alice", "--auth-password")
        status, text = await swaks(*login, PASSWORD)
        assert (status, "235 ok" in text) == (0, True), text
        status, text = await swaks(*login, "wrong")
        assert (status, "535 " in text) == (28, True), text
        status, text = await swaks()
        assert (status, "553 5.7.1" in text) == (24, True), text
        _, metrics = await served.get("/metrics")
        assert 'backstop_auth_total{outcome="accepted"} 1.0' in metrics
        assert 'backstop_auth_total{outcome="refused"} 1.0' in metrics
    assert_no_secret(served)
    assert len(patched.received) == 1


async def test_what_hup_changes(
    tmp_path: Path, settings: Settings, patched: FakeQmail
) -> None:
    async with serving(tmp_path, settings) as served:
        assert not await offers(served)
        assert patched.connections == 0
        await served.reload({**settings, "auth.offer": "always"})
        await served.said("configuration reloaded")
        await until_offered(served)
        line = await served.said(" offers AUTH")
        assert "level=info" in line
        assert line.endswith('offers AUTH PLAIN LOGIN CRAM-MD5"')
        await served.reload({**settings, "auth.offer": "tls"})
        await served.said("configuration reloaded", times=2)
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            assert b"AUTH" not in await client.command(b"EHLO me.test")
        await served.reload(settings)
        await served.said("configuration reloaded", times=3)
        assert not await offers(served)


async def test_a_backend_without_auth_is_told_once(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    always = {**settings, "auth.offer": "always", "listen.workers": 2}
    async with serving(tmp_path, always) as served:
        line = await served.said("offers no AUTH")
        assert "level=warning" in line
        assert not await offers(served)
        async with asyncio.timeout(PATIENCE):
            while fake.commands.count(b"QUIT") < 2:
                await asyncio.sleep(0.01)
    assert served.log.count("offers no AUTH") == 1
