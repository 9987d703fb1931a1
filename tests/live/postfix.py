"""A Postfix of its own, that sends everything to one place.

Knows: how an instance is laid out, started and stopped.  Wants root, as Postfix's
own master does, and the package; the machine's own instance is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.live.process import PATIENCE
from tests.live.surroundings import wants_root
from tests.live.test_clients import program, ran

_MASTER = """\
pickup     unix       n - n 60   1 pickup
cleanup    unix       n - n -    0 cleanup
qmgr       unix       n - n 300  1 qmgr
tlsmgr     unix       - - n 1000? 1 tlsmgr
rewrite    unix       - - n -    - trivial-rewrite
bounce     unix       - - n -    0 bounce
defer      unix       - - n -    0 bounce
trace      unix       - - n -    0 bounce
flush      unix       n - n 1000? 0 flush
proxymap   unix       - - n -    - proxymap
smtp       unix       - - n -    - smtp
relay      unix       - - n -    - smtp
error      unix       - - n -    - error
retry      unix       - - n -    - error
scache     unix       - - n -    1 scache
postlog    unix-dgram n - n -    1 postlogd
"""


class Postfix:
    """A running instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def log(self) -> str:
        """What it has logged so far."""
        path = self._directory / "log"
        return path.read_text() if path.exists() else ""

    async def said(self, text: str) -> None:
        """Wait until it is in the log."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while text not in self.log:
                    await asyncio.sleep(0.02)
        assert text in self.log, self.log

    async def submit(self, sender: str, recipient: str, message: bytes) -> None:
        """Hand it a message with Unix line ends, as any local program does."""
        process = await asyncio.create_subprocess_exec(
            *(program("sendmail", "postfix"), "-C", str(self._directory / "etc")),
            *("-i", "-f", sender, recipient),
            stdin=asyncio.subprocess.PIPE,
        )
        await asyncio.wait_for(process.communicate(message), PATIENCE)
        assert process.returncode == 0


@contextlib.asynccontextmanager
async def sending_to(port: int, settings: Mapping[str, str]) -> AsyncIterator[Postfix]:
    """An instance whose relay host is ``port`` of this machine."""
    wants_root()
    postfix = program("postfix", "postfix")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chmod(directory, 0o755)
        for part in ("etc", "spool", "lib"):
            (directory / part).mkdir(mode=0o755)
        main = {
            "compatibility_level": "3.6",
            "queue_directory": f"{directory}/spool",
            "data_directory": f"{directory}/lib",
            "maillog_file": f"{directory}/log",
            "maillog_file_prefixes": f"{directory}",
            "myhostname": "client.test",
            "mydestination": "",
            "inet_interfaces": "loopback-only",
            "relayhost": f"[127.0.0.1]:{port}",
            "smtp_host_lookup": "native",
            "smtputf8_enable": "no",
            **settings,
        }
        (directory / "etc/main.cf").write_text(
            "".join(f"{key} = {value}\n" for key, value in main.items())
        )
        (directory / "etc/master.cf").write_text(_MASTER)
        try:
            shutil.chown(directory / "lib", pwd.getpwnam("postfix").pw_uid)
        except KeyError:
            pytest.skip("there is no user postfix")
        status, text = await ran(postfix, "-c", f"{directory}/etc", "start")
        assert status == 0, text
        try:
            yield Postfix(directory)
        finally:
            await ran(postfix, "-c", f"{directory}/etc", "stop")
