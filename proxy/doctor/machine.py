"""What is around the front door: clock, limits, qmail-send, tables, page, logs.

Knows: where each is seen on this machine.  Knows not: the files that decide
(``check`` does), the network.  Called by ``command``, with the rights it has.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import ipaddress
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from proxy import __version__
from proxy.certificates import TlsError, read_all
from proxy.config import Config, read_address
from proxy.config.problem import printable
from proxy.config.values import is_loopback
from proxy.doctor.result import GREEN, GREY, RED, YELLOW, Result
from proxy.interfaces import interface_addresses
from proxy.look.sockets import running
from proxy.look.tree import Tree

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_TIMEX_SIZE = 512  # more than struct timex has
_SKEW = 60.0
_PAGE_SECONDS = 3.0
_FULL = 0.95


def version() -> Result:
    """Ours, and Python's."""
    python = ".".join(map(str, sys.version_info[:3]))
    return Result(GREEN, "version", f"qmail-backstop {__version__}, Python {python}")


def clock(config: Config, now: float) -> Result:
    """Is it kept right, and is no file of qmail's from the future?"""
    tree = Tree(config.qmail.root)
    for directory in ("control", "users", "queue/mess", "queue/lock"):
        path = f"{config.qmail.home}/{directory}"
        ahead = tree.changed(path) - now
        if ahead > _SKEW:
            what = f"{tree.shown(path)} was changed {ahead:.0f} s in the future"
            remedy = "set the clock: chronyd, systemd-timesyncd or ntpd keeps it right"
            return Result(YELLOW, "clock", what, remedy)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return Result(GREY, "clock", "it is not known whether anything keeps it right")
    if state == _TIME_ERROR:
        what = "the kernel knows of nothing that keeps it right"
        return Result(GREY, "clock", what, "run chronyd, systemd-timesyncd or ntpd")
    return Result(GREEN, "clock", "it is kept right")


def certificates(config: Config, hostname: str) -> Iterator[Result]:
    """The name that clients ask for; dates and keys are a part of check."""
    if not config.tls.certificates:
        what = "none: clients' connections are in the clear"
        yield Result(GREY, "certificate", what, "docs/tls.md tells how to have TLS")
        return
    try:
        found = read_all(config)
    except TlsError:
        return  # check has it
    known = {name for certificate in found for name in certificate.names}
    _, _, parent = hostname.lower().partition(".")
    if not known & {hostname.lower(), f"*.{parent}"}:
        what = f"no certificate is for {printable(hostname)}"
        remedy = "senders that look (DANE, MTA-STS) will not deliver: name it in one"
        yield Result(YELLOW, "certificate", what, remedy)
        return
    first = min(found, key=lambda certificate: certificate.expires)
    days = (first.expires - time.time()) / 86400
    what = f"good for {printable(hostname)}; {first.path} has {days:.0f} days left"
    yield Result(GREEN, "certificate", what)


def tables(config: Config) -> Iterator[Result]:
    """Compiled tables that check does not look at, beside what they are made of."""
    tree = Tree(config.qmail.root)
    rules = config.listen.tcprules or "/etc/tcp.smtp.cdb"
    pairs = [
        (rules.removesuffix(".cdb"), rules, "tcprules"),
        ("/etc/aliases", "/etc/aliases.cdb", "newaliases"),
    ]
    good = []
    for source, table, program in pairs:
        made, changed = tree.changed(table), tree.changed(source)
        if not made or not changed or source == table:
            continue
        if changed > made:
            what = f"{tree.shown(table)} is older than {tree.shown(source)}"
            yield Result(YELLOW, "tables", what, f"run {program}")
        else:
            good.append(tree.shown(table))
    if good:
        what = f"not older than what they are made of: {', '.join(good)}"
        yield Result(GREEN, "tables", what)


def qmail_send(config: Config, proc: str = "/proc") -> Result:
    """Does it run, and has it seen what routing says now?"""
    if config.qmail.root != "/":
        what = "the qmail host is another one: not seen from here"
        return Result(GREY, "qmail-send", what)
    pid = running("qmail-send", proc)
    if not pid:
        what = "it does not run: mail is queued, and not delivered"
        return Result(RED, "qmail-send", what, "start qmail")
    started = os.stat(f"{proc}/{pid}").st_mtime
    tree = Tree("/")
    for name in ("locals", "virtualdomains"):
        if tree.changed(f"{config.qmail.home}/control/{name}") > started:
            what = f"control/{name} was changed after qmail-send started"
            remedy = f"if it was not told since: kill -HUP {pid}"
            return Result(GREY, "qmail-send", what, remedy)
    return Result(GREEN, "qmail-send", f"it runs (process {pid})")


def status_page(config: Config) -> Iterator[Result]:
    """Does it answer, and does nobody else see it?"""
    if not config.status.address:
        what = "none is configured: metrics and health are not to be had"
        yield Result(GREY, "status page", what, 'status.address = "127.0.0.1:8025"')
        return
    address = read_address(config.status.address)
    if not is_loopback(address.host):
        public = not _is_private(address.host)
        what = f"{address} is not loopback: it shows clients' addresses"
        remedy = "127.0.0.1, or something with a password before it"
        yield Result(YELLOW if public else GREY, "status page", what, remedy)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    connection = http.client.HTTPConnection(host, address.port, timeout=_PAGE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        lines = response.read(4096).decode("latin-1").strip().split("\n")
    except (OSError, http.client.HTTPException) as error:
        what = f"{address} does not answer: {printable(str(error))}"
        yield Result(YELLOW, "status page", what, "start backstop serve")
        return
    finally:
        connection.close()
    if response.status == http.client.OK:
        yield Result(GREEN, "status page", f"{address} says: {printable(lines[0])}")
    else:
        what = f"{address} says not ready: {printable(lines[0])}"
        yield Result(RED, "status page", what, "mend what it names")


def _is_private(host: str) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return ip.is_private and not ip.is_unspecified


def logs(directory: Path = Path("/var/log/backstop")) -> Result:
    """Where our run scripts let logs go, if that is there."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        what = f"no {directory}: they go where standard error goes"
        return Result(GREY, "logs", what)
    full = 1 - usage.free / usage.total
    if full > _FULL:
        what = f"the file system of {directory} is {full:.0%} full"
        return Result(YELLOW, "logs", what, "make room")
    return Result(GREEN, "logs", f"{directory}; its file system is {full:.0%} full")


def descriptors(config: Config) -> Result:
    """Are there two for each connection (:mod:`proxy.front.descriptors`)?"""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.limits.connections
    needed = 2 * wanted + 128
    if hard != resource.RLIM_INFINITY and needed > hard:
        what = f"{wanted} connections need {needed} descriptors, and {hard} may be had"
        remedy = "raise ulimit -n (LimitNOFILE), or lower limits.connections"
        return Result(YELLOW, "limits", what, remedy)
    shown = "without limit" if hard == resource.RLIM_INFINITY else str(hard)
    return Result(
        GREEN, "limits", f"{needed} descriptors are needed; to be had: {shown}"
    )


def own_addresses(proc: str = "/proc") -> list[str]:
    """Of this machine's interfaces, IPv6 too (proc(5), net/if_inet6), without
    loopback."""

    found = [ip.decode() for ip in interface_addresses()]
    with contextlib.suppress(OSError), open(f"{proc}/net/if_inet6") as file:
        words = [bytes.fromhex(line.split()[0]) for line in file]
        found += [str(ipaddress.IPv6Address(packed)) for packed in words]
    kept = []
    for text in sorted(set(found)):
        ip = ipaddress.ip_address(text)
        if not (ip.is_loopback or ip.is_unspecified or ip.is_link_local):
            kept.append(text)
    return kept
