"""``serve`` with plugins of qmail-spp, which are run unchanged."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.live.process import Settings, run, serving, write_config
from tests.support.backend import FakeQmail
from tests.support.smtp_client import RawClient

STANDIN = Path(__file__).parent.parent / "support/standin.py"
RULES = {"BACKSTOP_RULES": '[{"type": "qmail-spp"}, {"type": "qmail"}]'}
RCPT = """#!/bin/sh
echo "HX-Rcpt: $SMTPRCPTTO from $TCPREMOTEIP"
case $SMTPRCPTTO in
spam*) echo Calice@example.test;;
away*) echo Cnobody@example.test;;
bad*) echo "P550-go"; echo "R550 away";;
esac
"""
DATA = """#!/bin/sh
[ "$SMTPMAILFROM" = grey@b.test ] && echo "E451 4.7.1 greylisted"
exit 0
"""


def plugins(host: Path) -> None:
    home = host / "var/qmail"
    lines = []
    for name, text in (("rcpt", RCPT), ("data", DATA)):
        path = home / "plugins" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        lines += [f"[{name}]", f"plugins/{name}"]
    (home / "control/smtpplugins").write_text("\n".join([*lines, ""]))


async def test_plugins(
    tmp_path: Path, host: Path, settings: Settings, fake: FakeQmail
) -> None:
    plugins(host)
    async with serving(tmp_path, settings, RULES) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            # What a plugin makes of a recipient must be there, too.
            to = [b"spammy@example.test", b"away@example.test", b"alice@example.test"]
            got = await client.deliver(b"a@b.test", to, b"Subject: x\r\n\r\ny\r\n")
            assert got == [250, 250, 550, 250, 354, 250]
            got = await client.deliver(b"grey@b.test", to[2:], b"x\r\n")
            assert got == [250, 250, 451]
            await client.send(b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<bad@example.test>\r\n")
            assert [await client.code(), await client.code()] == [250, 250]
            assert await client.rest() == b"550-go\r\n550 away\r\n"
        said = await served.said("recipient=bad@example.test")
        assert 'reason="plugins/rcpt says R550 away"' in said
    (one,) = fake.received
    assert one.recipients == [b"TO:<alice@example.test>"] * 2
    assert b"\r\nX-Rcpt: spammy@example.test from 127.0.0.1\r\n" in one.message


async def test_check_names_the_plugin_and_the_letter(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    plugins(host)
    (host / "var/qmail/plugins/rcpt").write_text("#!/bin/sh\necho 'P250-hello'\n")
    config = write_config(tmp_path / "backstop.toml", settings)
    _, said, _ = await run("check", "-c", str(config), env=RULES)
    assert "plugins/rcpt seems to say P in section rcpt" in said


async def test_what_the_program_in_the_backends_place_is_told(
    tmp_path: Path, host: Path
) -> None:
    """The sender and the variables that plugins make."""
    plugins(host)
    plugin = host / "var/qmail/plugins/mail"
    plugin.write_text("#!/bin/sh\nprintf 'SWHO=me\\nCx@y.test\\n'\n")
    plugin.chmod(0o755)
    config = host / "var/qmail/control/smtpplugins"
    config.write_text(config.read_text() + "[mail]\nplugins/mail\n")
    (tmp_path / "mails").mkdir()
    told = tmp_path / "told"
    show = ["/bin/sh", "-c", 'echo "$WHO" > "$0"; exec "$@"', str(told)]
    standin = [sys.executable, "-I", str(STANDIN), str(tmp_path / "mails")]
    settings = {"qmail.root": str(host), "backend.command": [*show, *standin]}
    async with serving(tmp_path, settings, RULES) as served:
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            to = [b"alice@example.test"]
            got = await client.deliver(b"a@b.test", to, b"x\r\n")
            assert got == [250, 250, 354, 250]
        await served.said("sender=x@y.test")
    assert told.read_text() == "me\n"
