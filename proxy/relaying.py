"""Who may relay: the one place that is asked, by every command and by the service.

``relay.trusted`` and ``listen.tcprules`` decide by the client's address; whom the
backend accepts by AUTH is known only once he has authenticated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy import assemble
from proxy.config import Config
from proxy.qmail.tcprules import TcpRulesError


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


def standing(config: Config, client: str) -> Standing:
    """What a session of ``client`` would begin with."""
    relayclient: bytes | None = None
    steps = []
    network = assemble.trusted(config).network_of(client)
    if network is not None:
        relayclient = b""
        text = f"{client} is in {network}: it may relay"
        steps.append(ClientStep("relay.trusted", text))
    if client and config.listen.tcprules is not None:
        ruled, text = _ruled(config, client)
        relayclient = relayclient if ruled is None else ruled
        steps.append(ClientStep("listen.tcprules", text))
    return Standing(relayclient, tuple(steps))


def _ruled(config: Config, client: str) -> tuple[bytes | None, str]:
    try:
        ruling = assemble.tcprules(config).look(client)
    except TcpRulesError as error:
        return None, f"{error}: every client is told 421"
    if ruling.rule is None:
        return None, f"no rule for {client}"
    rule = f"rule {ruling.rule.decode('latin-1')!r} for {client}"
    if ruling.denied:
        return None, f"{rule}: denied, it is told 554 and may say nothing"
    names = ", ".join(name.decode("latin-1") for name, _ in ruling.variables)
    relayclient = dict(ruling.variables).get(b"RELAYCLIENT")
    may = "; it may relay" if relayclient is not None else ""
    return relayclient, f"{rule} sets {names or 'nothing'}{may}"


def anybody_trusted(config: Config) -> bool:
    """Whether there is a client that may relay by his address, so that the backend
    has to relay for us."""
    if config.relay.trusted:
        return True
    if config.listen.tcprules is None:
        return False
    try:
        return assemble.tcprules(config).names(b"RELAYCLIENT")
    except TcpRulesError:
        return True  # not to be told that nobody needs it


def open_problem(config: Config) -> str:
    """Why strangers may relay by their address, in words; ``""`` if they may not.

    Addresses all over the Internet are asked about, not the one rule for all: a few
    rules for large networks open as much.
    """
    if config.relay.everybody:
        return ""
    for family in (list(_strangers4()), list(_strangers6())):
        try:
            relaying = [one for one in family if _relays(config, one)]
        except TcpRulesError:
            return ""  # an error of its own
        if 2 * len(relaying) > len(family):
            keys = "listen.tcprules" if config.listen.tcprules else "relay.trusted"
            rule = _everybody(config)
            why = f" ({rule})" if rule else ""
            return (
                f"{keys}: {len(relaying)} of {len(family)} addresses all over the"
                f" Internet may relay, {relaying[0]} for one: an open relay{why}"
            )
    return ""


OPEN_REMEDY = (
    "give RELAYCLIENT to your own networks only, or set relay.everybody = true"
    " if it is meant"
)


def _relays(config: Config, client: str) -> bool:
    if assemble.trusted(config).network_of(client) is not None:
        return True
    if config.listen.tcprules is None:
        return False
    ruling = assemble.tcprules(config).look(client)
    return not ruling.denied and b"RELAYCLIENT" in dict(ruling.variables)


def _everybody(config: Config) -> str:
    if config.listen.tcprules is None:
        return ""
    ruling = assemble.tcprules(config).look("")
    if b"RELAYCLIENT" in dict(ruling.variables):
        return "its rule for everybody sets RELAYCLIENT"
    return ""


def _strangers4() -> Iterator[str]:
    """One address of each /8 that is routed on the Internet."""
    for first in range(1, 224):
        if first not in (10, 100, 127, 169, 172, 192, 198, 203):
            yield f"{first}.{first * 37 % 256}.{first * 91 % 256}.{first}"


def _strangers6() -> Iterator[str]:
    for first in (0x2001, 0x2400, 0x2404, 0x2600, 0x2620, 0x2800, 0x2A00, 0x2C0F):
        yield f"{first:x}:{first * 37 % 65536:x}::{first:x}"
