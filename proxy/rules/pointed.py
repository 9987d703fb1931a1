"""What a rule's keys point to, looked at before anything is served.

Knows: how a program and a socket are looked at, whether anybody listens at a port.
Knows not: any rule.  Used by ``check(settings, context)`` of the rules' modules.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

from proxy.config.values import UNIX, is_loopback, read_address
from proxy.rules.trouble import ERROR, WARNING, Trouble

_START_IT = "start the service; until then its recipients are deferred"
_CONNECT_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443}


def program(path: str | bytes) -> Iterator[Trouble]:
    """A program that has to be run by the service's user."""
    name = os.fsdecode(path)
    try:
        status = os.stat(path)
    except OSError as error:
        text = f"{name}: {error.strerror}"
        yield Trouble(text, "name the whole path of a program", level=ERROR)
        return
    if not stat.S_ISREG(status.st_mode):
        yield Trouble(f"{name}: not a file", "name a program", level=ERROR)
    elif not os.access(path, os.X_OK):
        text = f"{name}: the service may not run it"
        yield Trouble(text, "chmod a+rx, its directories too", level=ERROR)


def service(address: str) -> Iterator[Trouble]:
    """A service's address: a socket's path, or a port where somebody listens."""
    if not address.startswith(UNIX):
        yield from listener(*read_address(address))
        return
    path = address[len(UNIX) :]
    try:
        status = os.stat(path)
    except OSError as error:
        text = f"{path}: {error.strerror}"
        yield Trouble(text, _START_IT, level=WARNING)
        return
    if not stat.S_ISSOCK(status.st_mode):
        yield Trouble(f"{path}: not a socket", "name the service's socket", level=ERROR)
    elif not os.access(path, os.W_OK):
        text = f"{path}: the service may not connect to it"
        yield Trouble(text, "let its user write to the socket", level=ERROR)


def listener(host: str, port: int) -> Iterator[Trouble]:
    """Whether anybody takes a connection there."""
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        text = f"{host}:{port}: {error.strerror or error}"
        yield Trouble(text, _START_IT, level=WARNING)


def here(url: str) -> Iterator[Trouble]:
    """The same for a URL of this machine.  Others are not looked for: names take
    long to be found, or not."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        yield from listener(host, parts.port or _PORTS[parts.scheme])
