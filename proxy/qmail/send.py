"""qmail-send: where a recipient goes, local or remote, and under which name.

Knows: envnoathost, percenthack, locals, virtualdomains.  Knows not: who the
local names belong to.  Called by ``decide``.  Source: qmail-send.8,
addresses.5, ``rewrite()`` in qmail-send.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.qmail.control import ControlError, ControlFiles, Map, Names
from proxy.qmail.trail import Trail


@dataclass(frozen=True, slots=True)
class SendSettings:
    """The control files that route a recipient."""

    envnoathost: bytes
    locals: Names
    percenthack: Names
    virtualdomains: Map


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
    return SendSettings(
        envnoathost=envnoathost or b"",
        locals=local,
        percenthack=control.names(b"percenthack") or {},
        virtualdomains=control.map(b"virtualdomains") or {},
    )


def route(settings: SendSettings, recipient: bytes, trail: Trail) -> Route:
    """``rewrite()``: never fails."""
    address = recipient
    at = address.rfind(b"@")
    if at < 0:
        at = len(address)
        address += b"@" + settings.envnoathost
        trail.add(b"control/envnoathost", "no domain: {} is meant", address)
    address = _percenthack(settings, address, at, trail)

    at = address.rfind(b"@")
    folded = address.lower()
    domain = folded[at + 1 :]
    line = settings.locals.get(domain)
    if line is not None:
        trail.add(b"control/locals", "{} is local", domain, line=line)
        return Route(True, address)
    keys = [folded, domain]
    keys += [folded[i:] for i in range(at + 1, len(folded)) if folded[i] == 0x2E]
    keys.append(b"")
    for key in keys:
        entry = settings.virtualdomains.get(key)
        if entry is None:
            continue
        prepend, line = entry
        if not prepend:
            trail.add(
                b"control/virtualdomains",
                "{} is an exception: not virtual",
                key,
                line=line,
            )
            break
        trail.add(
            b"control/virtualdomains",
            "{} is handled by {} as {}",
            key or b"everything else",
            prepend,
            prepend + b"-" + address[:at],
            line=line,
        )
        return Route(True, prepend + b"-" + address)
    trail.add(b"qmail-send", "{} is neither local nor virtual: remote", domain)
    return Route(False, address)


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
