"""The table ``[leakwatch]``: following what qmail made of accepted mail.

Knows: names, types, defaults, texts.  Part of ``model``.
"""

from __future__ import annotations

from pydantic import Field

from proxy.config.section import Section
from proxy.config.values import AbsolutePath


class LeakWatch(Section):
    """Following qmail-send's log: what was accepted and bounced after all is
    counted and logged as a leak. Read at the start only."""

    log: AbsolutePath | None = Field(
        default=None,
        examples=["/var/log/qmail/qmail-send/current"],
        description="qmail-send's log, as multilog, svlogd or syslog writes it; it may"
        " be rotated. The front door's user must be able to read it. Default: none is"
        " followed.",
    )
