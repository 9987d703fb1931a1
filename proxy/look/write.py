"""A configuration that fits a host that was looked at, with its reasons.

Knows: the keys of the configuration and what in a host speaks for which value.
Knows not: how anything was found (``host``), where the text goes.  Called by
``init``.

What is not sure is a comment, so that the text is a good configuration as it
stands: ``backstop check`` takes it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxy.look.host import Host
from proxy.look.paper import Paper, storable
from proxy.look.recipients import Proposal
from proxy.look.smtpd import Smtpd
from proxy.qmail.dotqmail import delivery_trouble

_ADDRESS_PROGRAMS = {
    "rblsmtpd": "asks block lists about the client's address",
    "spamdyke": "judges the client's address and name",
    "greylite": "greylists by the client's address",
    "qgreylist": "greylists by the client's address",
    "greylisting": "greylists by the client's address",
    "relay-ctrl-check": "lets clients relay by POP (docs/relaying.md)",
    "pbscheck": "lets clients relay by POP (docs/relaying.md)",
    "tcpd": "asks hosts.allow about the client's address (docs/relaying.md)",
    "jgreylist": "greylists by the client's address",
    "greetdelay": "lets the client wait before the greeting",
    "relaylock": "lets clients relay by their address",
    "fixcrio": "stands between",
    "recordio": "stands between",
}


class Troubles(NamedTuple):
    """Why the host's own cannot be used as they are, in words, ``""`` if they can;
    ``rules`` has one for each of the rules that are proposed."""

    certificate: str
    tcprules: str
    rules: Sequence[str]


def configuration(
    host: Host, version: str, troubles: Troubles, config: str = ""
) -> str:
    """The text; ``config`` is the file that it is for."""
    paper = Paper()
    _head(paper, host, version, config)
    _listen(paper, host, troubles.tcprules)
    usable = _tls(paper, host, troubles.certificate)
    _qmail(paper, host)
    _backend(paper, host)
    _vpopmail(paper, host)
    for proposal, trouble in zip(host.rules, troubles.rules, strict=True):
        _proposal(paper, proposal, trouble)
    _rules(paper, host)
    _rest(paper, host)
    _relay(paper, host)
    _auth(paper, host, usable)
    _process(paper, host)
    return paper.text


def _head(paper: Paper, host: Host, version: str, config: str) -> None:
    name = host.hostname or "this host"
    where = "" if host.live else f", from its files below {host.root}"
    paper.say(f"Written by backstop init {version} for {name}{where}.")
    paper.say("Nothing on the host was changed. Read it through; then:")
    option = f" -c {config}" if config else ""
    paper.say(f"backstop check{option}; backstop explain{option} you@your.domain")
    if host.unseen:
        count = len(host.unseen)
        paper.say(
            f"Not everything could be seen ({count} file{'s' if count > 1 else ''}):"
            " run it as root to be sure."
        )
    paper.gap()
    paper.say(
        "To begin with, refuse nobody and log who would be (observe=reject). Then:"
    )
    paper.key("mode", "enforce", sure=False)
    paper.key("mode", "observe")


# The client's side.


def _listen(paper: Paper, host: Host, tcprules: str) -> None:
    paper.table("[listen]")
    addresses: list[str] = []
    for smtpd in host.front:
        paper.say(f"found {smtpd.place}: {smtpd.kind} {smtpd.host} {smtpd.port}")
        address = _address(smtpd.host)
        if address and address not in addresses:
            addresses.append(address)
    for each in host.listening or ():
        paper.say(f"found {each.who} listening on {each.address}")
        if ":" in each.host and not each.loopback and each.address not in addresses:
            addresses.append(each.address)
    if not host.front:
        paper.say("It was not found what listens on port 25.")
    paper.key("addresses", addresses or ["0.0.0.0:25"])
    if not any("[" in address for address in addresses):
        paper.say("If mail arrives by IPv6 too:")
        paper.key("addresses", [*(addresses or ["0.0.0.0:25"]), "[::]:25"], sure=False)
    if host.hostname:
        paper.say(f"Our name is control/me's, {host.hostname}.")
    else:
        paper.say("control/me was not found; the name that we greet with:")
        paper.key("hostname", "mx.example.org", sure=False)
    if host.tcprules:
        _tcprules(paper, host, tcprules)
    elif any(host.rules_named.values()):
        _several_rules(paper, host)


def _here(host: Host, path: str) -> str:
    """The path of a file of the host on this machine."""
    return host.root.rstrip("/") + path


def _address(host: str) -> str:
    if host in ("0", "0.0.0.0", "*", ""):
        return "0.0.0.0:25"
    if host in (":0", "::", "[::]"):
        return "[::]:25"
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return ""
    return f"[{ip}]:25" if ip.version == 6 else f"{ip}:25"


def _tcprules(paper: Paper, host: Host, trouble: str) -> None:
    paper.say(
        f"found {host.tcprules}: deny, RELAYCLIENT and the other variables go on to"
        " count for the client's own address."
    )
    if trouble:
        paper.say(f"It cannot be used as it is: {trouble}")
    paper.key("tcprules", host.tcprules, sure=not trouble)


def _several_rules(paper: Paper, host: Host) -> None:
    """Rules that do not hold for every listener, or were not found."""
    for place, path in host.rules_named.items():
        paper.say(f"found {place}: {f'its rules are {path}' if path else 'no rules'}")
    if len(set(host.rules_named.values())) > 1:
        paper.say(
            "ATTENTION: the listeners do not have the same rules, and one [listen] has"
            " one file. To use the rules of one for the address of another could let"
            " strangers relay, so none is used: deny, and RELAYCLIENT for clients that"
            " relay by it, do not count until you choose. Either make one file of them,"
            " or run one service a listener, with its own addresses and tcprules:"
        )
    else:
        paper.say(
            "ATTENTION: that file was not found, so no rules are used: deny, and"
            " RELAYCLIENT for clients that relay by it, do not count. Name it:"
        )
    for path in dict.fromkeys(filter(None, host.rules_named.values())):
        shown = path if path.startswith("/") and storable(path) else "/etc/tcp.smtp.cdb"
        paper.key("tcprules", shown, sure=False)


def _tls(paper: Paper, host: Host, trouble: str) -> bool:
    """Whether connections will be encrypted."""
    offered = host.has("STARTTLS")
    if not (offered or host.certificate):
        return False
    paper.table("[tls]")
    if offered:
        paper.say(
            f"found {offered.place}: {offered.detail}. Its STARTTLS is not passed"
            " through; the front door has its own."
        )
    if not host.certificate:
        paper.say("No certificate of qmail-smtpd's was found:")
        path = "/etc/ssl/private/mx.pem"
        paper.key("certificates", [path], sure=False)
        return False
    path = _here(host, host.certificate)
    paper.say(f"found {host.certificate}")
    if trouble:
        paper.say(f"It cannot be used as it is: {trouble}")
    paper.key("certificates", [path], sure=not trouble)
    if host.key:
        paper.key("keys", [_here(host, host.key)], sure=not trouble)
    return not trouble


# The host.


def _qmail(paper: Paper, host: Host) -> None:
    paper.table("[qmail]")
    if not host.live:
        paper.key("root", host.root)
        paper.say(
            "Of another host, its own addresses are to be told (user@[192.0.2.1]):"
        )
        paper.key("local_ips", ["192.0.2.1", "127.0.0.1"], sure=False)
    if host.home is None:
        paper.say("No qmail was found. Name its home:")
        paper.key("home", "/var/qmail", sure=False)
    else:
        paper.say(f"found {host.home.path}: {host.home.why}")
        paper.key("home", host.home.path)
    if host.delivery is None:
        paper.say(
            "It was not found what qmail-start is started with. Its first argument says"
            " what a missing .qmail means; look for it, often in /var/qmail/rc:"
        )
        paper.key("default_delivery", "./Maildir/", sure=False)
        return
    found, text = host.delivery.found, host.delivery.text
    trouble = delivery_trouble(text)
    if host.delivery.sure and storable(text) and not trouble:
        paper.say(f"found {found.place}: {found.what} is started with this")
        paper.key("default_delivery", text)
        return
    paper.say(f"found {found.place}: qmail-start seems to be started with this:")
    if trouble or not storable(text):
        paper.say(f"  {found.detail} ({trouble or 'not text'})")
        paper.say("See there what it comes to; it says what a missing .qmail means:")
        text = "./Mailbox"
    else:
        paper.say(
            "It is what a script says, not what was seen to run. If it is right, take"
            " the # away; $USER and the like belong to it:"
        )
    paper.key("default_delivery", text, sure=False)


def _backend(paper: Paper, host: Host) -> None:
    paper.table("[backend]")
    paper.say(
        "Where qmail-smtpd will listen. On loopback: on 0 anybody could walk around"
        " the front door."
    )
    port = host.backend_port
    if host.behind is not None:
        there = host.behind
        paper.say(
            f"found {there.place}: {there.kind} {there.host} {there.port} already"
        )
    for smtpd in host.front:
        paper.say(f"in {smtpd.place}: {_move(smtpd, port)}")
    paper.key("address", f"127.0.0.1:{port}")
    first = host.front[0] if host.front else None
    if first is None:
        return
    concurrency = first.options.get("c", "")
    if concurrency.isdigit() and 4 <= int(concurrency) <= 10_000:
        paper.say(
            f"found {first.place}: -c {concurrency}. Whoever comes beyond that waits"
            " without a word, so two less:"
        )
        paper.key("connections", int(concurrency) - 2)
    _command(paper, first, concurrency)


def _move(smtpd: Smtpd, port: int) -> str:
    if smtpd.kind == "xinetd":
        return f"add type = UNLISTED, port = {port}, bind = 127.0.0.1"
    if smtpd.kind == "inetd":
        return f'the first word becomes "127.0.0.1:{port}"'
    if smtpd.kind == "systemd":
        return f"in its socket, ListenStream=127.0.0.1:{port}"
    return f'"{smtpd.host} {smtpd.port}" becomes "127.0.0.1 {port}"'


def _command(paper: Paper, smtpd: Smtpd, concurrency: str) -> None:
    paper.gap()
    paper.say(
        "Or, instead of address: the front door starts it for each client that has a"
        " good recipient. Then it goes on seeing the client's own address"
        " (docs/client-identity.md)."
    )
    for name in smtpd.before:
        if why := _ADDRESS_PROGRAMS.get(name):
            paper.say(f"It matters here: {name} {why}.")
    user = smtpd.options.get("u", "")
    if user:
        paper.say(
            f"It ran as user {user} (-u); a command runs as the front door's own user:"
            " process.user."
        )
    if any("$" in word for word in smtpd.command):
        paper.say("Words with $ are not known here: write what they come to.")
    if smtpd.command:
        words = [word for word in smtpd.command if word and storable(word)]
        paper.key("command", words, sure=False)
    if concurrency.isdigit():
        paper.key("command_concurrency", int(concurrency), sure=False)


# Who may receive.


def _rules(paper: Paper, host: Host) -> None:
    paper.table("[[rules]]")
    paper.say("qmail's own files: rcpthosts, locals, virtualdomains, users, dot-qmail.")
    for each in host.domains.found:
        detail = f" ({each.detail})" if each.detail else ""
        paper.say(f"found {each.place}: {each.what}{detail}")
    if host.domains.uses_vpopmail:
        store = f", with {host.domains.store} behind it" if host.domains.store else ""
        where = host.domains.vpopmail or "not found"
        paper.say(
            f"vdelivermail decides about some domains (vpopmail: {where}{store}). What"
            " the front door cannot know of them it passes on, as undecided."
        )
    if found := host.has("chkuser"):
        paper.say(
            f"found {found.place}: chkuser goes on in qmail-smtpd; it is off where"
            " RELAYCLIENT is set for the front door's address."
        )
    paper.key("type", "qmail")


def _proposal(paper: Paper, proposal: Proposal, trouble: str) -> None:
    """A rule before ``qmail``, all of it a comment if it is not sure."""
    detail = f" ({proposal.found.detail})" if proposal.found.detail else ""
    sure = proposal.sure and not trouble
    paper.table("[[rules]]", sure=sure)
    paper.say(f"found {proposal.found.place}{detail}")
    paper.say(proposal.words)
    if trouble:
        paper.say(f"It cannot be used as it is: {trouble}")
    for name, value in proposal.keys.items():
        paper.key(name, value, sure=sure)


def _vpopmail(paper: Paper, host: Host) -> None:
    store = _SOURCES.get(host.domains.store, "")
    if not (host.domains.uses_vpopmail and store):
        return
    paper.table("[vpopmail]")
    home = host.domains.vpopmail
    extra = "ldap" if store == "ldap" else "sql"
    paper.say(
        f"found {home}/etc/vpopmail.{host.domains.store}: the rule qmail asks that"
        f" database, for which pip install '.[{extra}]' in the checkout is wanted. If"
        " vpopmail was built for another one, or for none:"
    )
    paper.key("source", store, sure=False)


_SOURCES = {"mysql": "mysql", "pgsql": "pgsql", "ldap": "ldap"}


def _rest(paper: Paper, host: Host) -> None:
    paper.table("[status]")
    paper.say("A page, metrics and health probes, for this machine only.")
    paper.key("address", "127.0.0.1:8025")
    if host.log is not None:
        paper.table("[leakwatch]")
        paper.say(
            f"found {host.log.detail}: qmail-send's log. What is let in and bounces"
            " after all is counted and told."
        )
        path = _here(host, host.log.path)
        paper.key("log", path, sure=storable(path))
    paper.table("[limits]")
    if host.databytes:
        paper.say(
            f"control/databytes says {host.databytes}; it is announced to clients, and"
            " qmail-smtpd goes on to hold it."
        )
    else:
        paper.say("Without control/databytes there is no limit. To have one here:")
    paper.key("message_size", 50_000_000, sure=False)


def _relay(paper: Paper, host: Host) -> None:
    paper.table("[relay]")
    for each in host.relaying:
        paper.say(f"found {each.place}: {each.detail} may relay")
    for each in host.unheard:
        paper.say(
            f"ATTENTION: found {each.place}: {each.detail}. The front door does not"
            " hear of that: clients that relay by it would be told 553, and denied ones"
            " would be let in. docs/relaying.md has the ways out."
        )
    if any(each.detail.startswith("127.") for each in host.relaying):
        paper.say(
            "qmail-smtpd will see 127.0.0.1, and so relay whatever the front door lets"
            " through; that lets through what rcpthosts names, and mail of clients"
            " that may relay by tcprules or by this key. docs/relaying.md."
        )
    networks = list(_networks(host))
    if networks:
        paper.say(
            "With listen.tcprules these may relay already. Without it:"
            if host.tcprules
            else "These may relay:"
        )
    else:
        paper.say("Networks whose clients may send to any domain:")
    paper.key("trusted", networks or ["192.0.2.0/24"], sure=False)


def _networks(host: Host) -> Iterator[str]:
    """Rules for parts of IPv4 addresses, for addresses and for networks, as networks;
    not those for ranges and names, nor for this machine."""
    for each in host.relaying:
        text = each.detail
        parts = text.rstrip(".").split(".")
        if "/" not in text and len(parts) < 4 and all(map(str.isdigit, parts)):
            text = ".".join([*parts, *["0"] * (4 - len(parts))]) + f"/{8 * len(parts)}"
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        if not network.is_loopback and network.prefixlen:
            yield str(network)


def _auth(paper: Paper, host: Host, encrypted: bool) -> None:
    first = next((each for each in host.front if each.auth), None)
    if first is None:
        return
    paper.table("[auth]")
    paper.say(
        f"found {first.place}: qmail-smtpd is started with {' '.join(first.auth)},"
        " which looks like SMTP AUTH (docs/auth.md)"
    )
    if not encrypted:
        paper.say(
            '"tls" wants tls.certificates; "always" shows passwords to everybody on'
            " the way:"
        )
    paper.key("offer", "tls", sure=encrypted)


def _process(paper: Paper, host: Host) -> None:
    paper.table("[process]")
    if "backstop" in host.users:
        paper.key("user", "backstop")
        return
    paper.say("Make a user that nothing else runs as, started as root it becomes that:")
    paper.say("useradd --system --no-create-home --shell /usr/sbin/nologin backstop")
    paper.key("user", "backstop", sure=False)
