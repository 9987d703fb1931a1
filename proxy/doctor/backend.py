"""The backends: do they answer, would they relay, can strangers reach them?

Knows: what a qmail-smtpd behind a front door should be like.  Knows not: how it is
asked (``dialogue``, :mod:`proxy.interlock`).  Called by ``command``.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Iterator

from proxy import assemble
from proxy.backend.pool import Backend
from proxy.backend.settings import BackendSettings
from proxy.certificates import TlsError
from proxy.config import Config
from proxy.config.problem import printable
from proxy.doctor.dialogue import PATIENCE, NoAnswer, patient, talking
from proxy.doctor.result import GREEN, GREY, RED, YELLOW, Result, several
from proxy.interlock import Interlock
from proxy.look.sockets import Listener, listeners
from proxy.relaying import Relaying


async def backends(config: Config, hostname: bytes) -> list[Result]:
    """Ask every one of them, all at the same time."""
    try:
        places = assemble.places(config)
    except TlsError:
        return []  # a part of check, which says it better
    asked = [_one(config, place.settings, hostname) for place in places]
    return [result for found in await asyncio.gather(*asked) for result in found]


async def _one(
    config: Config, settings: BackendSettings, hostname: bytes
) -> list[Result]:
    name = printable(str(settings))
    try:
        async with talking(settings, hostname) as dialogue:
            reply = await dialogue.ask(b"EHLO " + hostname)
    except NoAnswer as error:
        what = f"{name} does not answer: {printable(str(error))}"
        remedy = "start qmail-smtpd there: every client is told 451 until then"
        return [Result(RED, "backend", what, remedy)]
    found = [_introduced(name, reply.positive, reply.lines)]
    found.append(await _relaying(config, settings, hostname))
    return found


def _introduced(name: str, positive: bool, lines: tuple[bytes, ...]) -> Result:
    offered = {line.decode().upper().partition(" ")[0] for line in lines[1:]}
    if not positive:
        what = f"{name} refuses EHLO: {lines[0].decode()}"
        return Result(YELLOW, "backend", what, "see what stands before qmail-smtpd")
    shown = ", ".join(sorted(offered)) or "nothing"
    what = f"{name} answers; it offers {shown}"
    if "PIPELINING" not in offered:
        remedy = "qmail-smtpd offers PIPELINING: see what stands before it"
        return Result(YELLOW, "backend", what, remedy)
    return Result(GREEN, "backend", what)


async def _relaying(
    config: Config, settings: BackendSettings, hostname: bytes
) -> Result:
    """The interlock's own question, and its own words."""
    if settings.per_client:
        what = "it sees the client's own address, and decides by that"
        return Result(GREY, "relaying", what)
    backend = Backend(patient(settings), hostname)
    said: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    def say(level: str, text: str) -> None:
        if not said.done():
            said.set_result((level, text))

    relays = Relaying(config).state
    interlock = Interlock(backend, say, 1.0, relays)
    interlock.configure(1.0, relays)
    interlock.tick()
    try:
        async with asyncio.timeout(2 * PATIENCE):
            level, text = await said
    except TimeoutError:
        return Result(YELLOW, "relaying", "no answer to the interlock's question")
    finally:
        interlock.close()
        await backend.close()
    what, _, remedy = text.removeprefix("interlock: ").rpartition(" (")
    if level == "info" or not what:
        return Result(GREEN, "relaying", printable(text.removeprefix("interlock: ")))
    return Result(YELLOW, "relaying", printable(what), printable(remedy[:-1]))


def exposure(config: Config, own: Iterable[str], proc: str = "/proc") -> list[Result]:
    """Whether strangers may walk around the front door; ``own`` are this machine's
    addresses."""
    here = {*own, "localhost"}
    found: list[Result] = []
    for backend in config.backend:
        if backend.tcp is None:
            continue
        host, port = backend.tcp
        if not _is_here(host, here):
            what = f"{backend.tcp} is another host: not seen from here who reaches it"
            remedy = "see that only this host may connect there"
            found.append(Result(GREY, "backend", what, remedy))
            continue
        seen = listeners(port, proc)
        if seen is None:
            what = f"it cannot be seen who reaches port {port}"
            found.append(Result(GREY, "backend", what, "run it where /proc is"))
        elif seen:
            found.append(_exposed(seen, port, here))
    return found


def _is_here(host: str, here: set[str]) -> bool:
    try:
        return host in here or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in here


def _exposed(seen: list[Listener], port: int, here: set[str]) -> Result:
    open_to = [each for each in seen if not each.loopback]
    if not open_to:
        where = several(each.address for each in seen)
        return Result(GREEN, "backend", f"only this machine reaches {where}")
    reached = set(_reached(open_to, here))
    where = several(each.address for each in open_to)
    what = f"{open_to[0].who} listens on {where}: whoever reaches"
    what += f" {several(sorted(reached)) or 'that'} walks around the front door"
    remedy = f"let it listen on 127.0.0.1:{port}; else a firewall must keep all out"
    public = any(ipaddress.ip_address(address).is_global for address in reached)
    return Result(RED if public else YELLOW, "backend", what, remedy)


def _reached(open_to: list[Listener], here: set[str]) -> Iterator[str]:
    for each in open_to:
        if each.host not in ("0.0.0.0", "::"):
            yield each.host
            continue
        for address in here - {"localhost"}:
            ip = ipaddress.ip_address(address)
            if not (ip.is_loopback or ip.is_unspecified or ip.is_link_local):
                yield address
