"""PEM files become TLS contexts, each tried before it is used.

Knows: OpenSSL by Python's ``ssl``, what an administrator gets wrong with
certificates.  Knows not: when files are read.  Called by ``process.serve`` (with
root's rights), the service (at the start and on HUP) and ``check``.

A certificate is tried as a client would: a handshake in memory, in which it is
verified.  So its dates, its key and its names come from the one implementation
that clients meet, too.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from proxy.config import Config
from proxy.config.model import Backend, KeyPath
from proxy.front.tls import ServerTls

_FILE_MAX = 1 << 20
_DAY = 86400.0
SOON_DAYS = 14
"""A certificate with fewer days left is worth a warning."""

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_CERTIFICATE_END = b"-----END CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"


class TlsError(Exception):
    """TLS cannot be had as configured: the ``key``, ``what`` is wrong (with the
    file's name), the ``remedy``."""

    def __init__(self, key: KeyPath, what: str, remedy: str) -> None:
        super().__init__(key, what, remedy)
        self.key = key
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.key))}: {self.what} ({self.remedy})"


class Certificate(NamedTuple):
    """One that was read, and found good: ``names`` in lower case, ``expires`` in
    seconds since 1970."""

    path: str
    context: ssl.SSLContext
    names: tuple[str, ...]
    expires: float


def server_tls(config: Config) -> ServerTls | None:
    """What clients are shown, ``None`` without certificates; raises
    :class:`TlsError`."""
    found = read_all(config)
    if not found:
        return None
    by_name: dict[str, ssl.SSLContext] = {}
    for certificate in found:
        for name in certificate.names:
            by_name.setdefault(name, certificate.context)
    first = min(found, key=lambda certificate: certificate.expires)
    return ServerTls(found[0].context, by_name, first.expires, first.path)


def expires_soon(tls: ServerTls | None, now: float) -> str:
    """A warning in words, ``""`` if there is time."""
    days = (tls.expires - now) / _DAY if tls else SOON_DAYS
    if tls is None or days >= SOON_DAYS:
        return ""
    return f"{tls.expires_first} expires in {max(days, 0):.1f} days"


def read_all(config: Config) -> list[Certificate]:
    """Every certificate of the configuration; raises :class:`TlsError`."""
    tls = config.tls
    if config.listen.tls_addresses and not tls.certificates:
        what = "wants a certificate, and there is none"
        raise TlsError(("listen", "tls_addresses"), what, "set tls.certificates")
    if tls.keys and len(tls.keys) != len(tls.certificates):
        what = f"{len(tls.keys)} keys for {len(tls.certificates)} certificates"
        raise TlsError(("tls", "keys"), what, "name a key for each, in their order")
    keys = tls.keys or tls.certificates
    pairs = zip(tls.certificates, keys, strict=True)
    return [_read(path, key, config) for path, key in pairs]


def files(config: Config) -> tuple[str, ...]:
    """Every file that is read for TLS."""
    authorities = [each.tls_ca for each in config.backend if each.tls_ca]
    named = (*config.tls.certificates, *config.tls.keys, *authorities)
    return tuple(dict.fromkeys(named))


def backend_context(backend: Backend) -> ssl.SSLContext | None:
    """How qmail-smtpd's certificate is looked at, ``None`` without TLS; raises
    :class:`TlsError`."""
    if backend.tls == "none":
        return None
    if backend.unix_path is not None:
        what = "there is no TLS on a Unix socket"
        raise TlsError(("backend", "tls"), what, 'set it to "none"')
    context = ssl.create_default_context()
    if backend.tls_ca:
        key: KeyPath = ("backend", "tls_ca")
        _content(key, backend.tls_ca, _CERTIFICATE)
        context = ssl.create_default_context(cafile=backend.tls_ca)
    if not backend.verifies_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _read(path: str, key_path: str, config: Config) -> Certificate:
    certificates: KeyPath = ("tls", "certificates")
    keys: KeyPath = ("tls", "keys" if config.tls.keys else "certificates")
    pem = _content(certificates, path, _CERTIFICATE)
    _content(keys, key_path, _KEY)
    context = _context(config)
    try:
        context.load_cert_chain(path, key_path, password=_no_passphrase)
    except _Encrypted:
        what = f"{key_path}: the key has a passphrase"
        raise TlsError(keys, what, "write it without: openssl pkey") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{key_path}: the key does not belong to {path}"
            remedy = "name the key that the certificate was made for"
            raise TlsError(keys, what, remedy) from error
        raise TlsError(certificates, f"{path}: {_words(error)}", _LOOK) from error
    except OSError as error:
        raise TlsError(keys, f"{key_path}: {error.strerror}", _LOOK) from error
    seen = _as_seen(certificates, path, context, pem)
    names = [name.lower() for kind, name in seen["subjectAltName"] if kind == "DNS"]
    expires = float(ssl.cert_time_to_seconds(seen["notAfter"]))
    return Certificate(path, context, tuple(names), expires)


_LOOK = "look at it: openssl x509 -noout -text -in FILE"


def _context(config: Config) -> ssl.SSLContext:
    """OpenSSL's and Python's modern defaults, and the minimum."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[config.tls.minimum]
    # A client may not make us begin again and again (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _content(key: KeyPath, path: str, mark: bytes) -> bytes:
    """The file's content, which has ``mark`` in it."""
    try:
        with open(path, "rb") as file:
            content = file.read(_FILE_MAX)
    except OSError as error:
        what = f"{path}: cannot be read: {error.strerror}"
        remedy = "let the front door's user read it, or name the right file"
        raise TlsError(key, what, remedy) from error
    if mark not in content:
        kind = "private key" if mark is _KEY else "certificate"
        what = f"{path}: there is no {kind} in it, as PEM"
        line = mark.decode() if mark is _CERTIFICATE else "-----BEGIN PRIVATE KEY-----"
        raise TlsError(key, what, f"name a file with a line {line}")
    return content


class _Encrypted(Exception):
    """A key with a passphrase: there is nobody to ask."""


def _no_passphrase() -> str:
    raise _Encrypted


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _as_seen(
    key: KeyPath, path: str, context: ssl.SSLContext, pem: bytes
) -> dict[str, Any]:
    """What a client that trusts this very certificate reads in it."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    start = pem.index(_CERTIFICATE)
    end = pem.index(_CERTIFICATE_END, start) + len(_CERTIFICATE_END)
    try:
        client.load_verify_locations(cadata=pem[start:end].decode("ascii") + "\n")
        seen = _handshake(context, client)
    except ssl.SSLCertVerificationError as error:
        remedy = "renew it, or name the right one"
        raise TlsError(key, f"{path}: {error.verify_message}", remedy) from error
    except ssl.SSLError as error:
        raise TlsError(key, f"{path}: {_words(error)}", _LOOK) from error
    return {"subjectAltName": (), **seen}


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Both sides of one, in memory; the server's certificate."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(back, there)
    answers = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):  # flights; two are enough
        done = [_moves(asks.do_handshake), _moves(answers.do_handshake)]
        if all(done):
            break
    return asks.getpeercert() or {}


def _moves(step: Callable[[], None]) -> bool:
    """Whether it is done with; its turn comes again, else."""
    with contextlib.suppress(ssl.SSLWantReadError):
        step()
        return True
    return False
