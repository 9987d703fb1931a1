"""qmail-smtpd: what it reads at its start, and what it says to RCPT.

Knows: badmailfrom, rcpthosts, morercpthosts.cdb, localiphost, RELAYCLIENT.
Knows not: whether a mailbox exists (neither does qmail-smtpd), and how an
address is cut out of a command (:mod:`proxy.smtp.path`).  Called by
``decide``.  Source: qmail-smtpd.8, qmail-smtpd.c, rcpthosts.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.qmail.cache import keep
from proxy.qmail.cdb import CdbError, cdb_has
from proxy.qmail.control import ControlError, ControlFiles, Names
from proxy.qmail.trail import Trail
from proxy.qmail.view import OpenFile
from proxy.smtp.path import ADDRESS_MAX, address_literal


class Listed(NamedTuple):
    """Where a domain is listed: the file, the line, the entry that fits."""

    file: bytes
    line: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class SmtpdSettings:
    """The control files that qmail-smtpd's ``setup()`` reads.

    ``listed`` are domains that were found in them before.
    """

    rcpthosts: Names | None
    morercpthosts: OpenFile | None
    badmailfrom: Names | None
    localiphost: bytes | None
    listed: dict[bytes, Listed] = field(default_factory=dict)


def read_settings(control: ControlFiles) -> SmtpdSettings:
    """``setup()``; raises :class:`ControlError` where qmail-smtpd says 421."""
    control.readable(b"me")
    if control.line_or_me(b"smtpgreeting", None) is None:
        raise ControlError(b"me", "missing, and there is no control/smtpgreeting")
    localiphost = control.line_or_me(b"localiphost", None)
    control.readable(b"timeoutsmtpd")
    rcpthosts = control.names(b"rcpthosts")
    more = control.open(b"morercpthosts.cdb") if rcpthosts is not None else None
    badmailfrom = control.names(b"badmailfrom")
    control.readable(b"databytes")
    return SmtpdSettings(rcpthosts, more, badmailfrom, localiphost)


def databytes(control: ControlFiles) -> int:
    """control/databytes (qmail-smtpd.8): the largest message in bytes, lines
    ended by a LF alone; 0 is no limit."""
    match = re.match(rb"[0-9]{1,18}", control.line(b"databytes") or b"")
    return int(match[0]) if match else 0


def databytes_set(variables: Iterable[tuple[bytes, bytes]]) -> int | None:
    """DATABYTES, which is in control/databytes' place (qmail-smtpd.8): its digits,
    or 0 if it begins with none (scan_ulong.c); ``None`` if it is not there."""
    value = dict(variables).get(b"DATABYTES")
    if value is None:
        return None
    match = re.match(rb"[0-9]{1,18}", value)
    return int(match[0]) if match else 0


def envelope_address(
    settings: SmtpdSettings, path: bytes, local_ips: frozenset[bytes], trail: Trail
) -> bytes | None:
    """The end of ``addrparse()``: ``user@[our address]`` becomes
    ``user@localiphost``; ``None`` for an address that is too long (555).
    What follows a NUL counts for the length, and is not seen any more."""
    if b"[" in path and settings.localiphost is not None:
        literal = address_literal(path)
        if literal is not None and literal[1] in local_ips:
            path = path[: literal[0]] + settings.localiphost
            trail.add(b"control/localiphost", "our own address: {} is meant", path)
    if len(path) > ADDRESS_MAX:
        trail.add(b"qmail-smtpd", "longer than {} bytes", ADDRESS_MAX)
        return None
    return path if b"\0" not in path else path.partition(b"\0")[0]


def sender_listed(settings: SmtpdSettings, sender: bytes, trail: Trail) -> bool:
    """``bmfcheck``: the whole address, or ``@domain``, is in badmailfrom."""
    bad = settings.badmailfrom
    if not bad:
        return False
    folded = sender.lower()
    line = bad.get(folded)
    at = folded.rfind(b"@")
    if line is None and at >= 0:
        line = bad.get(folded[at:])
    if line is None:
        return False
    trail.add(b"control/badmailfrom", "the sender {} is listed", sender, line=line)
    return True


def domain_allowed(settings: SmtpdSettings, address: bytes, trail: Trail) -> bool:
    """``rcpthosts()``: the domain, or a ``.suffix`` of it, is listed.

    Raises :class:`ControlError` for a damaged morercpthosts.cdb (421).
    """
    at = address.rfind(b"@")
    if at < 0:
        trail.add(b"qmail-smtpd", "an address without @ is always allowed")
        return True
    host = address[at + 1 :]
    found = settings.listed.get(host) or _listed(settings, host)
    if found is None:
        trail.add(b"control/rcpthosts", "{} is not listed", host.lower())
        return False
    trail.add(found.file, "{} is listed", found.entry, line=found.line)
    return True


def _listed(settings: SmtpdSettings, host: bytes) -> Listed | None:
    """Where ``host`` is allowed; remembered, as the files are."""
    names = settings.rcpthosts or {}
    keys = suffixes(host.lower())
    for key in keys:
        line = names.get(key)
        if line is not None:
            found = Listed(b"control/rcpthosts", line, key)
            return keep(settings.listed, host, found)
    if settings.morercpthosts is not None:
        for key in keys:
            if _in_cdb(settings.morercpthosts, key):
                found = Listed(b"control/morercpthosts.cdb", 0, key)
                return keep(settings.listed, host, found)
    return None


def suffixes(host: bytes) -> list[bytes]:
    """``host`` and every part of it that begins with a dot, longest first."""
    keys = [host] if host else []
    at = host.find(b".", 1)
    while at > 0:
        keys.append(host[at:])
        at = host.find(b".", at + 1)
    return keys


def _in_cdb(file: OpenFile, key: bytes) -> bool:
    try:
        return cdb_has(file, key)
    except (CdbError, OSError) as error:
        raise ControlError(b"morercpthosts.cdb", str(error)) from error
