"""PEM files: what is good, and what is told of those that are not."""

from __future__ import annotations

import datetime
import os
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.certificates import TlsError, expires_soon, server_tls
from proxy.config import Config
from proxy.config.model import Backend, Listen
from proxy.config.tls import Tls
from tests.support.certificates import NAME, authority, expired, issued, write


def told(config: Config) -> str:
    with pytest.raises(TlsError) as caught:
        server_tls(config)
    return str(caught.value)


def config(certificate: str | list[str], key: str | list[str] | None) -> Config:
    certificates = [certificate] if isinstance(certificate, str) else certificate
    keys = [key] if isinstance(key, str) else key or []
    return Config(tls=Tls(certificates=tuple(certificates), keys=tuple(keys)))


def test_none_is_none() -> None:
    assert server_tls(Config()) is None


@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
def test_a_good_one(tmp_path: Path, minimum: str) -> None:
    path, key = write(tmp_path, "mx", issued(NAME))
    tls = Tls.model_validate(
        {"certificates": [path], "keys": [key], "minimum": minimum}
    )
    found = server_tls(Config(tls=tls))
    assert found is not None
    version = ssl.TLSVersion.TLSv1_2 if minimum == "1.2" else ssl.TLSVersion.TLSv1_3
    assert found.context.minimum_version == version
    assert found.context.options & ssl.OP_NO_RENEGOTIATION
    assert found.expires > time.time()
    assert expires_soon(found, time.time()) == ""
    left = expires_soon(found, found.expires - 2 * 86400)
    assert left == f"{path} expires in 2.0 days"


def test_the_key_may_stand_with_the_certificate(tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    issued(NAME).private_key_and_cert_chain_pem.write_to_path(str(path))
    assert server_tls(config(str(path), None)) is not None


def test_a_self_signed_one(tmp_path: Path) -> None:
    """As ``openssl req -x509`` makes it: its own authority."""
    leaf = authority().issue_cert(NAME)
    path, key = write(tmp_path, "self", leaf)
    Path(path).write_bytes(leaf.cert_chain_pems[0].bytes())  # without the chain
    assert server_tls(config(path, key)) is not None


def test_what_cannot_be_read(tmp_path: Path) -> None:
    path, key = write(tmp_path, "mx", issued(NAME))
    missing = f"{tmp_path}/no"
    assert told(config(missing, key)) == (
        f"tls.certificates: {missing}: cannot be read: No such file or directory"
        " (let the front door's user read it, or name the right file)"
    )
    assert told(config(path, missing)).startswith(f"tls.keys: {missing}: cannot be")
    assert "Is a directory" in told(config(str(tmp_path), key))
    if os.geteuid():
        Path(key).chmod(0)
        assert "Permission denied" in told(config(path, key))


def test_what_is_not_what_it_should_be(tmp_path: Path) -> None:
    path, key = write(tmp_path, "mx", issued(NAME))
    _, foreign = write(tmp_path, "other", issued("other.test"))
    text = told(config(path, foreign))
    assert text.startswith(f"tls.keys: {foreign}: the key does not belong to {path} (")
    assert "there is no certificate in it" in told(config(key, key))
    assert "there is no private key in it" in told(config(path, path))
    assert "there is no private key in it" in told(config(path, None))
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert told(config(str(broken), key)).startswith(f"tls.certificates: {broken}: ")


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path) -> None:
    path, key = write(tmp_path, "mx", issued(NAME))
    private = load_pem_private_key(Path(key).read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    Path(key).write_bytes(pem)
    assert f"tls.keys: {key}: the key has a passphrase" in told(config(path, key))


def test_an_expired_one(tmp_path: Path) -> None:
    path, key = write(tmp_path, "old", expired())
    assert told(config(path, key)) == (
        f"tls.certificates: {path}: certificate has expired"
        " (renew it, or name the right one)"
    )


def test_one_that_is_not_valid_yet(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    leaf = authority().issue_cert(NAME, not_before=now + day, not_after=now + 9 * day)
    path, key = write(tmp_path, "new", leaf)
    assert "certificate is not yet valid" in told(config(path, key))


def test_each_name_has_its_certificate(tmp_path: Path) -> None:
    first = write(tmp_path, "first", issued(NAME))
    other = write(tmp_path, "other", issued("other.test", "*.wild.test"))
    pair = config([first[0], other[0]], [first[1], other[1]])
    tls = server_tls(pair)
    assert tls is not None
    assert set(tls._by_name) == {NAME, "other.test", "*.wild.test"}
    assert tls._by_name[NAME] is tls.context
    assert "1 keys for 2 certificates" in told(config([first[0], other[0]], first[1]))


def test_addresses_without_a_certificate() -> None:
    listen = Listen(tls_addresses=("127.0.0.1:0",))
    assert "listen.tls_addresses: wants a certificate" in told(Config(listen=listen))


@pytest.mark.parametrize(
    ("address", "asked", "verified"),
    [
        ("127.0.0.1:2525", None, False),
        ("localhost:2525", None, False),
        ("[::1]:2525", None, False),
        ("192.0.2.1:2525", None, True),
        ("mail.example.test:25", None, True),
        ("mail.example.test:25", False, False),
        ("127.0.0.1:2525", True, True),
    ],
)
def test_whether_the_backend_is_verified(
    address: str, asked: bool | None, verified: bool
) -> None:
    assert Backend(address=address, tls_verify=asked).verifies_tls is verified
