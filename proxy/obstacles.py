"""What speaks against serving with a configuration, in words.

Knows: what makes a start wrong, what makes every recipient wait, what only a
restart changes.  Knows not: how the parts are made (``assemble``).  Called by
``service``, ``process.serve``, ``explain`` and ``check``, which therefore say the
same.
"""

from __future__ import annotations

import os

from proxy.assemble import commands, control_value, tcprules
from proxy.config import Config
from proxy.process import capabilities
from proxy.qmail.control import ControlError
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.percenthack import opened_domains
from proxy.qmail.tcprules import TcpRulesError
from proxy.relaying import OPEN_REMEDY, Relaying
from proxy.rules.vpopmail import WANTS, usable

_WARNINGS_MAX = 5


def start_problem(config: Config, host: QmailHost) -> str:
    """Why it would be wrong to serve, in words; ``""`` if it would not be."""
    try:
        host.moment().control()
    except (KernelError, CannotTell) as error:
        path = os.path.join(config.qmail.root, config.qmail.home.lstrip("/"))
        return f"{path}/control: {error} (are qmail.root and qmail.home right?)"
    if problem := vpopmail_problem(config):
        return problem
    if trouble := tcprules_trouble(config):
        remedy = "make it with tcprules, or take the key out"
        return f"listen.tcprules: {trouble} ({remedy})"
    if problem := Relaying(config).open():
        return f"{problem} ({OPEN_REMEDY})"
    return relay_problem(config, host)


def vpopmail_problem(config: Config) -> str:
    """Why the database of ``vpopmail.source`` cannot be asked, in words; ``""`` if
    it can."""
    source = config.vpopmail.source
    if source in ("auto", "cdb") or source in usable():
        return ""
    extra = "ldap" if source == "ldap" else "sql"
    wanted = " and ".join(WANTS[source])
    return (
        f'vpopmail.source = "{source}" wants the Python packages {wanted} (install'
        f" '.[{extra}]' in the checkout)"
    )


def tcprules_trouble(config: Config) -> str:
    """Why no client could be let in; ``""`` if there are no rules, or good ones."""
    if config.listen.tcprules is None:
        return ""
    try:
        tcprules(config).look("127.0.0.1")
    except TcpRulesError as error:
        return str(error)
    return ""


def tcprules_warning(config: Config) -> str:
    """Which rules match nobody, in words; ``""`` if there are none such."""
    if config.listen.tcprules is None:
        return ""
    try:
        unasked = tcprules(config).by_name()
    except TcpRulesError:
        return ""  # tcprules_trouble() tells of it
    if not unasked:
        return ""
    some = ", ".join(key.decode("latin-1") for key in unasked[:_WARNINGS_MAX])
    return (
        f"{len(unasked)} of its rules go by the client's name or TCPREMOTEINFO, which"
        f" nobody is asked for, and so match nobody: {some}"
    )


def relay_problem(config: Config, host: QmailHost) -> str:
    """Why it would be wrong to serve, in words; ``""`` if it would not be.

    Without rcpthosts qmail takes mail for every domain, and it sees only our
    address: whoever reaches us would relay.
    """
    if config.relay.allow_missing_rcpthosts:
        return ""
    missing = control_value(
        host, lambda control: control.names(b"rcpthosts") is None, False
    )
    if not missing:
        return ""
    path = os.path.join(config.qmail.root, config.qmail.home.lstrip("/"))
    return (
        f"{path}/control/rcpthosts does not exist: qmail would take mail for every"
        " domain, an open relay (list your domains there, or set"
        " relay.allow_missing_rcpthosts = true)"
    )


def relay_warnings(config: Config, host: QmailHost) -> list[str]:
    """What lets strangers relay although rcpthosts is there, in words."""
    if not config.relay.allow_percenthack:
        return []
    try:
        opened = opened_domains(host.moment())
    except (ControlError, KernelError, CannotTell):
        return []  # trouble() tells of it
    return [
        f"control/percenthack lets everybody relay: qmail sends mail for"
        f" user%any.where@{name.decode('latin-1')} to any.where (take the domain out"
        " of it, or set relay.allow_percenthack = false)"
        for name in opened[:_WARNINGS_MAX]
    ]


def backend_problem(config: Config, before: Config | None = None) -> str:
    """Why a backend cannot be used as it is configured, in words; ``before``
    is the configuration that the process was started with or has now."""
    if any(backend.transparent for backend in config.backend):
        from proxy.backend.reach import transparent_trouble

        if trouble := transparent_trouble():
            return (
                f"backend.transparent = true: {trouble}: connections from other hosts'"
                " addresses need Linux and CAP_NET_RAW (start as root, or give the"
                " service that capability; after a HUP, restart it)"
            )
    new = before is not None and not commands(before)
    if commands(config) and new and capabilities.new_privileges_forbidden():
        return (
            "backend.command is new, and set-id programs such as qmail-queue do not"
            " work in this process any more (restart the service)"
        )
    return ""


def trouble(host: QmailHost) -> str:
    """Why every recipient would be deferred now; ``""`` if none of that."""
    try:
        host.moment().smtpd()
    except (ControlError, KernelError, CannotTell) as error:
        return f"every recipient is deferred until this is mended: {error}"
    return ""


def restart_only(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a reload does not change."""
    pairs = {
        "listen.addresses": (old.listen.addresses, new.listen.addresses),
        "listen.tls_addresses": (old.listen.tls_addresses, new.listen.tls_addresses),
        "listen.workers": (old.listen.workers, new.listen.workers),
        "listen.worker_timeout": (
            old.listen.worker_timeout,
            new.listen.worker_timeout,
        ),
        "status.address": (old.status.address, new.status.address),
        "status.token": (old.status.token, new.status.token),
        "status.history": (old.status.history, new.status.history),
        "leakwatch": (old.leakwatch, new.leakwatch),
        "log": (old.log, new.log),
        "process": (old.process, new.process),
    }
    return [key for key, (before, after) in pairs.items() if before != after]
