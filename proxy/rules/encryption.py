"""How a server that a rule asks is seen through TLS.

Knows: authorities, our own certificate, what may be wrong with their files.  Knows
not: which server, or how its protocol begins TLS.  Used by the rule ``sql``.
"""

from __future__ import annotations

import ssl

from proxy.rules.source import SourceDown


def client_context(
    *,
    verify: bool,
    authorities: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
) -> ssl.SSLContext:
    """TLS 1.2 or later.  With ``verify`` the server must show a certificate for its
    name, from one of ``authorities`` (a PEM file; ``None``: of the system's);
    ``certificate`` is what we show, ``key`` where its key is if not in the same file.

    Raises :class:`SourceDown` for a file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:  # ssl.SSLError is one
        raise SourceDown(f"{authorities}: {_why(error)}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        shown = certificate if key is None else f"{certificate}, {key}"
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except _Encrypted:
            raise SourceDown(f"{shown}: the key has a passphrase") from None
        except OSError as error:
            raise SourceDown(f"{shown}: {_why(error)}") from None
    return context


class _Encrypted(Exception):
    """A key with a passphrase: there is nobody to ask."""


def _no_passphrase() -> str:
    raise _Encrypted


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or str(error)
