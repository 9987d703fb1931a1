"""TLS as others see it: openssl, Python's smtplib, swaks, Postfix; and HUP."""

from __future__ import annotations

import asyncio
import os
import smtplib
import ssl
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.live.conftest import adopt
from tests.live.postfix import sending_to
from tests.live.process import PATIENCE, Settings, run, serving, write_config
from tests.live.surroundings import NOBODY, NOT_ALLOWED, wants_root
from tests.live.test_clients import LINES, UNIX, WIRE, below_ours, program, ran
from tests.support.backend import FakeQmail
from tests.support.certificates import (
    NAME,
    client_context,
    expired,
    issued,
    server_context,
    write,
    write_authority,
)
from tests.support.smtp_client import RawClient


@pytest.fixture
def secure(tmp_path: Path, settings: Settings) -> Settings:
    """With a certificate, and a second port where TLS comes first."""
    certificate, key = write(tmp_path, "mx", issued(NAME))
    return {
        **settings,
        "listen.tls_addresses": ["127.0.0.1:0"],
        "tls.certificates": [certificate],
        "tls.keys": [key],
    }


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
async def test_openssl(tmp_path: Path, secure: Settings, implicit: bool) -> None:
    """1.2 and 1.3, with a certificate that verifies; 1.1 not, though asked for."""
    authority = write_authority(tmp_path)
    async with serving(tmp_path, secure) as served:
        port = served.ports[implicit]

        async def s_client(*options: str) -> tuple[int, str]:
            return await ran(
                *(program("openssl", "openssl"), "s_client", "-brief"),
                *([] if implicit else ["-starttls", "smtp"]),
                *("-connect", f"127.0.0.1:{port}", "-CAfile", authority),
                *("-verify_return_error", "-verify_hostname", NAME),
                *("-servername", NAME, *options),
            )

        for version in ("1_2", "1_3"):
            status, text = await s_client(f"-tls{version}")
            assert status == 0, text
            assert f"Protocol version: TLSv{version.replace('_', '.')}" in text
            assert "Verification: OK" in text
            await served.said(f"version=TLSv{version.replace('_', '.')} cipher=")
        for version in ("1", "1_1"):
            old = (f"-tls{version}", "-cipher", "DEFAULT@SECLEVEL=0")
            status, text = await s_client(*old)
            assert status != 0, text
        await served.said('why="unsupported protocol"', times=2)
        status, text = await served.get("/metrics")
        assert 'backstop_tls_sessions_total{version="TLSv1.3"} 1.0' in text
        assert "backstop_tls_failures_total 2.0" in text
        assert "backstop_tls_certificate_expires_seconds 0.0" not in text
    assert served.log.count("event=tls-failed") == 2


async def test_only_tls_1_3_where_that_is_the_minimum(
    tmp_path: Path, secure: Settings
) -> None:
    async with serving(tmp_path, {**secure, "tls.minimum": "1.3"}) as served:
        async with await RawClient.connect(served.port) as client:
            await client.code()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await client.encrypt(client_context(ssl.TLSVersion.TLSv1_2))
        async with await RawClient.connect(served.port) as client:
            await client.code()
            await client.encrypt(client_context())
        await served.said('why="unsupported protocol"')


async def test_pythons_smtplib(
    tmp_path: Path, secure: Settings, fake: FakeQmail
) -> None:
    """Five megabytes, by STARTTLS and by TLS from the start."""
    message = b"".join(line + b"\r\n" for line in LINES * 5000)
    assert len(message) > 4_900_000
    async with serving(tmp_path, secure) as served:
        # The name in the certificate, where there is no DNS.
        context = client_context()
        context.check_hostname = False

        def talk() -> None:
            plain, encrypted = served.ports
            with smtplib.SMTP("127.0.0.1", plain, timeout=PATIENCE) as smtp:
                smtp.starttls(context=context)
                smtp.sendmail("a@b.test", ["alice@example.test"], message)
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    smtp.sendmail("a@b.test", ["nobody@example.test"], WIRE)
            with smtplib.SMTP_SSL(
                "127.0.0.1", encrypted, timeout=PATIENCE, context=context
            ) as smtp:
                smtp.sendmail("a@b.test", ["alice@example.test"], message)

        await asyncio.to_thread(talk)
    first, second = fake.received
    assert below_ours(first) == below_ours(second) == message
    for mail in fake.received:
        assert b" with ESMTPS (TLSv1.3 TLS_" in mail.message[:300]


@pytest.mark.parametrize("options", [["--tls"], ["--tls", "--pipeline"]])
async def test_swaks(
    tmp_path: Path, secure: Settings, fake: FakeQmail, options: list[str]
) -> None:
    if (await ran(program("perl", "perl"), "-MNet::SSLeay", "-e1"))[0]:
        pytest.skip("swaks has no TLS: apt-get install libnet-ssleay-perl")
    file = tmp_path / "message"
    file.write_bytes(UNIX)
    async with serving(tmp_path, secure) as served:
        status, text = await ran(
            program("swaks", "swaks"),
            *("--server", "127.0.0.1", "--port", str(served.port)),
            *("--helo", "me.test", "--from", "a@b.test"),
            *("--to", "alice@example.test,x@closed.test"),
            *("--data", f"@{file}", "--tls-verify", *options),
            *("--tls-ca-path", write_authority(tmp_path), "--tls-sni", NAME),
        )
        assert status == 0, text
        assert "550 5.1.1 no such recipient here" in text
    (mail,) = fake.received
    assert below_ours(mail) == WIRE + b"\r\n"


async def test_postfixs_own_look_at_tls(tmp_path: Path, secure: Settings) -> None:
    """posttls-finger(1) is Postfix's client, at the level ``encrypt`` and above."""
    authority = write_authority(tmp_path)
    # It wants a Postfix's configuration, and this machine's may have none.
    own = tmp_path / "postfix"
    own.mkdir()
    (own / "main.cf").write_text("compatibility_level = 3.6\n")
    finger = ("env", f"MAIL_CONFIG={own}", program("posttls-finger", "postfix"))
    async with serving(tmp_path, secure) as served:
        where = f"[127.0.0.1]:{served.port}"
        status, text = await ran(*finger, "-c", "-l", "encrypt", where)
        assert status == 0, text
        assert "Anonymous" not in text
        assert "TLS connection established" in text
        verified = ("-l", "secure", "-F", authority, where, NAME)
        status, text = await ran(*finger, "-c", *verified)
        assert status == 0, text
        assert "Verified TLS connection established" in text


async def test_postfix_at_level_encrypt(
    tmp_path: Path, secure: Settings, fake: FakeQmail
) -> None:
    """It gives a message to nobody but by TLS."""
    settings = {"smtp_tls_security_level": "encrypt", "smtp_tls_loglevel": "1"}
    async with (
        serving(tmp_path, secure) as served,
        sending_to(served.port, settings) as postfix,
    ):
        await postfix.submit("a@b.test", "alice@example.test", UNIX)
        await postfix.said("status=sent (250 ok")
        await postfix.submit("a@b.test", "nobody@example.test", UNIX)
        await postfix.said("550 5.1.1 no such recipient here")
        await postfix.said("TLS connection established to 127.0.0.1")
    (mail,) = fake.received
    assert b" with ESMTPS (TLSv1.3 TLS_" in mail.message[:300]
    assert mail.message.endswith(WIRE.partition(b"\r\n\r\n")[2])


async def delivered(client: RawClient) -> None:
    said = await client.deliver(b"", [b"alice@example.test"], b"x\r\n")
    assert said[-1] == 250


async def started(port: int, name: str = NAME) -> RawClient:
    client = await RawClient.connect(port)
    assert await client.code() == 220
    await client.encrypt(client_context(), name)
    return client


@pytest.mark.parametrize("workers", [1, 2])
async def test_t_cert_reload(tmp_path: Path, secure: Settings, workers: int) -> None:
    """HUP takes the files anew; sessions that are open notice nothing; what is
    no good changes nothing."""
    several = {**secure, "listen.workers": workers}
    async with serving(tmp_path, several) as served:
        if workers > 1:
            await served.said(" serves ", times=workers)
        async with await started(served.port) as old:
            write(tmp_path, "mx", issued("renewed.test"))
            served.signal(SIGHUP)
            await served.said("configuration reloaded", times=workers)
            for _ in range(2 * workers):
                async with await started(served.port, "renewed.test") as new:
                    await delivered(new)
            async with await RawClient.connect(served.ports[1]) as new:
                await new.start_tls(client_context(), "renewed.test")
                assert await new.code() == 220
            await delivered(old)
            os.unlink(secure["tls.keys"][0])
            served.signal(SIGHUP)
            line = await served.said("reload failed, the old stays", times=workers)
            assert f"tls.keys: {tmp_path}/mx.key: cannot be read" in line
            write(tmp_path, "mx", expired())
            served.signal(SIGHUP)
            line = await served.said("certificate has expired", times=workers)
            async with await started(served.port, "renewed.test") as new:
                await delivered(new)
            await delivered(old)
        _, text = await served.get("/metrics")
        assert "backstop_configuration_current 0.0" in text


async def test_several_certificates(tmp_path: Path, secure: Settings) -> None:
    other = write(tmp_path, "other", issued("other.test"))
    both = {
        **secure,
        "tls.certificates": [*secure["tls.certificates"], other[0]],
        "tls.keys": [*secure["tls.keys"], other[1]],
    }
    async with serving(tmp_path, both) as served:
        for name in (NAME, "other.test"):
            async with await started(served.port, name) as client:
                await delivered(client)


async def test_it_does_not_start_with_a_bad_certificate(
    tmp_path: Path, secure: Settings
) -> None:
    """Nor does ``check`` find it good."""
    certificate, _ = write(tmp_path, "mx", expired())
    path = str(write_config(tmp_path / "config.toml", secure))
    status, _, err = await run("serve", "-c", path)
    assert (status, err.count("\n")) == (2, 1)
    assert f"tls.certificates: {certificate}: certificate has expired" in err
    status, out, _ = await run("check", "-c", path)
    assert status == 1
    assert f"{certificate}: certificate has expired: renew it" in out


async def test_a_key_that_only_root_may_read(
    public: Path, settings: Settings, tmp_path: Path
) -> None:
    """It is read before the rights are given up; at HUP only the right to read
    every file helps, and that is said at the start and by ``check``."""
    wants_root()
    certificate, key = write(public, "mx", issued(NAME))
    os.chmod(key, 0o600)
    os.chmod(certificate, 0o644)
    dropped = {
        **settings,
        "qmail.root": str(public / "host"),
        "tls.certificates": [certificate],
        "tls.keys": [key],
        "process.user": str(NOBODY),
        "process.group": str(NOBODY),
    }
    async with serving(public, dropped, NOT_ALLOWED) as served:
        await served.said("may read every file")
        write(public, "mx", issued("renewed.test"))
        os.chmod(key, 0o600)
        served.signal(SIGHUP)
        await served.said("configuration reloaded")
        async with await started(served.port, "renewed.test"):
            pass
    assert "HUP will fail" not in served.log
    without = {**dropped, "process.keep_read_capability": False}
    async with serving(public, without, NOT_ALLOWED) as served:
        await served.said(f"HUP will fail: {key}: Permission denied")
        async with await started(served.port, "renewed.test"):
            pass
        adopt(public, served.config)
        served.signal(SIGHUP)
        line = await served.said("reload failed, the old stays")
        assert f"tls.keys: {key}: cannot be read: Permission denied" in line
        config = str(served.config)
        _, out, _ = await run("check", "-c", config, env=NOT_ALLOWED)
        found = [line for line in out.splitlines() if " tls.keys = " in line]
        assert len(found) == 1, out
        assert found[0].startswith("warning: ")
        assert f"{key}: that user may not read it" in found[0]


@pytest.mark.parametrize("how", ["starttls", "tls"])
async def test_tls_to_the_backend(
    tmp_path: Path, host: Path, settings: Settings, how: str
) -> None:
    """With its certificate verified; the interlock asks over TLS, too."""
    behind = FakeQmail(context=server_context("localhost"), implicit=how == "tls")
    behind.judge = lambda argument: (
        b"553 no\r\n" if b"relay-test.invalid" in argument else None
    )
    await behind.start()
    encrypted = {
        **settings,
        "backend.address": f"localhost:{behind.port}",
        "backend.tls": how,
        "backend.tls_verify": True,
        "backend.tls_ca": write_authority(tmp_path),
        "relay.interlock_interval": 60,
    }
    try:
        async with serving(tmp_path, encrypted) as served:
            await served.said("interlock: ")
            async with await RawClient.connect(served.port) as client:
                assert await client.code() == 220
                await delivered(client)
            bad = {**encrypted, "backend.tls_ca": str(tmp_path / "no.pem")}
            await served.reload(bad)
            assert "backend.tls_ca" in await served.said("reload failed")
    finally:
        await behind.stop()
    assert len(behind.received) == 1
