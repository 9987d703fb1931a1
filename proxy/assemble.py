"""From the configuration to the parts that it describes.

Knows everybody: configuration, rules, qmail, the settings of front and
backend.  Knows not: when a part is started.  Called by ``service``,
``explain`` and ``check``, which therefore work with the very same parts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from proxy.config import Config, ConfigError
from proxy.config.model import Backend as BackendKeys
from proxy.config.rules import RuleKeys, rule_module, rule_names
from proxy.front.trusted import Trusted
from proxy.interfaces import interface_addresses
from proxy.process.privileges import Needs
from proxy.qmail import smtpd
from proxy.qmail.control import ControlError, ControlFiles
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.tcprules import TcpRules, TcpRulesError
from proxy.qmail.view import DirectoryView
from proxy.qmail.vpopmail_settings import VpopmailSettings
from proxy.qmail.walk import SUPERUSER, Walker
from proxy.rules.engine import Engine
from proxy.rules.gate import Gate
from proxy.rules.qmail import QmailRule
from proxy.rules.slices import Steps, at_once, stepwise
from proxy.rules.source import Context, OnAnswer, unheard, unsaid
from proxy.rules.trouble import RuleError, Trouble
from proxy.rules.verdict import OnRuleError, Rule
from proxy.rules.vpopmail import usable

if TYPE_CHECKING:  # explain wants neither, and wants to start quickly
    from proxy.backend.choice import Place
    from proxy.backend.settings import BackendSettings
    from proxy.front.admission import Admit
    from proxy.front.door import DoorSettings

T = TypeVar("T")


def qmail_host(config: Config) -> QmailHost:
    """The qmail host whose files decide."""
    return QmailHost(
        DirectoryView(os.fsencode(config.qmail.root)), host_settings(config)
    )


def host_settings(config: Config) -> HostSettings:
    """What qmail's own files do not say."""
    qmail = config.qmail
    if qmail.local_ips is None:
        local_ips = interface_addresses()
    else:
        local_ips = frozenset(ip.encode() for ip in qmail.local_ips)
    return HostSettings(
        home=_bytes(qmail.home),
        default_delivery=_bytes(qmail.default_delivery),
        local_ips=local_ips,
        break_char=_bytes(qmail.break_char),
        ezmlm_unknown_words=qmail.ezmlm_unknown_words == "accept",
        vpopmail=vpopmail_settings(config),
    )


def vpopmail_settings(config: Config) -> VpopmailSettings:
    """What vpopmail's own files do not say."""
    keys = config.vpopmail
    return VpopmailSettings(
        source=keys.source,
        home=_bytes(keys.home) if keys.home else None,
        qmail_ext=keys.qmail_ext,
        layout=keys.layout,
        refuse_deleted=keys.delete == "reject",
        over_quota=keys.over_quota,
        usable=usable(),
        connections=keys.connections,
        timeout=keys.timeout,
    )


def engine(config: Config, host: QmailHost, on_error: OnRuleError) -> Engine:
    """The configured rules on ``host``; ``on_error`` hears of rules that fail.
    Raises :class:`~proxy.config.ConfigError` for a rule that cannot be built."""
    return at_once(engine_in_steps(config, host, on_error))


def engine_in_steps(
    config: Config,
    host: QmailHost,
    on_error: OnRuleError,
    on_answer: OnAnswer = unheard,
    say: Callable[[str, str], None] = unsaid,
    *,
    serving: bool = False,
) -> Steps[Engine]:
    """The same with pauses; ``on_answer`` hears what sources say, ``say`` what their
    programs say.

    ``serving``: guard against becoming an open relay while running (at the
    start, ``obstacles.relay_problem`` does)."""
    guard = serving and not config.relay.allow_missing_rcpthosts
    percenthack = config.relay.allow_percenthack
    root = os.fsencode(config.qmail.root)
    context = Context(
        "",
        host,
        root,
        guard_relay=guard,
        allow_percenthack=percenthack,
        undecided=config.qmail.undecided,
        on_answer=on_answer,
        on_error=on_error,
        say=say,
        tells_backend=commands(config),
    )
    rules: list[Rule] = []
    for number, name in enumerate(rule_names(config.rules)):
        rule = yield from rule_in_steps(config, number, context._replace(name=name))
        rules.append(rule)
    # The rule qmail looks after relaying itself, and faster.
    plain = all(isinstance(rule, QmailRule) for rule in rules)
    gate = Gate(host, guard_relay=guard, allow_percenthack=percenthack)
    return Engine(
        rules,
        observe=config.mode == "observe",
        on_error=on_error,
        gate=None if plain else gate,
    )


def rule_in_steps(config: Config, number: int, context: Context) -> Steps[Rule]:
    """One of them; raises :class:`~proxy.config.ConfigError`."""
    keys: RuleKeys = config.rules[number]
    module = rule_module(keys.type)
    try:
        rule: Rule = yield from stepwise(module.build(keys, context))
    except Exception as error:  # others' rules raise what they like
        from proxy.check.rules import problem_of

        problems = [problem_of(config, number, each) for each in _troubles(error)]
        raise ConfigError(problems) from error
    return rule


def _troubles(error: Exception) -> Sequence[Trouble]:
    if isinstance(error, RuleError):
        return error.troubles
    what = f"cannot be made: {type(error).__name__}: {error}"
    return [Trouble(what, "ask those who wrote it")]


def hostname(config: Config, host: QmailHost) -> bytes:
    """Our name: the configured one, else control/me, else this machine's."""
    if config.listen.hostname:
        return _bytes(config.listen.hostname)
    me = control_value(host, lambda control: control.line(b"me"), None)
    return me or _machine_name()


@cache
def _machine_name() -> bytes:
    """Asked once, before there are clients: the resolver may take its time."""
    return socket.getfqdn().encode("ascii", "replace")


def trusted(config: Config) -> Trusted:
    """The clients that may relay."""
    return Trusted(config.relay.trusted)


def admit(config: Config, tell: Callable[[str], None]) -> Admit | None:
    """What asks ``listen.tcprules``; ``None`` without it.  ``tell`` hears why
    the file cannot be read, each time that it is another reason."""
    from proxy.front.admission import DENIED, UNREADABLE, Admission

    if config.listen.tcprules is None:
        return None
    rules = tcprules(config)
    told = ""
    programs_only = _programs_only(config)

    def ask(client: str) -> Admission:
        nonlocal told
        try:
            ruling = rules.look(client)
        except TcpRulesError as error:
            if told != str(error):
                told = str(error)
                tell(f"listen.tcprules: every client is told 421: {error}")
            return Admission(UNREADABLE)
        told = ""
        variables = ruling.variables
        databytes = smtpd.databytes_set(variables) if programs_only else None
        return Admission(DENIED if ruling.denied else "", variables, databytes)

    return ask


def tcprules(config: Config) -> TcpRules:
    """``listen.tcprules``, which must be set."""
    assert config.listen.tcprules is not None
    view = DirectoryView(os.fsencode(config.qmail.root))
    return TcpRules(view, _bytes(config.listen.tcprules))


def _programs_only(config: Config) -> bool:
    """Whether every backend hears of our variables."""
    return all(backend.command is not None for backend in config.backend)


def needs(config: Config) -> Needs:
    """Which rights serving needs."""
    return Needs(
        set_id=commands(config) or any(rule.runs_programs for rule in config.rules),
        addresses=any(backend.transparent for backend in config.backend),
    )


def commands(config: Config) -> bool:
    """Whether a backend is a program."""
    return any(backend.command for backend in config.backend)


def places(config: Config, worker: int = 0) -> list[Place]:
    """Every backend, with the domains that it serves, for the worker of that
    number; raises :class:`~proxy.certificates.TlsError`."""
    from proxy.backend.choice import Place

    return [
        Place(
            replace(
                backend_settings(backend, learn_auth=config.auth.offer != "never"),
                startup_files=startup_files(config),
            ).part(worker, config.listen.workers),
            frozenset(map(_bytes, backend.domains)),
            backend.weight,
            backend.backup,
        )
        for backend in config.backend
    ]


def startup_files(config: Config) -> tuple[str, ...]:
    """What qmail-smtpd and tcpserver read when a connection begins: patches read more
    of control/ than qmail does, so all of it counts."""
    rules = config.listen.tcprules
    paths = [config.qmail.home + "/control", *USUAL_TCPRULES]
    if rules is not None and rules not in paths:
        paths.append(rules)
    return tuple(_below_root(config, path) for path in paths)


USUAL_TCPRULES = (
    "/etc/tcp.smtp.cdb",
    "/etc/tcprules.d/tcp.smtp.cdb",
    "/etc/tcprules.d/tcp.qmail-smtpd.cdb",
    "/home/vpopmail/etc/tcp.smtp.cdb",
)
"""Where the backend's tcpserver may have its rules, as the guides have it."""


def _below_root(config: Config, path: str) -> str:
    """The file that ``path`` is on the qmail host: links stay below its root."""
    root = config.qmail.root
    try:
        walker = Walker(DirectoryView(os.fsencode(root)), SUPERUSER)
        path = os.fsdecode(walker.stat(_bytes(path)).path)
    except (KernelError, CannotTell):
        pass  # not there yet
    return os.path.join(root, path.lstrip("/"))


def backend_settings(
    backend: BackendKeys, *, learn_auth: bool = False
) -> BackendSettings:
    """Where qmail-smtpd listens, and how long it may take; raises
    :class:`~proxy.certificates.TlsError`."""
    from proxy.backend.settings import BackendSettings
    from proxy.certificates import backend_context

    tcp = backend.tcp
    return BackendSettings(
        host=tcp.host if tcp else "",
        port=tcp.port if tcp else 0,
        path=backend.unix_path or "",
        starttls=backend.tls == "starttls",
        context=backend_context(backend),
        connect_timeout=backend.connect_timeout,
        command_timeout=backend.command_timeout,
        data_timeout=backend.data_timeout,
        final_timeout=backend.final_timeout,
        kept=backend.pool,
        kept_seconds=backend.pool_age,
        breaker_failures=backend.breaker_failures,
        breaker_seconds=backend.breaker_seconds,
        command=backend.command or (),
        command_concurrency=backend.command_concurrency,
        transparent=backend.transparent,
        send_proxy=backend.send_proxy or "",
        identify=backend.identify or "",
        connections=backend.connections,
        connection_wait=backend.connection_wait,
        learn_auth=learn_auth,
    )


def door_settings(
    config: Config, host: QmailHost, admission: Admit | None = None
) -> DoorSettings:
    """Bounds of the client's side."""
    from proxy.front.door import DoorSettings
    from proxy.front.harvest import HarvestSettings
    from proxy.smtp.driver import Limits, declared_size

    limits = config.limits
    databytes = None
    if _programs_only(config):
        databytes = smtpd.databytes_set(os.environb.items())
    if databytes is None:
        databytes = control_value(host, smtpd.databytes, 0)
    harvest = HarvestSettings(
        delay_after=limits.harvest_delay_after,
        refuse_after=limits.harvest_refuse_after,
        refuse_seconds=limits.harvest_refuse_seconds,
        remember_seconds=limits.harvest_remember,
    )
    return DoorSettings(
        connections=limits.connections,
        connections_per_client=limits.connections_per_client,
        command_timeout=limits.command_timeout,
        data_timeout=limits.data_timeout,
        data_rate=limits.data_rate,
        session_age=limits.session_age,
        announced_size=limits.message_size or databytes,
        received=config.message.received,
        trusted=trusted(config),
        harvest=harvest if limits.harvest_defence else None,
        admit=admission,
        proxies=Trusted(config.listen.proxy_from),
        session=Limits(
            command_length=limits.command_length,
            commands=limits.commands_per_session,
            errors=limits.errors_per_session,
            recipients=limits.recipients,
            unknown_recipients=limits.unknown_per_session,
            message_size=limits.message_size,
            declared_size=limits.message_size or declared_size(databytes),
            auth_failures=limits.auth_failures,
            auth_needs_tls=config.auth.offer != "always",
        ),
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def control_value(host: QmailHost, read: Callable[[ControlFiles], T], default: T) -> T:
    """What ``read`` finds in the control files; ``default`` where they cannot
    be read, which every recipient's verdict will say too."""
    try:
        return read(host.moment().control())
    except (ControlError, KernelError, CannotTell):
        return default
