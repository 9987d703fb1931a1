"""The keys of ``[backend]`` that tell qmail-smtpd who the client is.

Knows: names, defaults, texts, which of them go together.  Knows not: the other
keys of the table, which inherits these (``model``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from proxy.config.values import Processes, Text, split_words, wrong


class Ways(BaseModel):
    """One of them at most keeps the client's address; see
    docs/client-identity.md."""

    command: (
        Annotated[tuple[Text, ...], BeforeValidator(split_words), Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        examples=[("/usr/bin/rblsmtpd", "/var/qmail/bin/qmail-smtpd")],
        description="Instead of address: qmail-smtpd, with what stands before it in"
        " its run script, started for each client that has a good recipient. It sees"
        " the client's address as under tcpserver. No shell is asked.",
    )
    command_concurrency: Processes = Field(
        default=40,
        description="Programs of command at a time, as tcpserver -c. A client waits"
        " connect_timeout for a place, then it is told to come again (451). Each of"
        " listen.workers has its part, one at least.",
    )
    transparent: bool = Field(
        default=False,
        description="Connect to address from the client's own address (Linux; IPv4 to"
        " IPv4, IPv6 to IPv6). Needs CAP_NET_RAW, and routes that bring the answers"
        " back: docs/client-identity.md.",
    )
    send_proxy: Literal["v1", "v2"] | None = Field(
        default=None,
        examples=["v2"],
        description="Begin each connection with a header of the PROXY protocol. Only"
        " for a backend that expects it; no qmail-smtpd does by itself.",
    )
    identify: Literal["xclient", "xforward"] | None = Field(
        default=None,
        examples=["xclient"],
        description="Tell the backend of the client by XCLIENT (it must offer it) or"
        " XFORWARD (where it does). No unpatched qmail-smtpd does.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, values: object) -> object:
        """A program is reached in one way only."""
        if isinstance(values, dict) and values.get("command") is not None:
            for key in ("address", "tls", "transparent", "send_proxy", "identify"):
                if values.get(key, "none") not in ("none", None, False):
                    raise wrong(
                        f"has both command and {key}",
                        f"take one of them out: a command needs no {key}",
                    )
        return values
