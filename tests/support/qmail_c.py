"""Where qmail would send a recipient: qmail-smtpd.c, rcpthosts.c and
qmail-send.c once more, from their C, without the project's own parsers.

Only what a test of relaying needs: no cdb, no bad files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.addrparse import cut_like_c


@dataclass
class QmailC:
    """One host's control files, as lines; ``ours`` are its IPv4 addresses."""

    rcpthosts: tuple[bytes, ...]
    locals: tuple[bytes, ...]
    localiphost: bytes
    envnoathost: bytes
    virtualdomains: Mapping[bytes, bytes] = field(default_factory=dict)
    percenthack: tuple[bytes, ...] = ()
    ours: tuple[bytes, ...] = ()

    def addrparse(self, argument: bytes) -> bytes:
        """The envelope address in an argument of RCPT."""
        address = cut_like_c(argument)
        at = address.rfind(b"@")
        if at >= 0 and address[at + 1 :] in [b"[%s]" % ip for ip in self.ours]:
            address = address[: at + 1] + self.localiphost
        return address

    def addrallowed(self, address: bytes) -> bool:
        """rcpthosts()."""
        at = address.rfind(b"@")
        if at < 0:
            return True
        host = address[at + 1 :].lower()
        starts = [i for i in range(len(host)) if i == 0 or host[i : i + 1] == b"."]
        return any(host[i:] in self.rcpthosts for i in starts)

    def rewrite(self, address: bytes) -> tuple[bool, bytes]:
        """Whether it is local, and the address that it becomes."""
        at = address.rfind(b"@")
        if at < 0:
            at = len(address)
            address += b"@" + self.envnoathost
        while address[at + 1 :].lower() in self.percenthack:
            percent = address[:at].rfind(b"%")
            if percent < 0:
                break
            address = address[:percent] + b"@" + address[percent + 1 : at]
            at = percent
        at = address.rfind(b"@")
        domain = address[at + 1 :].lower()
        if domain in self.locals:
            return True, address
        for key in (address.lower(), domain):
            if key in self.virtualdomains:
                return True, self.virtualdomains[key] + b"-" + address
        return False, address

    def leaves(self, argument: bytes) -> bool:
        """Whether mail for an argument of RCPT, once taken, goes to another
        host's domain that rcpthosts does not name."""
        is_local, address = self.rewrite(self.addrparse(argument))
        return not is_local and not self.addrallowed(address)
