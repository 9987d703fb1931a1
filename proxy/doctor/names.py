"""DNS: does mail for our domains come here, and here only?

Knows: MX records, by dnspython (the extra ``dns``), which only this module
imports.  Knows not: who listens at those addresses.  Called by ``command``.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable

from proxy.config.problem import printable
from proxy.doctor.result import GREEN, GREY, YELLOW, Result, several

try:
    import dns.asyncresolver
    import dns.exception
    import dns.resolver
except ImportError:  # pragma: no cover - the extra is not installed
    AVAILABLE = False
else:
    AVAILABLE = True

_SECONDS = 5.0
_DOMAINS_MAX = 50


async def names(
    domains: Iterable[str], own: Iterable[str], hostname: str, nameserver: str = ""
) -> list[Result]:
    """Ask for every domain at the same time; ``own`` are our addresses."""
    listed = [domain for domain in domains if not domain.startswith(".")]
    if not listed:
        return [Result(GREY, "DNS", "rcpthosts names no domain: nothing to ask")]
    if not AVAILABLE:
        what = "not asked: dnspython is not installed"
        return [Result(GREY, "DNS", what, "pip install '.[dns]' in the checkout")]
    try:
        look = _Look(set(own), hostname.lower().rstrip("."), nameserver)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        what = f"not asked: {printable(str(error))}"
        return [Result(GREY, "DNS", what, "see /etc/resolv.conf")]
    some = listed[:_DOMAINS_MAX]
    told = await asyncio.gather(*map(look.domain, some))
    alike: dict[tuple[str, str, str], list[str]] = {}
    for domain, (level, what, remedy) in zip(some, told, strict=True):
        alike.setdefault((level, what, remedy), []).append(domain)
    found = [
        Result(level, "DNS", printable(f"{several(those)}: {what}"), remedy)
        for (level, what, remedy), those in alike.items()
    ]
    if len(listed) > len(some):
        what = f"asked about the first {len(some)} of {len(listed)} domains"
        found.append(Result(GREY, "DNS", what))
    return found


class _Look:
    """One resolver, and what is ours."""

    def __init__(self, own: set[str], hostname: str, nameserver: str) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=not nameserver)
        self._resolver.lifetime = _SECONDS
        if nameserver:
            host, _, port = nameserver.partition(":")
            self._resolver.nameservers = [host]
            self._resolver.port = int(port or 53)
        self._hostname = hostname
        self._own = {str(ipaddress.ip_address(address)) for address in own}
        public = any(ipaddress.ip_address(address).is_global for address in self._own)
        self._knows_itself = public

    async def domain(self, domain: str) -> tuple[str, str, str]:
        """Level, words and remedy."""
        try:
            hosts = await self._exchangers(domain)
            if not hosts:
                what = "it has no MX and no address: no mail arrives"
                return YELLOW, what, "make an MX, or take it out of rcpthosts"
            ours = await asyncio.gather(*map(self._is_ours, hosts))
        except dns.exception.DNSException as error:
            what = f"cannot be asked: {type(error).__name__}"
            return GREY, what, "ask again when DNS answers"
        here = [host for host, our in zip(hosts, ours, strict=True) if our]
        others = [host for host in hosts if host not in here]
        if not here:
            what = (
                f"its MX is {several(others)}, which is not this host by its addresses"
            )
            if self._knows_itself:
                return YELLOW, what, "point it here when the front door is to serve it"
            return GREY, what, "behind NAT: see that port 25 there leads here"
        if others:
            what = f"its MX is this host, and {several(others)} too"
            remedy = "whoever takes mail there must know the recipients as well"
            return YELLOW, what, remedy
        return GREEN, f"its MX is this host, {several(here)}", ""

    async def _exchangers(self, domain: str) -> list[str]:
        """By preference; the domain itself if it has no MX (RFC 5321 §5.1)."""
        try:
            answer = await self._resolver.resolve(domain, "MX")
        except dns.resolver.NXDOMAIN:
            return []
        except dns.resolver.NoAnswer:
            return [domain] if await self._addresses(domain) else []
        records = sorted(answer, key=lambda record: record.preference)
        hosts = [record.exchange.to_text(omit_final_dot=True) for record in records]
        return [host.lower() for host in hosts if host not in ("", ".")]

    async def _is_ours(self, host: str) -> bool:
        return host == self._hostname or bool(await self._addresses(host) & self._own)

    async def _addresses(self, host: str) -> set[str]:
        found = set()
        for kind in ("A", "AAAA"):
            try:
                answer = await self._resolver.resolve(host, kind)
            except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
                continue
            found |= {record.address for record in answer}
        return found
