"""Who the mail comes from, as far as a backend may be told.

Knows: the two ends of a client's connection.  Knows not: how a backend learns
of them.  Made by the session when it needs the backend; ``None`` in its place
means the front door itself (the interlock).
"""

from __future__ import annotations

from typing import NamedTuple


class Client(NamedTuple):
    """A client's connection: its own end, and ours; ports are 0 where a socket
    has none (a Unix socket)."""

    address: str
    port: int
    local_address: str
    local_port: int
