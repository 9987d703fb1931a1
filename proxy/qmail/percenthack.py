"""The percent hack as a way around rcpthosts.

Knows: that qmail-smtpd looks at the domain before the percent hack and
qmail-send at the one after it, so that user%any.where@domain is relayed for
anybody where ``domain`` is in percenthack and in rcpthosts.  Knows not: whether
that is wanted (``relay.allow_percenthack``).  Called by the rule ``qmail``, and
by ``obstacles`` for a warning.  Source: qmail-smtpd.c, qmail-send.8.
"""

from __future__ import annotations

from proxy.qmail import send, smtpd
from proxy.qmail.host import QmailHost
from proxy.qmail.moment import Moment
from proxy.qmail.trail import Trail


def leaves_by_percenthack(host: QmailHost, moment: Moment, recipient: bytes) -> bool:
    """Whether ``recipient``, which qmail takes and sends to another host, goes
    to a domain that is not in rcpthosts, by the percent hack alone.

    ``recipient`` is a path as bytes.  Raises what :meth:`Moment.smtpd` and
    :meth:`Moment.send` raise.
    """
    if b"%" not in recipient:
        return False
    settings, routes = moment.smtpd(), moment.send()
    if settings.rcpthosts is None:
        return False
    local_ips = host.settings.local_ips
    address = smtpd.envelope_address(settings, recipient, local_ips, Trail())
    if address is None:
        return False
    final = send.route(routes, address, Trail()).address
    if b"@" not in address:
        address += b"@" + routes.envnoathost
    if final == address:
        return False
    return not smtpd.domain_allowed(settings, final, Trail())


def opened_domains(moment: Moment) -> list[bytes]:
    """The domains in percenthack for which qmail-smtpd takes mail of anybody."""
    settings, routes = moment.smtpd(), moment.send()
    if settings.rcpthosts is None:
        return []
    return [
        domain
        for domain in routes.percenthack
        if domain == routes.envnoathost.lower()  # user%any.where, without @
        or smtpd.domain_allowed(settings, b"@" + domain, Trail())
    ]
