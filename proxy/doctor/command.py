"""``backstop doctor``: all examinations, in their order and with their rights.

Knows: what is asked as the user that serves, and what with the rights of whoever
runs it.  Knows not: what any examination means.  Called by ``cli``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from proxy import assemble
from proxy.check import command as check
from proxy.check.finding import ERROR, WARNING, Finding
from proxy.check.process import in_a_child, texts
from proxy.config import Config, ConfigError, load
from proxy.doctor import backend, front, machine, names, show
from proxy.doctor.reading import reading
from proxy.doctor.result import GREEN, GREY, RED, YELLOW, Result, worst
from proxy.process import privileges
from proxy.process.privileges import PrivilegeError
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError

GOOD, WRONG, BAD_CONFIG = 0, 1, 2

_NETWORK_SECONDS = 14.0


def run(
    path: Path | None, environ: Mapping[str, str], nameserver: str, *, as_json: bool
) -> int:
    """Examine and show; the exit status."""
    try:
        config = load(path, environ)
    except ConfigError as error:
        bad = [Finding(ERROR, problem) for problem in error.problems]
        show.show(list(_of_check(bad)), as_json=as_json)
        return BAD_CONFIG
    with show.progress() as advance:
        results = list(examine(config, environ, nameserver, advance))
    show.show(results, as_json=as_json)
    return WRONG if worst(results) == RED else GOOD


def examine(
    config: Config,
    environ: Mapping[str, str],
    nameserver: str,
    advance: show.Advance,
) -> Iterator[Result]:
    """All of it; ``advance`` hears of what takes long."""
    own = machine.own_addresses()
    hostname = assemble.hostname(config, assemble.qmail_host(config))
    yield machine.version()
    advance("configuration", 0, 1)
    yield from _of_check(check.findings(config, environ))
    yield from _as_the_service(
        config, lambda: _asked(config, hostname, own, nameserver, advance)
    )
    yield from front.who_listens(config)
    yield from backend.exposure(config, own)
    yield from machine.certificates(config, hostname.decode("latin-1"))
    yield from machine.tables(config)
    yield machine.qmail_send(config)
    yield from machine.status_page(config)
    yield machine.clock(config, time.time())
    yield machine.descriptors(config)
    yield machine.logs()


def _of_check(findings: list[Finding]) -> Iterator[Result]:
    """Errors are red and warnings yellow; notes are for ``check`` itself."""
    grave = [each for each in findings if each.level in (ERROR, WARNING)]
    for found in grave:
        problem = found.problem
        level = RED if found.level == ERROR else YELLOW
        what = str(problem)
        if problem.remedy:
            what = what.removesuffix(problem.remedy).rstrip(": (")
        yield Result(level, "configuration", what, problem.remedy)
    if not grave:
        yield Result(GREEN, "configuration", "check finds nothing wrong")


def _told(row: object) -> Result:
    """What a row says, which a child without rights has sent."""
    level, *words = texts(row, 4)
    if level not in (GREEN, GREY, YELLOW, RED):
        raise ChildProcessError("what it says is no result")
    return Result(level, *words)


def _as_the_service(config: Config, ask: Callable[[], list[Result]]) -> list[Result]:
    """``ask()`` as the user that ``serve`` becomes."""
    if not privileges.is_root() or config.process.allow_root:
        return ask()

    def as_that_user() -> list[list[str]]:
        privileges.settle(config.process, assemble.needs(config))
        return [list(result) for result in ask()]

    try:
        privileges.run_user(config.process)
        return [_told(row) for row in in_a_child(as_that_user)]
    except (PrivilegeError, ChildProcessError):
        what = "files, backend and front door could not be asked as the run user"
        return [Result(GREY, "run user", what, "mend what check says first")]


def _asked(
    config: Config,
    hostname: bytes,
    own: list[str],
    nameserver: str,
    advance: show.Advance,
) -> list[Result]:
    found = reading(config, partial(advance, "dot-qmail files"))
    made = front.made_up(config)
    advance("network", 0, 1)
    found += asyncio.run(_network(config, hostname, own, made, nameserver))
    advance("network", 1, 1)
    return found


async def _network(
    config: Config, hostname: bytes, own: list[str], made: front.MadeUp, nameserver: str
) -> list[Result]:
    """All at the same time, and none for longer than its bound."""
    name = hostname.decode("latin-1")
    asked = await asyncio.gather(
        _bounded("backend", backend.backends(config, hostname)),
        _bounded("front door", front.doors(config, hostname, own, made)),
        _bounded("DNS", names.names(_domains(config), own, name, nameserver)),
    )
    return [result for found in asked for result in found]


async def _bounded(subject: str, ask: Awaitable[list[Result]]) -> list[Result]:
    try:
        async with asyncio.timeout(_NETWORK_SECONDS):
            return await ask
    except TimeoutError:
        what = f"no answer within {_NETWORK_SECONDS:.0f} s"
        return [Result(YELLOW, subject, what, "see what keeps it")]


def _domains(config: Config) -> list[str]:
    """Of rcpthosts; check tells why it cannot be read."""
    try:
        control = assemble.qmail_host(config).moment().control()
        listed = control.names(b"rcpthosts") or ()
    except (CannotTell, KernelError, ControlError):
        return []
    return [name.decode("latin-1") for name in listed]
