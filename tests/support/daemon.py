"""A server that a test starts as an ordinary process and stops again.

Knows: a temporary directory that belongs to the account that the server wants,
waiting for it, stopping it.  Knows not: any server (``postgres``, ``mariadb``,
``openldap``).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.certificates import issued, write, write_authority

PATIENCE = 60.0


class Daemon:
    """One server in a directory of its own, as ``user`` where root starts it
    (database servers refuse to run as root)."""

    name = ""

    def __init__(self, user: str | None = None) -> None:
        self.user = user if os.geteuid() == 0 else None
        # Short: names of sockets have 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self.directory.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.directory / "log"

    def certificates(self) -> tuple[str, str, str]:
        """The files of a certificate for 127.0.0.1, of its key and of the authority
        behind both, where the server can read them."""
        certificate, key = write(self.directory, "own", issued("127.0.0.1"))
        authority = write_authority(self.directory)
        for path in (certificate, key, authority):
            os.chmod(path, 0o600)
            if self.user is not None:
                os.chown(path, pwd.getpwnam(self.user).pw_uid, -1)
        return certificate, key, authority

    def prepare(self, *command: str) -> None:
        """Run to its end what the server needs before its start."""
        with self._log.open("ab") as log:
            done = subprocess.run(
                command,
                cwd=self.directory,
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=PATIENCE,
                check=False,
            )
        assert done.returncode == 0, self._log.read_text()

    def run(self, command: Sequence[str], ready: Callable[[], bool]) -> None:
        """Start the server, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + PATIENCE
            while not ready():
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < until, self._log.read_text()
                time.sleep(0.05)
        except BaseException:
            self._process.kill()
            raise

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; it can be started again."""
        if self._process is not None:
            self.freeze(frozen=False)
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self, *, frozen: bool = True) -> None:
        """Let it take connections and answer nothing, or go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)
        if frozen:  # it stops a little later
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def remove(self) -> None:
        """Stop it, and forget its files."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def wanted(program: str, *places: str) -> str:
    """The path of ``program``; the test is skipped without it."""
    path = os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def client(command: Sequence[str], text: str = "", *, secret: str = "") -> str:
    """What a server's own client says to ``text``; ``secret`` goes into the
    environment as libpq and MariaDB want it."""
    done = subprocess.run(
        command,
        input=text.encode(),
        env={**os.environ, "PGPASSWORD": secret, "MYSQL_PWD": secret},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def answers(command: Sequence[str]) -> bool:
    """Whether a server's own client is content."""
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode == 0
