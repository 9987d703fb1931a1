"""qmail-send: where a recipient goes, local or remote, and under which name.

Knows: envnoathost, percenthack, locals, virtualdomains.  Knows not: who the
local names belong to.  Called by ``decide``.  Source: qmail-send.8,
addresses.5, ``rewrite()`` in qmail-send.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.qmail.cache import keep
from proxy.qmail.control import ControlError, ControlFiles, Map, Names
from proxy.qmail.trail import Trail


class Handling(NamedTuple):
    """What locals and virtualdomains say of a domain.

    ``prepend`` is ``None`` for a domain in locals, empty where the mail is
    remote; ``key`` is the entry that fits, and ``line`` is 0 where none does.
    """

    prepend: bytes | None
    key: bytes
    line: int


@dataclass(frozen=True, slots=True)
class SendSettings:
    """The control files that route a recipient.

    ``handled`` are domains that were routed before; ``by_address`` says that
    virtualdomains has entries for single addresses.
    """

    envnoathost: bytes
    locals: Names
    percenthack: Names
    virtualdomains: Map
    by_address: bool = True
    handled: dict[bytes, Handling] = field(default_factory=dict)


class Route(NamedTuple):
    """``rewrite()``'s answer: the channel and the rewritten address."""

    is_local: bool
    address: bytes

    def local_and_host(self) -> tuple[bytes, bytes]:
        """The parts before and after the last ``@`` (spawn.c)."""
        at = self.address.rfind(b"@")
        return self.address[:at], self.address[at + 1 :]


def read_settings(control: ControlFiles) -> SendSettings:
    """``getcontrols()``; raises :class:`ControlError` where qmail-send would
    not start."""
    me = control.line(b"me")
    envnoathost = control.line_or_me(b"envnoathost", b"envnoathost")
    local = control.names(b"locals")
    if local is None:
        if me is None:
            raise ControlError(b"locals", "missing, and there is no control/me")
        local = dict.fromkeys(me.lower().split(b"\0"), 0)
    virtual = control.map(b"virtualdomains") or {}
    return SendSettings(
        envnoathost=envnoathost or b"",
        locals=local,
        percenthack=control.names(b"percenthack") or {},
        virtualdomains=virtual,
        by_address=b"@" in b"\n".join(virtual),
    )


def route(settings: SendSettings, recipient: bytes, trail: Trail) -> Route:
    """``rewrite()``: never fails."""
    address = recipient
    at = address.rfind(b"@")
    if at < 0:
        at = len(address)
        address += b"@" + settings.envnoathost
        trail.add(b"control/envnoathost", "no domain: {} is meant", address)
    if settings.percenthack:
        address = _percenthack(settings, address, at, trail)
    at = address.rfind(b"@")  # envnoathost may have one in it
    domain = address[at + 1 :]
    prepend, key, line = settings.handled.get(domain) or _handling(settings, domain)
    if prepend is None:
        trail.add(b"control/locals", "{} is local", key, line=line)
        return Route(True, address)
    if settings.by_address:
        entry = settings.virtualdomains.get(address.lower())
        if entry is not None:
            key = address.lower()
            prepend, line = entry
    if prepend:
        trail.add(
            b"control/virtualdomains",
            "{} is handled by {} as {}",
            key or b"everything else",
            prepend,
            prepend + b"-" + address[:at],
            line=line,
        )
        return Route(True, prepend + b"-" + address)
    if line:
        text = "{} is an exception: not virtual"
        trail.add(b"control/virtualdomains", text, key, line=line)
    text = "{} is neither local nor virtual: remote"
    trail.add(b"qmail-send", text, domain.lower())
    return Route(False, address)


def _handling(settings: SendSettings, domain: bytes) -> Handling:
    """The entry for ``domain``; remembered, as the files are."""
    folded = domain.lower()
    line = settings.locals.get(folded)
    if line is not None:
        return keep(settings.handled, domain, Handling(None, folded, line))
    keys = [folded]
    keys += [folded[i:] for i in range(len(folded)) if folded[i] == 0x2E]
    keys.append(b"")
    for key in keys:
        entry = settings.virtualdomains.get(key)
        if entry is not None:
            return keep(settings.handled, domain, Handling(entry[0], key, entry[1]))
    return keep(settings.handled, domain, Handling(b"", b"", 0))


def sender_for(sender: bytes, recipient: bytes) -> bytes:
    """``senderadd()``: of ``owner-@host-@[]`` every recipient gets its own
    ``owner-user=domain@host`` (VERP, addresses.5)."""
    if not sender.endswith(b"-@[]"):
        return sender
    owner, at, host = sender[:-4].rpartition(b"@")
    if not at:
        return sender
    box, _, domain = recipient.rpartition(b"@")
    return owner + box + b"=" + domain + b"@" + host


def _percenthack(
    settings: SendSettings, address: bytes, at: int, trail: Trail
) -> bytes:
    """While the domain is in percenthack, ``user%fqdn@domain`` is
    ``user@fqdn`` (qmail-send.8); ``at`` is where the domain's ``@`` stands."""
    while settings.percenthack:
        line = settings.percenthack.get(address[at + 1 :].lower())
        percent = address.rfind(b"%", 0, at)
        if line is None or percent < 0:
            break
        address = address[:percent] + b"@" + address[percent + 1 : at]
        at = percent
        trail.add(b"control/percenthack", "rewritten to {}", address, line=line)
    return address
