"""Connections on the addresses of ``listen.tls_addresses``.

Knows: that a handshake comes before the greeting.  Made by the service.
"""

from __future__ import annotations

from proxy.front.session import Session


class TlsSession(Session):
    """A session that begins with a handshake (RFC 8314 §3.3)."""

    implicit = True
