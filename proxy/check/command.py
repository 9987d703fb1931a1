"""``backstop check``: is the configuration good, and what it points to?

Knows: what must be there before anybody serves, and what is likely a slip.
Knows not: the network (that is for ``doctor``); starts nothing, writes
nothing.  Called by ``cli``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TextIO

from proxy import assemble, obstacles
from proxy.check.finding import ERROR, NOTE, WARNING, Finding, Settings
from proxy.check.history import check_history
from proxy.check.host import HostFiles, check_host
from proxy.check.leakwatch import check_leakwatch
from proxy.check.process import as_run_user
from proxy.check.rules import check_rules
from proxy.check.tls import check_reload, check_tls
from proxy.check.vpopmail import check_vpopmail
from proxy.config import Address, Config, ConfigError, load, read_address
from proxy.config.model import Backend, KeyPath
from proxy.config.problem import shown
from proxy.interfaces import interface_addresses
from proxy.look.home import running_delivery
from proxy.qmail.dotqmail import delivery_trouble
from proxy.qmail.host import QmailHost
from proxy.relaying import OPEN_REMEDY, Relaying
from proxy.rules.source import Context

GOOD, WRONG, BAD_CONFIG = 0, 1, 2


def run(path: Path | None, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Check and print; the exit status."""
    try:
        config = load(path, environ)
    except ConfigError as error:
        bad = [Finding(ERROR, problem) for problem in error.problems]
        _print(bad, as_json, sys.stderr if not as_json else sys.stdout)
        return BAD_CONFIG
    all_found = findings(config, environ)
    _print(all_found, as_json, sys.stdout)
    return WRONG if any(found.level == ERROR for found in all_found) else GOOD


def findings(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Everything that is found of a configuration, as the user that serves."""
    settings = Settings(config, environ)
    tls = list(check_tls(config, settings))
    look = partial(_found, config, environ)
    return [*tls, *as_run_user(config, settings, look)]


def _print(findings: list[Finding], as_json: bool, output: TextIO) -> None:
    if as_json:
        text = json.dumps([found.as_dict() for found in findings], indent=2)
    else:
        text = "\n".join([*map(str, findings), _summary(findings)])
    output.write(text + "\n")


def _summary(findings: list[Finding]) -> str:
    levels = [found.level for found in findings]
    counts = [
        f"{levels.count(level)} {level}{'s' if levels.count(level) > 1 else ''}"
        for level in (ERROR, WARNING)
        if level in levels
    ]
    if ERROR in levels:
        return "configuration not good: " + ", ".join(counts)
    return "configuration OK" + (f", {counts[0]}" if counts else "")


def _found(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    return list(check(config, environ))


def check(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that can be said without starting anything."""
    settings = Settings(config, environ)
    host = assemble.qmail_host(config)
    yield from _network(config, settings)
    yield from check_reload(config, settings)
    yield from check_leakwatch(config, settings)
    yield from check_history(config, settings)
    yield from _names(config, settings, host)
    files = HostFiles(config, host)
    if (lost := _host_missing(settings, files)) is not None:
        yield lost
        return
    yield from check_host(config, host, files)
    yield from check_vpopmail(host, settings)
    root = os.fsencode(config.qmail.root)
    yield from check_rules(config, Context("", host, root))
    yield from _default_delivery(config, settings, files)


# The configuration's own sense.


def _network(config: Config, settings: Settings) -> Iterator[Finding]:
    listen = config.listen.all_sockets
    local = {ip.decode() for ip in interface_addresses()}
    key: KeyPath = ("listen", "addresses")
    for address in sorted({a for a in listen if a.port and listen.count(a) > 1}):
        what = f"has {address} twice"
        yield settings.finding(ERROR, key, what, "take one of them out")
    for number, backend in enumerate(config.backend):
        where: KeyPath = ("backend", number, "address")
        tcp = backend.tcp
        if tcp and any(_meet(one, tcp, local) for one in listen):
            yield settings.finding(
                ERROR,
                where,
                "is where the front door itself listens",
                "run qmail-smtpd on another port and name that",
            )
        command = backend.command
        if command is not None and shutil.which(command[0]) is None:
            what = "the front door's user finds no such program that it may run"
            remedy = f"name {shown(command[0])} by its whole path"
            key = ("backend", number, "command")
            yield settings.finding(ERROR, key, what, remedy)
        if what := _pool_trouble(backend, config.listen.workers):
            remedy = "lower it (and listen.workers), or raise that limit"
            pool: KeyPath = ("backend", number, "pool")
            yield settings.finding(WARNING, pool, what, remedy)
        what, remedy = _socket_trouble(backend.unix_path)
        if what:
            yield settings.finding(WARNING, where, what, remedy)
    if len(config.backend) > 1:
        yield from _backends(config, settings)
    if trouble := obstacles.tcprules_trouble(config):
        remedy = "make it with tcprules, or take the key out"
        yield settings.finding(ERROR, ("listen", "tcprules"), trouble, remedy)
    if warning := obstacles.tcprules_warning(config):
        remedy = "give their clients rules by address, or relay.trusted"
        yield settings.finding(WARNING, ("listen", "tcprules"), warning, remedy)
    if problem := Relaying(config).open():
        name, _, what = problem.partition(": ")
        key = ("listen" if name.startswith("listen") else "relay", name.split(".")[1])
        yield settings.finding(ERROR, key, what, OPEN_REMEDY)
    if config.status.address:
        status = read_address(config.status.address)
        if any(_meet(one, status, local) for one in listen):
            yield settings.finding(
                ERROR,
                ("status", "address"),
                "is where mail is listened for",
                "use another port",
            )


def _backends(config: Config, settings: Settings) -> Iterator[Finding]:
    """Who serves what, as it will be."""
    for number, backend in enumerate(config.backend):
        domains = ", ".join(backend.domains) or "all domains that no other one serves"
        share = "as a backup" if backend.backup else f"with weight {backend.weight}"
        what = f"serves {shown(domains)[1:-1]}, {share}"
        key: KeyPath = ("backend", number, "command" if backend.command else "address")
        yield settings.finding(NOTE, key, what, "see that this is meant")
    served = {domain for backend in config.backend for domain in backend.domains}
    if served and config.auth.offer != "never":
        what = (
            "clients that authenticate do so at the backends without domains, which"
            " have all their mail"
        )
        remedy = "see that those know the users, and relay for them"
        yield settings.finding(WARNING, ("auth", "offer"), what, remedy)


_TCPSERVER = 40  # its -c, if nobody sets it


def _pool_trouble(backend: Backend, workers: int) -> str:
    """Whether idle connections may leave the backend too few for a burst."""
    if backend.command or backend.transparent or backend.send_proxy:
        return ""  # theirs are one client's, and are not kept
    kept = max(backend.pool, workers) if backend.pool else 0
    most = backend.connections or _TCPSERVER
    if kept * 4 <= most * 3:
        return ""
    limit = "backend.connections allows" if backend.connections else "tcpserver takes"
    usual = "" if backend.connections else " unless its -c says otherwise"
    return f"{kept} connections may be idle of the {most} that {limit}{usual}"


def _socket_trouble(path: str | None) -> tuple[str, str]:
    """What is wrong with a backend's socket, and the remedy."""
    if path is None or os.access(path, os.W_OK):
        return "", ""
    if not os.path.exists(path):
        return "there is no such socket", "start qmail-smtpd on it first"
    remedy = "let it write there (chmod, or setfacl -m u:USER:w)"
    return "the front door's user may not connect to it", remedy


_ANY = ("0.0.0.0", "::")


def _meet(listening: Address, other: Address, local: set[str]) -> bool:
    """Whether a connection to ``other`` comes out at ``listening``."""
    if listening.port != other.port or not other.port:
        return False
    if listening.host == other.host:
        return True
    here = other.host in local or other.host in ("localhost", "::1", *_ANY)
    return listening.host in _ANY and here


def _names(config: Config, settings: Settings, host: QmailHost) -> Iterator[Finding]:
    name = assemble.hostname(config, host).decode("latin-1")
    if "." not in name or name.startswith("localhost"):
        yield settings.finding(
            WARNING,
            ("listen", "hostname"),
            f"we are called {shown(name)}, which is not a full domain name",
            'set it, like "mx.example.org"',
        )
    if config.mode == "observe":
        yield settings.finding(
            NOTE,
            ("mode",),
            "unknown recipients are let pass and only logged",
            'set it to "enforce" when the log looks right',
        )


# Where the qmail host is.


def _host_missing(settings: Settings, files: HostFiles) -> Finding | None:
    """Root, home or control: without them nothing else can be looked at."""
    read = "let the front door's user search it (chmod o+x, or setfacl)"
    try:
        files.view.lstat(b"/")
    except OSError as error:
        why = f"cannot be looked at: {error.strerror}"
        remedy = "name the directory where the qmail host's files are seen"
        return settings.finding(ERROR, ("qmail", "root"), why, remedy)
    for path in (files.home, files.home + b"/control"):
        if why := files.trouble(path, directory=True):
            shown_path = files.finding(ERROR, path, "", "").problem.where
            what = f"{shown_path}: {why}"
            remedy = "name qmail's home (conf-qmail)" if "No such" in why else read
            return settings.finding(ERROR, ("qmail", "home"), what, remedy)
    return None


def _default_delivery(
    config: Config, settings: Settings, files: HostFiles
) -> Iterator[Finding]:
    """It cannot be known what qmail-start was started with."""
    key: KeyPath = ("qmail", "default_delivery")
    usual = (files.content(files.control("defaultdelivery")) or b"").strip()
    told = config.qmail.default_delivery
    if trouble := delivery_trouble(told):
        remedy = "write what qmail-start is started with, like ./Maildir/ or ./Mailbox"
        yield settings.finding(ERROR, key, trouble, remedy)
        return
    running = running_delivery() if config.qmail.root == "/" else None
    if running is not None:
        if running.text != told:
            what = f"the running qmail-lspawn was given {shown(running.text)}"
            remedy = "set it to that"
            yield settings.finding(ERROR, key, what, remedy)
        return
    if usual and usual != told.strip().encode("utf-8", "surrogateescape"):
        what = f"control/defaultdelivery says {shown(usual.decode('latin-1'))}"
        remedy = "set it to what qmail-start is started with"
        yield settings.finding(WARNING, key, what, remedy)
    elif not usual:
        what = "this is what a missing .qmail is taken for"
        remedy = "see that qmail-start is started with the same"
        yield settings.finding(NOTE, key, what, remedy)
