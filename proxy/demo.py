"""``backstop demo``: the whole thing on one machine, in a temporary directory.

Knows: how to lay out a small qmail host, and an embedded backend that answers
as qmail-smtpd does and keeps what it takes in a Maildir.  Knows not: how the
front door works; it only starts it.  Called by ``cli``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from proxy.config import Config
from proxy.observe.log import Logger
from proxy.process.loops import run_loop
from proxy.service import Service
from proxy.smtp import replies
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.driver import Banner, Limits, Pending
from proxy.smtp.reply import Reply

_DOMAINS = b"example.test\nvirt.test\nclosed.test\n"

_CONTROL = {
    "me": b"mx.example.test\n",
    "rcpthosts": _DOMAINS,
    "locals": b"example.test\nmx.example.test\n",
    "virtualdomains": b"virt.test:bob-virt\nclosed.test:bob-closed\n",
}

_DOT_QMAIL = {
    "home/alice/.qmail": b"./Maildir/\n",
    "home/alice/.qmail-lists-default": b"./Maildir/\n",
    "home/bob/.qmail": b"./Maildir/\n",
    "home/bob/.qmail-virt-sales": b"./Maildir/\n",
    "home/bob/.qmail-closed-default": b"|bouncesaying 'no such address'\n",
    "var/qmail/alias/.qmail-postmaster": b"&alice@example.test\n",
}


def lay_out(root: Path) -> None:
    """An example qmail host below ``root``: system users, an alias,
    extensions, a virtual domain, a bouncing default.

    Raises ``FileExistsError`` where something is already: all that is there is given
    to one owner."""
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")
    # qmail delivers to nobody whose home belongs to another, and never to
    # root; without root's rights all homes are ours.
    owner = 20001 if os.geteuid() == 0 else os.getuid()
    for name, content in _CONTROL.items():
        _write(root / "var/qmail/control" / name, content)
    users = {"alias": "/var/qmail/alias", "alice": "/home/alice", "bob": "/home/bob"}
    rows = [f"{u}:x:{owner}:{owner}::{home}:/bin/sh" for u, home in users.items()]
    _write(root / "etc/passwd", "\n".join(rows).encode() + b"\n")
    _write(root / "etc/group", f"demo:x:{owner}:\n".encode())
    for user in ("alice", "bob"):
        for folder in ("tmp", "new", "cur"):
            (root / f"home/{user}/Maildir/{folder}").mkdir(parents=True)
    for name, content in _DOT_QMAIL.items():
        _write(root / name, content)
    for part in [root, *root.rglob("*")]:
        part.chmod(0o755 if part.is_dir() else 0o644)
        if os.geteuid() == 0:
            os.chown(part, owner, owner)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class Maildir:
    """Where the embedded backend keeps what it takes (maildir.5)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0
        for part in ("tmp", "new", "cur"):
            (path / part).mkdir(parents=True)

    def keep(self, envelope: bytes, message: bytes) -> int:
        """Store one message; its number, shown as qmail's ``qp``."""
        self._count += 1
        name = f"{int(time.time())}.{os.getpid()}_{self._count}.demo"
        file = self.path / "tmp" / name
        file.write_bytes(envelope + message)
        file.rename(self.path / "new" / name)
        return self._count


class QmailSmtpd(asyncio.Protocol):
    """A session of the embedded backend: as qmail-smtpd, it knows domains but
    no mailboxes.  The dialogue is the front door's own."""

    def __init__(self, maildir: Maildir, domains: frozenset[bytes]) -> None:
        self._maildir = maildir
        self._domains = domains
        none = Limits(0, 0, commands=0, errors=0, recipients=0)
        self._dialogue = Dialogue(self, Banner(b"mx.example.test"), none)
        self._transport: asyncio.WriteTransport | None = None
        self._recipients: list[bytes] = []
        self._message = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._dialogue.start()

    def data_received(self, data: bytes) -> None:
        self._dialogue.receive(data)

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def turn_over(self) -> bool:
        return False

    def limit_reached(self, limit: str) -> None:
        pass

    def close(self, why: str) -> None:
        if self._transport is not None:
            self._transport.close()

    def decide(self, recipient: bytes, argument: bytes) -> Reply | Pending:
        domain = recipient.rpartition(b"@")[2].lower()
        if b"@" in recipient and domain not in self._domains:
            return replies.NOT_RELAYED
        self._recipients.append(recipient)
        return Pending.ACCEPTED

    def relay_recipient(self, argument: bytes) -> None:
        self._dialogue.recipient_answered(Reply(250, b"ok"))

    def relay_auth(self, line: bytes) -> None:
        """Not offered, so never asked for."""

    def auth_ended(
        self, mechanism: bytes, outcome: str, reply: Reply, user: bytes
    ) -> None:
        """Nor this."""

    def relay_data(self) -> None:
        self._message.clear()
        self._dialogue.data_answered(replies.GO_AHEAD)

    def relay_body(self, piece: bytes) -> None:
        self._message += piece

    def relay_end(self, piece: bytes) -> None:
        self._message += piece
        lines = bytes(self._message).replace(b"\r\n", b"\n")
        text = b"\n".join(line.removeprefix(b".") for line in lines.split(b"\n"))
        envelope = b"Return-Path: <%s>\n" % self._dialogue.transaction.sender
        envelope += b"".join(b"Delivered-To: %s\n" % r for r in self._recipients)
        number = self._maildir.keep(envelope, text)
        self._recipients.clear()
        ok = Reply(250, b"ok %d qp %d" % (time.time(), number))
        self._dialogue.message_answered(ok)

    def start_tls(self, discarded: int) -> None:
        raise AssertionError("it is not offered")

    def relay_abort(self) -> None:
        self._recipients.clear()

    def message_refused(self, reply: Reply) -> None:
        self._recipients.clear()


def run(port: int = 0) -> int:
    """Run the demonstration until interrupted; the exit status.

    ``port`` is where the front door listens on 127.0.0.1, 0 for any.
    """
    root = Path(tempfile.mkdtemp(prefix="backstop-demo-"))
    try:
        return run_loop(lambda: _demo(root, port))
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def _demo(root: Path, port: int) -> int:
    loop = asyncio.get_running_loop()
    lay_out(root / "host")
    maildir = Maildir(root / "Maildir")
    domains = frozenset(_DOMAINS.split())
    backend = await loop.create_server(
        lambda: QmailSmtpd(maildir, domains), "127.0.0.1", 0
    )
    backend_port = backend.sockets[0].getsockname()[1]

    def soon(flush: Callable[[], None]) -> None:
        loop.call_soon(flush)

    log = Logger(sys.stderr.buffer, form="logfmt", level="info", schedule=soon)
    service = Service(_config(root / "host", port, backend_port), log, None)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        await service.start()
        front = int(service.addresses[0].rpartition(":")[2])
        print(_introduction(root, front, backend_port, service.status_port), flush=True)
        await stopped.wait()
    finally:
        await service.close()
        backend.close()
        log.close()
    return 0


def _config(root: Path, port: int, backend_port: int) -> Config:
    return Config.model_validate(
        {
            "listen": {"addresses": [f"127.0.0.1:{port}"]},
            "qmail": {"root": str(root), "default_delivery": "./Maildir/"},
            "backend": {"address": f"127.0.0.1:{backend_port}"},
            "status": {"address": "127.0.0.1:0"},
            "shutdown_grace": 1,
        }
    )


def _introduction(root: Path, port: int, backend: int, status: int) -> str:
    return f"""\
A qmail host is laid out in {root}/host:
  alice@example.test, alice-lists-ANYTHING@example.test, bob@example.test,
  postmaster@example.test (an alias), sales@virt.test (a virtual domain);
  every other name there, and all of closed.test, would bounce.

The front door listens on 127.0.0.1:{port}; behind it, on 127.0.0.1:{backend},
something that answers as qmail-smtpd does and keeps what it takes in
  {root}/Maildir/new
Status page: http://127.0.0.1:{status}/   Metrics: http://127.0.0.1:{status}/metrics

Try, in another terminal:

  # taken, and kept in the Maildir
  python3 -c "import smtplib; s = smtplib.SMTP('127.0.0.1', {port}); \
s.sendmail('you@there.test', ['alice@example.test'], 'Subject: hello\\n\\nhi\\n')"

  # refused at once, with 550: this is the bounce that is not sent
  python3 -c "import smtplib; s = smtplib.SMTP('127.0.0.1', {port}); \
s.sendmail('you@there.test', ['nobody@example.test'], 'Subject: hello\\n\\nhi\\n')"

  printf 'Subject: by curl\\n\\nhi\\n' | curl --crlf smtp://127.0.0.1:{port} \
--mail-from you@there.test --mail-rcpt sales@virt.test --upload-file -

  swaks --server 127.0.0.1:{port} --from you@there.test --to nobody@closed.test

End with Ctrl-C.  What happens, as it is logged:
"""
