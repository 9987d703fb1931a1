"""The installed qmail, run beside itself: the machine's own is not touched.

Knows: how to lay out a whole qmail below a temporary directory, and how to run
the real programs on it: in a mount namespace of their own, where that directory
is /var/qmail, /etc/passwd, /etc/group and /home.  Paths are therefore the same
to qmail inside and, below the root, to the front door outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import grp
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.process import PATIENCE
from tests.support.cdbmake import make_users_cdb

INSTALLED = Path("/var/qmail")

_OWN_USERS = ("alias", "qmaild", "qmaill", "qmailp", "qmailq", "qmailr", "qmails")
_OWN_GROUPS = ("qmail", "nofiles")
_TOOLS = {"tcpserver": "ucspi-tcp", "unshare": "util-linux", "mount": "mount"}
_QUEUE_DIRECTORIES = 2
_FIRST_UID = 71001

# The first process of the namespaces: with it everything ends.  The last mount
# is for machines whose /tmp forbids set-id programs; qmail-queue is one.
_FIRST = """
set -e
cd /
mount --bind "$1/etc/passwd" /etc/passwd
mount --bind "$1/etc/group" /etc/group
mount --bind "$1/home" /home
mount --bind "$1/var/qmail" /var/qmail
mount -o remount,bind,suid,exec /var/qmail
PATH=/var/qmail/bin:$PATH
qmail-start ./Maildir/ >&2 &
exec tcpserver -1 -H -R -l 0 -c 100 -u "$2" -g "$3" 127.0.0.1 0 \\
  /var/qmail/bin/qmail-smtpd
"""


@functools.cache
def missing() -> str:
    """What keeps a real qmail from running here; ``""`` if nothing does."""
    for name in ("qmail-smtpd", "qmail-send", "qmail-queue"):
        if not (INSTALLED / "bin" / name).exists():
            return f"no qmail is installed: {INSTALLED}/bin/{name} is missing"
    if os.geteuid() != 0:
        return "run as root to start qmail"
    for name, package in _TOOLS.items():
        if shutil.which(name) is None:
            return f"{name} is not installed: apt-get install {package}"
    allowed = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True
    )
    if allowed.returncode:
        return "namespaces may not be made: in a container, add CAP_SYS_ADMIN"
    return ""


@dataclass(frozen=True)
class Host:
    """What a qmail host is made of.

    ``users`` whose name begins with ``=`` get a home but no line in passwd.
    ``dotqmail`` maps names below the root to contents; ``maildirs`` are such
    names too.  ``assign`` are entries of users/assign, ``{NAME}`` in them a user's uid.
    """

    control: Mapping[str, str]
    users: tuple[str, ...]
    dotqmail: Mapping[str, str]
    maildirs: tuple[str, ...]
    assign: tuple[tuple[str, str], ...] = ()
    uids: dict[str, int] = field(default_factory=dict)


def lay_out(root: Path, host: Host) -> None:
    """Make ``host`` with an empty queue below ``root``."""
    root.mkdir()
    root.chmod(0o755)
    for name in ("etc", "home", "var", "var/qmail"):
        (root / name).mkdir()
    home = root / "var/qmail"
    shutil.copytree(INSTALLED / "bin", home / "bin", copy_function=_copy)
    _like(INSTALLED / "bin", home / "bin")
    _queue(home / "queue")
    _accounts(root, host)
    qmail = grp.getgrnam("qmail").gr_gid
    for name in ("control", "users", "alias"):
        (home / name).mkdir()
        _give(home / name, 0, qmail, 0o755)
    for name, content in host.control.items():
        _file(home / "control" / name, content.encode(), 0, qmail)
    alias = pwd.getpwnam("alias").pw_uid
    _give(home / "alias", alias, qmail, 0o2755)
    if host.assign:
        entries = [
            (name.encode(), text.format(**host.uids).encode())
            for name, text in host.assign
        ]
        _file(home / "users/cdb", make_users_cdb(entries), 0, qmail)
    for path, content in host.dotqmail.items():
        owner = (root / path).parent.stat()
        _file(root / path, content.encode(), owner.st_uid, owner.st_gid)
    for path in host.maildirs:
        for part in ("tmp", "new", "cur"):
            _directory(root / path / part)


def _accounts(root: Path, host: Host) -> None:
    """qmail's own accounts as they are here, and the host's users."""
    own = [pwd.getpwnam(name) for name in ("root", *_OWN_USERS)]
    lines = [f"{p.pw_name}:x:{p.pw_uid}:{p.pw_gid}::{p.pw_dir}:/bin/false" for p in own]
    groups = [f"{name}:x:{grp.getgrnam(name).gr_gid}:" for name in _OWN_GROUPS]
    for number, user in enumerate(host.users, _FIRST_UID):
        name = user.removeprefix("=")
        host.uids[name] = number
        if name == user:
            lines.append(f"{name}:x:{number}:{number}::/home/{name}:/bin/false")
        (root / "home" / name).mkdir()
        _give(root / "home" / name, number, number, 0o755)
    _file(root / "etc/passwd", "".join(f"{x}\n" for x in lines).encode(), 0, 0)
    _file(root / "etc/group", "".join(f"{x}\n" for x in groups).encode(), 0, 0)


def _queue(target: Path) -> None:
    """An empty queue of the same layout, owners and modes."""
    source = INSTALLED / "queue"
    for directory, names, files in os.walk(source):
        here = Path(directory).relative_to(source)
        (target / here).mkdir()
        _like(source / here, target / here)
        if len(here.parts) >= _QUEUE_DIRECTORIES:
            names.clear()
        for name in files if here.parts == ("lock",) else ():
            _lock_file(source / here / name, target / here / name)


def _lock_file(source: Path, target: Path) -> None:
    status = source.stat()
    if stat.S_ISFIFO(status.st_mode):
        os.mkfifo(target)
    else:
        target.write_bytes(bytes(status.st_size))
    _like(source, target)


def _copy(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    _like(Path(source), Path(target))
    return target


def _like(source: Path, target: Path) -> None:
    status = source.stat()
    _give(target, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def _directory(path: Path) -> None:
    """Make it, and what is missing above it, for the owner of what is there."""
    if not path.exists():
        _directory(path.parent)
        owner = path.parent.stat()
        path.mkdir()
        _give(path, owner.st_uid, owner.st_gid, 0o700)


def _file(path: Path, content: bytes, uid: int, gid: int) -> None:
    path.write_bytes(content)
    _give(path, uid, gid, 0o644)


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    os.chown(path, uid, gid)
    path.chmod(mode)  # after chown, which clears set-id


class RealQmail:
    """A running qmail: qmail-smtpd on ``port``, everything else behind it."""

    def __init__(self, root: Path, log: Path, port: int, first: int) -> None:
        """``first`` is the first process of its namespaces."""
        self.root = root
        self.port = port
        self._log = log
        self.inside = ["nsenter", "-t", str(first), "-m", "-n"]
        """A command that runs another one where qmail runs."""

    @property
    def log(self) -> list[str]:
        """What qmail-send has said."""
        return self._log.read_text("latin-1").splitlines()

    def logged(self, start: str) -> list[str]:
        """The lines that begin so, time apart."""
        return [line for line in self.log if line.startswith(start)]

    def mails(self) -> Iterator[tuple[str, bytes]]:
        """All delivered mail, with the Maildir that it is in."""
        for new in self.root.rglob("Maildir/new"):
            for file in new.iterdir():
                yield str(new.parent.relative_to(self.root)), file.read_bytes()

    @property
    def idle(self) -> bool:
        """Whether everything that came in has left the queue."""
        begun, ended = self.logged("new msg"), self.logged("end msg")
        return len(begun) == len(ended)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; fail, with the log's end, if nothing happens."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError("\n".join(self.log[-20:])) from None


@contextlib.asynccontextmanager
async def running(
    directory: Path, host: Host, within: Sequence[str] = ()
) -> AsyncIterator[RealQmail]:
    """Lay ``host`` out below ``directory`` and run qmail on it; ``within`` is a
    command that starts the command that follows it, in its own place."""
    root, log = directory / "qmail", directory / "send.log"
    lay_out(root, host)
    account = pwd.getpwnam("qmaild")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *within,
            *("unshare", "--mount", "--propagation", "private"),
            *("--pid", "--fork", "--kill-child"),
            *("sh", "-c", _FIRST, "sh", str(root)),
            *(str(account.pw_uid), str(account.pw_gid)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        port = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        assert port, f"qmail did not start: {log.read_text('latin-1')}"
        (first,) = _children(process.pid)
        qmail = RealQmail(root, log, int(port), first)
        await qmail.until(lambda: bool(qmail.logged("status:")))
        yield qmail
    finally:
        with contextlib.suppress(ProcessLookupError):
            _end(process)
        await process.communicate()


def _end(unshare: asyncio.subprocess.Process) -> None:
    """End the first process of the namespace, and so all others; ``unshare``
    ends when they are gone."""
    try:
        children = _children(unshare.pid)
    except FileNotFoundError:  # all is over
        unshare.kill()
        return
    for child in children:
        os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
