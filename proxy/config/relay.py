"""The keys of ``[relay]``: who may send to other hosts' recipients."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from proxy.config.section import Section
from proxy.config.values import RelayNetwork, Seconds, split_list


class Relay(Section):
    """Who may send to other hosts' recipients. qmail sees our address, not the
    client's, so this is decided here and not by qmail's tcprules."""

    trusted: Annotated[tuple[RelayNetwork, ...], BeforeValidator(split_list)] = Field(
        default=(),
        description="Networks whose clients may send to any domain, as with"
        ' RELAYCLIENT="" in tcprules: ["192.0.2.0/24", "2001:db8::/32"]. qmail-smtpd'
        " must let them, too: RELAYCLIENT set for the front door's own address.",
    )
    allow_missing_rcpthosts: bool = Field(
        default=False,
        description="Without control/rcpthosts qmail takes mail for every domain: an"
        " open relay. Set this to true if that is what you want.",
    )
    everybody: bool = Field(
        default=False,
        description="If listen.tcprules or relay.trusted let most of the Internet"
        " relay, the service does not start: an open relay. Set this to true if that"
        " is what you want (no stranger can reach the port, say).",
    )
    allow_percenthack: bool = Field(
        default=True,
        description="Where control/percenthack names one of your domains, anybody may"
        " send to user%any.where@your.domain: qmail relays it. Set this to false to"
        " refuse what leads to a domain that is not in rcpthosts.",
    )
    interlock_interval: Seconds = Field(
        default=300.0,
        description="Seconds between two questions to qmail-smtpd whether it would"
        " relay for us; the log, metrics, /readyz and the status page tell. No mail"
        " is sent. 0: never ask.",
    )
