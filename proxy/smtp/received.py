"""The trace line that the front door puts on top of a message.

Knows: RFC 5321 §4.4.  Knows not: sockets, clocks.  Called by the session.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime
from email.utils import format_datetime

# What RFC 5321 lets a Domain or address literal be made of, and "_".
_HELO = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")

_USER = re.compile(rb"[A-Za-z0-9._@+=-]{1,128}")


def protocol_name(*, extended: bool, tls: bool, authenticated: bool) -> bytes:
    """The word behind ``with`` (RFC 3848); it has none for HELO in an encrypted
    session, and AUTH is ESMTP's whatever was said before it."""
    if not (extended or authenticated):
        return b"SMTP"
    return b"ESMTP" + b"S" * tls + b"A" * authenticated


def received_line(
    *,
    helo: bytes,
    client: str,
    hostname: bytes,
    protocol: bytes,
    tls: bytes,
    session: str,
    when: datetime,
    user: bytes = b"",
) -> bytes:
    """``Received: from ... by ... with ... id ...; date`` with its CRLF.

    ``client`` is the peer's address as text, ``tls`` the version and cipher of an
    encrypted session, ``when`` is aware of its zone.  A HELO name that is not a
    name is left out: it could be anything.  So is the name of an authenticated
    ``user`` that is not like one.
    """
    address = _literal(client)
    name = helo if _HELO.fullmatch(helo) else address
    who = b"\r\n\t(authenticated as %s)" % user if _USER.fullmatch(user) else b""
    return b"Received: from %s (%s)%s\r\n\tby %s with %s id %s;\r\n\t%s\r\n" % (
        name,
        address,
        who,
        hostname,
        protocol + b" (" + tls + b")" if tls else protocol,
        session.encode("ascii"),
        _date(when.replace(microsecond=0)),
    )


@functools.lru_cache(maxsize=4)
def _date(when: datetime) -> bytes:
    """RFC 5322 §3.3; made once a second."""
    return format_datetime(when).encode("ascii")


def _literal(client: str) -> bytes:
    """RFC 5321 §4.1.3, or ``unknown`` for a peer without an IP address."""
    if not client or "/" in client:
        return b"unknown"
    text = client.partition("%")[0].encode("ascii", "replace")
    return b"[IPv6:%s]" % text if b":" in text else b"[%s]" % text
