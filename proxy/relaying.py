"""Who may relay: the one place that is asked, by every command and by the service.

``relay.trusted`` and ``listen.tcprules`` decide by the client's address; whom the
backend accepts by AUTH is known only once he has authenticated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from proxy import assemble
from proxy.backend.client import Variables
from proxy.config import Config
from proxy.front.admission import relayclient
from proxy.qmail.tcprules import Ruling, TcpRules, TcpRulesError


class ClientStep(NamedTuple):
    """A reason that comes before all others."""

    place: str
    text: str

    def where(self) -> str:
        """The key."""
        return self.place

    def note(self) -> str:
        """What it decided."""
        return self.text


class Standing(NamedTuple):
    """RELAYCLIENT, ``None`` if it is not set, and why."""

    relayclient: bytes | None = None
    steps: tuple[ClientStep, ...] = ()


class State(NamedTuple):
    """``needed``: there are clients that may relay, so that the backend has to let
    us; ``open``: why strangers may relay too, in words, ``""`` if they may not."""

    needed: bool = False
    open: str = ""


class Relaying:
    """Who may relay by a configuration, and by its file of tcprules as it is now."""

    def __init__(self, config: Config) -> None:
        self._trusted = assemble.trusted(config)
        self._networks = bool(config.relay.trusted)
        self._meant = config.relay.everybody
        named = config.listen.tcprules is not None
        self._rules = assemble.tcprules(config) if named else None

    def standing(self, client: str) -> Standing:
        """What a session of ``client`` would begin with."""
        steps = []
        network = self._trusted.network_of(client)
        if network is not None:
            text = f"{client} is in {network}: it may relay"
            steps.append(ClientStep("relay.trusted", text))
        variables: Variables = ()
        if client and self._rules is not None:
            variables, text = _ruled(self._rules, client)
            steps.append(ClientStep("listen.tcprules", text))
        return Standing(relayclient(network is not None, variables), tuple(steps))

    def state(self) -> State:
        """What holds for all clients."""
        return State(self.needed(), self.open())

    def needed(self) -> bool:
        """Whether any client may relay by its address.  Those who may by AUTH do not
        count: their backend knows them."""
        if self._networks or self._rules is None:
            return self._networks
        try:
            return self._rules.names(b"RELAYCLIENT")
        except TcpRulesError:
            return True  # so that nobody is told to take it away

    def open(self) -> str:
        """Why strangers may relay by their address, in words; ``""`` if they may not,
        or if ``relay.everybody`` says that it is meant.

        Addresses all over the Internet are asked about, not the one rule for all: a
        few rules for large networks open as much.
        """
        if self._meant or not (self._networks or self._rules):
            return ""
        try:
            for family in (_STRANGERS4, _STRANGERS6):
                relaying = [one for one in family if self._relays(one)]
                if 2 * len(relaying) > len(family):
                    return self._words(relaying, len(family))
        except TcpRulesError:
            pass  # nobody gets in, which is an error of its own
        return ""

    def _relays(self, client: str) -> bool:
        ruling = self._rules.look(client) if self._rules else Ruling()
        if ruling.denied:
            return False
        trusted = client in self._trusted
        return relayclient(trusted, ruling.variables) is not None

    def _words(self, relaying: Sequence[str], asked: int) -> str:
        key, why = "relay.trusted", ""
        if self._rules is not None:
            key = "listen.tcprules"
            if b"RELAYCLIENT" in dict(self._rules.look("").variables):
                why = " (its rule for everybody sets RELAYCLIENT)"
        return (
            f"{key}: {len(relaying)} of {asked} addresses all over the Internet may"
            f" relay, {relaying[0]} for one: an open relay{why}"
        )


OPEN_REMEDY = (
    "give RELAYCLIENT to your own networks only, or set relay.everybody = true"
    " if it is meant"
)


def _ruled(rules: TcpRules, client: str) -> tuple[Variables, str]:
    try:
        ruling = rules.look(client)
    except TcpRulesError as error:
        return (), f"{error}: every client is told 421"
    if ruling.rule is None:
        return (), f"no rule for {client}"
    rule = f"rule {ruling.rule.decode('latin-1')!r} for {client}"
    if ruling.denied:
        return (), f"{rule}: denied, it is told 554 and may say nothing"
    names = ", ".join(name.decode("latin-1") for name, _ in ruling.variables)
    may = "; it may relay" if b"RELAYCLIENT" in dict(ruling.variables) else ""
    return ruling.variables, f"{rule} sets {names or 'nothing'}{may}"


# One address of each /8 that is routed on the Internet, and of large networks of IPv6.
_STRANGERS4 = [
    f"{first}.{first * 37 % 256}.{first * 91 % 256}.{first}"
    for first in range(1, 224)
    if first not in (10, 100, 127, 169, 172, 192, 198, 203)
]
_STRANGERS6 = [
    f"{first:x}:{first * 37 % 65536:x}::{first:x}"
    for first in (0x2001, 0x2400, 0x2404, 0x2600, 0x2620, 0x2800, 0x2A00, 0x2C0F)
]
