"""What vpopmail's own files do not say, or not for sure.

Knows: the choices.  Knows not: what becomes of them.  A part of
:class:`~proxy.qmail.host.HostSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VpopmailSettings:
    """``source`` is ``auto``, ``cdb``, ``mysql``, ``pgsql`` or ``ldap``; ``home``
    the directory with ``etc``, ``None`` for the one above vdelivermail's ``bin``.

    ``qmail_ext`` is ``--enable-qmail-ext``, ``None`` for what the files tell.
    ``layout`` is ``auto``, ``many-domains`` or ``table-per-domain``.
    ``refuse_deleted`` makes a failure of the default ``delete``; ``over_quota`` is
    ``accept``, ``defer`` or ``reject``.  ``usable`` are the kinds of databases that
    can be asked here; ``connections`` and ``timeout`` (seconds) are for each.
    """

    source: str = "auto"
    home: bytes | None = None
    qmail_ext: bool | None = None
    layout: str = "auto"
    refuse_deleted: bool = False
    over_quota: str = "accept"
    usable: frozenset[str] = frozenset()
    connections: int = 4
    timeout: float = 5.0
