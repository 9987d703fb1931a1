"""The environment that tcpserver would give to a program for one client.

Knows: the variables of UCSPI-TCP (tcp-environ(5), tcpserver(1)) and of its
IPv6 successors.  Knows not: how the program is started (``program``), where
the variables of tcprules come from.  Called by ``reach``.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.backend.client import Client, IPAddress, ip_address

Environment = dict[bytes, bytes]

# About us and our supervisor, or about another connection than this one.
# RELAYCLIENT: whoever left it there, nobody is to relay by it.
_NOT_PASSED_ON = (b"BACKSTOP_", b"TCP", b"PYTHON", b"LISTEN_", b"WATCHDOG_")
_NOT_PASSED_ON_NAMES = {b"PROTO", b"RELAYCLIENT", b"NOTIFY_SOCKET"}


def inherited(ours: Mapping[bytes, bytes]) -> Environment:
    """What a program gets of our own environment: PATH, and what the run
    script has set for it."""
    return {
        name: value
        for name, value in ours.items()
        if not name.startswith(_NOT_PASSED_ON) and name not in _NOT_PASSED_ON_NAMES
    }


def environment(
    base: Mapping[bytes, bytes], client: Client | None, hostname: bytes
) -> Environment:
    """``base`` with what is known of ``client``; ``None`` (a question of our
    own) is a stranger without an address.

    As with ``tcpserver -H -R -l HOSTNAME``: neither TCPREMOTEHOST nor
    TCPREMOTEINFO is set, since nobody is asked for them; qmail-smtpd writes
    "unknown" then.  With IPv6, PROTO is TCP6, as tcpserver with IPv6 has it,
    and the variables are there under both names.
    """
    variables = dict(base)
    variables[b"PROTO"] = b"TCP"
    variables[b"TCPLOCALHOST"] = hostname
    if client is None:
        return variables
    remote, local = ip_address(client.address), ip_address(client.local_address)
    names = [b"TCP"]
    if remote is not None and remote.version == 6:
        variables[b"PROTO"] = b"TCP6"
        variables[b"TCP6LOCALHOST"] = hostname
        names.append(b"TCP6")
    for name in names:
        _set_end(variables, name + b"REMOTE", remote, client.port)
        _set_end(variables, name + b"LOCAL", local, client.local_port)
    variables.update(client.variables)
    for name in client.without:
        variables.pop(name, None)
    return variables


def _set_end(
    variables: Environment, name: bytes, address: IPAddress | None, port: int
) -> None:
    if address is not None:
        variables[name + b"IP"] = str(address).encode()
        variables[name + b"PORT"] = b"%d" % port
