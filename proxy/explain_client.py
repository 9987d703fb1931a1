"""``backstop explain --client``: what the client's address alone decides.

Knows: ``relay.trusted`` and ``listen.tcprules``, in the order in which a session
asks them.  Knows not: recipients.  Called by ``explain``.
"""

from __future__ import annotations

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
