"""The table ``[tls]``: what clients are shown.

Knows: names, types, defaults, texts.  Knows not: whether the files are good
(``proxy.certificates`` does).  Part of ``model``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from proxy.config.section import Section
from proxy.config.values import AbsolutePath, split_list

Files = Annotated[tuple[AbsolutePath, ...], BeforeValidator(split_list)]


class Tls(Section):
    """Encryption for clients. With a certificate, STARTTLS is offered on
    listen.addresses; qmail-smtpd needs none of it. Files are read at the start, by
    root where started as root, and anew on HUP, by the user that the front door
    has become."""

    certificates: Files = Field(
        default=(),
        examples=[("/etc/backstop/mx.example.test.pem",)],
        description="PEM files, each with a certificate and the chain behind it. The"
        " first is shown to clients that name no host; the others to those that ask for"
        " a name in them (SNI). Default: none, no STARTTLS.",
    )
    keys: Files = Field(
        default=(),
        examples=[("/etc/backstop/mx.example.test.key",)],
        description="PEM files with the private keys, without a passphrase, in the"
        " order of certificates. Default: the keys stand in the certificates' files.",
    )
    minimum: Literal["1.2", "1.3"] = Field(
        default="1.2",
        description="The oldest version of TLS that is spoken. Older ones than 1.2 are"
        " not to be had: who knows no better sends in the clear.",
    )
