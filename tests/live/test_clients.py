"""Other people's clients against the front door: what they sent is what the
backend got, byte for byte, and what is refused is refused to them."""

from __future__ import annotations

import asyncio
import os
import shutil
import smtplib
from pathlib import Path

import pytest

from tests.live.process import PATIENCE, Served, Settings, serving
from tests.support.backend import FakeQmail, Received

# Text lines, dots where they hurt, and 8-bit; the last line is ended.
LINES = [
    b"Subject: by a client",
    b"",
    b".",
    b"..",
    b".leading dot",
    b"\xe4\xf6\xfc \xff 8-bit",
    b"trailing blanks  ",
    b"x" * 900,
    b"",
    b"end",
]
UNIX = b"\n".join(LINES) + b"\n"
WIRE = b"\r\n".join(LINES) + b"\r\n"


def program(name: str, package: str) -> str:
    """Where it is; the test is skipped where it is not."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


async def ran(*command: str) -> tuple[int, str]:
    """Run a client to its end: exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, said.decode("latin-1")


def below_ours(mail: Received) -> bytes:
    """The message without the Received line that the front door puts on it."""
    assert mail.message.startswith(b"Received: from ")
    return mail.message.partition(b" +0000\r\n")[2]


async def test_pythons_smtplib(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    async with serving(tmp_path, settings) as served:

        def talk() -> None:
            with smtplib.SMTP("127.0.0.1", served.port, timeout=PATIENCE) as smtp:
                everybody = ["alice@example.test", "x@closed.test"]
                refused = smtp.sendmail("a@b.test", everybody, WIRE)
                assert refused == {
                    "x@closed.test": (550, b"5.1.1 no such recipient here")
                }
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    smtp.sendmail("a@b.test", ["nobody@example.test"], WIRE)
                smtp.sendmail("", ["sales@virt.test"], "Subject: text\n\n.\nhi\n")

        await asyncio.to_thread(talk)
    first, second = fake.received
    assert (first.mail, second.mail) == (b"FROM:<a@b.test>", b"FROM:<>")
    assert first.recipients == [b"TO:<alice@example.test>"]
    assert second.recipients == [b"TO:<sales@virt.test>"]
    assert below_ours(first) == WIRE
    assert below_ours(second) == b"Subject: text\r\n\r\n.\r\nhi\r\n"


def curl(served: Served, file: Path, recipient: str, *more: str) -> list[str]:
    return [
        program("curl", "curl"),
        *("--silent", "--show-error", f"smtp://127.0.0.1:{served.port}/me.test"),
        *("--mail-from", "a@b.test", "--mail-rcpt", recipient),
        *("--upload-file", str(file), *more),
    ]


@pytest.mark.parametrize(
    ("content", "options"), [(UNIX, ["--crlf"]), (WIRE, [])], ids=["LF", "CRLF"]
)
async def test_curl(
    tmp_path: Path,
    settings: Settings,
    fake: FakeQmail,
    content: bytes,
    options: list[str],
) -> None:
    file = tmp_path / "message"
    file.write_bytes(content)
    async with serving(tmp_path, settings) as served:
        said = await ran(*curl(served, file, "alice@example.test", *options))
        assert said == (0, "")
        status, text = await ran(*curl(served, file, "nobody@example.test", *options))
        assert status == 55
        assert "550" in text
    (mail,) = fake.received
    assert (mail.mail, mail.helo) == (b"FROM:<a@b.test>", b"me.test")
    assert below_ours(mail) == WIRE


@pytest.mark.parametrize("options", [[], ["--pipeline"]], ids=["plain", "pipeline"])
async def test_swaks(
    tmp_path: Path, settings: Settings, fake: FakeQmail, options: list[str]
) -> None:
    file = tmp_path / "message"
    file.write_bytes(UNIX)
    async with serving(tmp_path, settings) as served:

        def swaks(recipient: str) -> list[str]:
            return [
                program("swaks", "swaks"),
                *("--server", "127.0.0.1", "--port", str(served.port)),
                *("--helo", "me.test", "--from", "a@b.test", "--to", recipient),
                *("--data", f"@{file}", *options),
            ]

        status, text = await ran(*swaks("alice@example.test,x@closed.test"))
        assert status == 0, text
        assert "550 5.1.1 no such recipient here" in text
        status, text = await ran(*swaks("nobody@example.test"))
        assert status == 24, text
    (mail,) = fake.received
    assert mail.recipients == [b"TO:<alice@example.test>"]
    # It ends the message with a line end of its own.
    assert below_ours(mail) == WIRE + b"\r\n"


async def test_postfixs_smtp_source(
    tmp_path: Path, settings: Settings, fake: FakeQmail
) -> None:
    """A hundred messages, ten at a time; all arrive, all alike."""
    file = tmp_path / "message"
    file.write_bytes(UNIX)
    async with serving(tmp_path, settings) as served:

        def source(recipient: str, *more: str) -> list[str]:
            return [
                program("smtp-source", "postfix"),
                *("-s", "10", "-m", "100", "-c", "-M", "me.test", *more),
                *("-f", "a@b.test", "-t", recipient, "-F", str(file)),
                f"127.0.0.1:{served.port}",
            ]

        status, text = await ran(*source("alice@example.test"))
        assert status == 0, text
        assert text.split()[-1] == "100"
        status, text = await ran(*source("bob@example.test", "-d"))
        assert status == 0, text
        status, text = await ran(*source("nobody@example.test"))
        assert status != 0
        assert "550 5.1.1" in text
    assert len(fake.received) == 200
    recipients = [mail.recipients for mail in fake.received]
    assert recipients.count([b"TO:<alice@example.test>"]) == 100
    assert recipients.count([b"TO:<bob@example.test>"]) == 100
    assert {mail.mail for mail in fake.received} == {b"FROM:<a@b.test>"}
    # As swaks, it ends the message with a line end of its own.
    assert {below_ours(mail) for mail in fake.received} == {WIRE + b"\r\n"}
