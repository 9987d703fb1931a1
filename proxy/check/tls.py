"""``backstop check``, TLS's part: can the certificates be used, and for how long?

Knows: which of it ``serve`` does with root's rights, and which as the user that
it becomes.  Knows not: what may be wrong with a certificate (``certificates``).
Called by ``command``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from proxy.certificates import (
    TlsError,
    backend_context,
    expires_soon,
    files,
    server_tls,
)
from proxy.check.finding import ERROR, WARNING, Finding, Settings
from proxy.config import Config


def check_tls(config: Config, settings: Settings) -> Iterator[Finding]:
    """What keeps it from starting; asked with the rights that we have."""
    try:
        tls = server_tls(config)
        soon = expires_soon(tls, time.time())
        if soon:
            key = ("tls", "certificates")
            yield settings.finding(WARNING, key, soon, "renew it, then send HUP")
    except TlsError as error:
        yield settings.finding(ERROR, error.key, error.what, error.remedy)
    for number, backend in enumerate(config.backend):
        try:
            backend_context(backend)
        except TlsError as error:
            where = ("backend", number, *error.key[1:])
            yield settings.finding(ERROR, where, error.what, error.remedy)
    if config.auth.offer == "tls" and not config.tls.certificates:
        what = "no connection can be encrypted, so AUTH is offered to nobody"
        yield settings.finding(WARNING, ("auth", "offer"), what, "set tls.certificates")


def check_reload(config: Config, settings: Settings) -> Iterator[Finding]:
    """What keeps a HUP from working; asked as the user that serves."""
    for path in files(config):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            what = f"{path}: that user may not read it ({error.strerror})"
            key = ("tls", "keys" if path in config.tls.keys else "certificates")
            yield settings.finding(WARNING, key, what, "let it, or HUP will fail")
