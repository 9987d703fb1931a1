"""The front door itself: is it there, is it ours, does it refuse what it should?

Knows: what is asked of it, and what the rules say of the same.  Knows not: how
``serve`` does it.  Called by ``command``; asked as any client asks, without DATA.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable
from typing import NamedTuple

from proxy import assemble
from proxy.backend.probe import FOREIGN
from proxy.backend.settings import BackendSettings
from proxy.config import Address, Config, read_address
from proxy.config.problem import printable
from proxy.doctor.dialogue import Dialogue, NoAnswer, talking
from proxy.doctor.result import GREEN, GREY, RED, YELLOW, Result, several
from proxy.explain import Circumstances, Explainer
from proxy.front.trusted import Trusted
from proxy.look.sockets import listeners
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.relaying import Relaying
from proxy.rules.verdict import Kind
from proxy.smtp.reply import Reply

_DOMAINS_MAX = 50


class MadeUp(NamedTuple):
    """A recipient that nobody has; ``refused`` if the rules would answer 550,
    else ``why`` there is none."""

    address: bytes = b""
    refused: bool = False
    why: str = ""


def made_up(config: Config) -> MadeUp:
    """Asks the rules, as the user that serves, for a domain that refuses."""
    host = assemble.qmail_host(config)
    try:
        listed = host.moment().control().names(b"rcpthosts") or ()
    except (CannotTell, KernelError, ControlError) as error:
        return MadeUp(why=f"rcpthosts cannot be read: {error}")
    domains = [name for name in listed if not name.startswith(b".")][:_DOMAINS_MAX]
    engine = assemble.engine(config, host, lambda rule, error: None)
    others: list[str] = []
    local = b"backstop.doctor.%d" % os.getpid()
    with Explainer(engine, config, Circumstances()) as explainer:
        for domain in domains:
            verdict = explainer.block([local + b"@" + domain])[0].verdict
            if (verdict.observed or verdict.kind) is Kind.REJECT:
                return MadeUp(local + b"@" + domain, refused=True)
            others.append(f"{domain.decode('latin-1')}: {verdict.reason}")
    return MadeUp(why=several(others) or "rcpthosts names no domain")


async def doors(
    config: Config, hostname: bytes, own: Iterable[str], made: MadeUp
) -> list[Result]:
    """Ask on every listening address; the first is asked about recipients."""
    places = [
        *((address, False) for address in config.listen.sockets),
        *((read_address(text), True) for text in config.listen.tls_addresses),
    ]
    asked = [
        _door(config, hostname, list(own), made if not number else None, address, tls)
        for number, (address, tls) in enumerate(places)
    ]
    return [result for found in await asyncio.gather(*asked) for result in found]


async def _door(
    config: Config,
    hostname: bytes,
    own: list[str],
    made: MadeUp | None,
    address: Address,
    tls: bool,
) -> list[Result]:
    if not address.port:
        what = f"{address}: the system chooses the port"
        return [Result(GREY, "front door", what, "give it a port")]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    strangers = host
    if made is not None:
        strangers = _a_stranger(config, host, address.host, own)
    proxied = Trusted(config.listen.proxy_from).network_of(strangers or host)
    settings = BackendSettings(
        host=strangers or host,
        port=address.port,
        send_proxy="v2" if proxied else "",
        context=_any_certificate() if tls else None,
    )
    try:
        async with talking(settings, hostname) as dialogue:
            found = [
                _greeting(await dialogue.ask(b"EHLO " + hostname), address, config)
            ]
            if made is not None:
                found += await _asked(dialogue, config, made, bool(strangers))
            return found
    except NoAnswer as error:
        what = f"{address} does not answer: {printable(str(error))}"
        remedy = "start backstop serve; its log tells why it ended"
        return [Result(RED, "front door", what, remedy)]


def _any_certificate() -> ssl.SSLContext:
    """Whether it is good is examined apart."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _a_stranger(config: Config, host: str, listening: str, own: list[str]) -> str:
    """An address to connect to that makes us a client that may not relay; ``""``
    if there is none.  Who connects to one's own address comes from it."""
    candidates = [host]
    if listening == "0.0.0.0":
        candidates += [address for address in own if ":" not in address]
    elif listening == "::":
        candidates += [address for address in own if ":" in address]
    relaying = Relaying(config)
    for candidate in candidates:
        if relaying.standing(candidate).relayclient is None:
            return candidate
    return ""


def _greeting(reply: Reply, address: Address, config: Config) -> Result:
    name = reply.lines[0].decode().partition(" ")[0]
    if not reply.positive:
        what = f"{address} refuses EHLO: {reply.text}"
        return Result(RED, "front door", what, "see what listens there")
    ours = assemble.hostname(config, assemble.qmail_host(config)).decode("latin-1")
    if name.lower() != ours.lower():
        what = f"{address} calls itself {name}, and this configuration says {ours}"
        remedy = "see who listens there, and whether it was told (HUP)"
        return Result(YELLOW, "front door", what, remedy)
    return Result(GREEN, "front door", f"{address} answers as {name}")


async def _asked(
    dialogue: Dialogue, config: Config, made: MadeUp, stranger: bool
) -> list[Result]:
    reply = await dialogue.ask(b"MAIL FROM:<>")
    if not reply.positive:
        what = f"MAIL is answered {reply.text}"
        remedy = "the log tells why: limits, the backend, or tcprules"
        return [Result(YELLOW, "front door", what, remedy)]
    found = []
    if stranger:
        reply = await dialogue.ask(b"RCPT TO:<" + FOREIGN + b">")
        found.append(_foreign(reply.text, reply.positive, reply.permanent))
    else:
        what = "this machine may relay from all of its addresses: not asked"
        remedy = "from elsewhere: RCPT TO:<x@relay-test.invalid> must be 553"
        found.append(Result(GREY, "foreign recipient", what, remedy))
    if not made.refused:
        what = f"no domain has recipients that are surely unknown ({made.why})"
        remedy = "catch-alls and programs take everything: see backstop explain"
        return [*found, Result(YELLOW, "unknown recipient", printable(what), remedy)]
    reply = await dialogue.ask(b"RCPT TO:<" + made.address + b">")
    name = printable(made.address.decode("latin-1"))
    said = f"{name} is answered {reply.text}"
    subject = "unknown recipient"
    remedy = "was it told of the configuration (HUP)? backstop explain tells its own"
    if config.mode == "observe":
        if reply.positive:
            what = f"{said}: observe mode lets it pass, and logs it"
            found.append(Result(GREEN, subject, what))
        else:
            found.append(Result(YELLOW, subject, f"{said}, in observe mode", remedy))
    elif reply.code == 550:
        found.append(Result(GREEN, subject, said))
    else:
        level = RED if reply.positive else YELLOW
        found.append(Result(level, subject, f"{said}, and not 550", remedy))
    return found


def _foreign(text: str, positive: bool, permanent: bool) -> Result:
    name = FOREIGN.decode()
    if positive:
        what = f"{name} is answered {text}: an open relay"
        remedy = "stop it, and see who listens there: backstop does not do that"
        return Result(RED, "foreign recipient", what, remedy)
    if permanent:
        return Result(GREEN, "foreign recipient", f"{name} is answered {text}")
    what = f"{name} is answered {text}, and not refused for good"
    remedy = "the log tells why: a limit, or a file that cannot be read"
    return Result(YELLOW, "foreign recipient", what, remedy)


def who_listens(config: Config, proc: str = "/proc") -> list[Result]:
    """On port 25, and on each port of ours: us, or somebody else?"""
    ports = sorted({address.port for address in config.listen.all_sockets} - {0})
    found: list[Result] = []
    for port in ports:
        seen = listeners(port, proc)
        if seen is None:
            what = "it cannot be seen who listens"
            return [Result(GREY, f"port {port}", what, "run it where /proc is")]
        if not seen:
            remedy = "start backstop serve"
            found.append(Result(RED, f"port {port}", "nobody listens", remedy))
            continue
        others = [each for each in seen if each.program != "qmail-backstop"]
        hidden = [each for each in others if not each.pid]
        if hidden:
            what = f"somebody listens on {several(each.address for each in hidden)}"
            remedy = "run doctor as root to see who"
            found.append(Result(GREY, f"port {port}", what, remedy))
        elif others:
            what = f"{others[0].who} listens on {others[0].address}"
            remedy = "move it to another port (README, step 4)"
            found.append(Result(RED, f"port {port}", what, remedy))
        else:
            what = f"we listen on {several(each.address for each in seen)}"
            found.append(Result(GREEN, f"port {port}", what))
    if 25 not in ports:
        what = f"we are to listen on {several(map(str, ports))}, and mail comes to 25"
        found.append(
            Result(YELLOW, "port 25", what, "listen.addresses, when it is time")
        )
    return found
