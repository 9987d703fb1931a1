"""Certificates for tests, from an authority that is made for them."""

from __future__ import annotations

import datetime
import functools
import ssl
from pathlib import Path

import trustme

from proxy.front.tls import ServerTls

NAME = "mx.example.test"


@functools.cache
def authority() -> trustme.CA:
    """One for all tests of a process: it takes its time to be made."""
    return trustme.CA()


@functools.cache
def issued(*names: str) -> trustme.LeafCert:
    """A good certificate for ``names``."""
    return authority().issue_cert(*names)


def expired() -> trustme.LeafCert:
    """A certificate that ended yesterday."""
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return authority().issue_cert(NAME, not_after=yesterday)


def write(directory: Path, name: str, leaf: trustme.LeafCert) -> tuple[str, str]:
    """The paths of its certificate, with the chain, and of its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    certificate.write_bytes(chain)
    key.write_bytes(leaf.private_key_pem.bytes())
    return str(certificate), str(key)


def write_authority(directory: Path, whose: trustme.CA | None = None) -> str:
    """The path of the authority's own certificate."""
    path = directory / "ca.pem"
    (whose or authority()).cert_pem.write_to_path(str(path))
    return str(path)


def server_context(*names: str) -> ssl.SSLContext:
    """What a server shows for ``names``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued(*(names or (NAME,))).configure_cert(context)
    return context


def server_tls() -> ServerTls:
    """The front door's side."""
    return ServerTls(server_context(), {})


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client that trusts the authority, and may speak but one version."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context
