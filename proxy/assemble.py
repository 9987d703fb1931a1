"""From the configuration to the parts that it describes.

Knows everybody: configuration, rules, qmail, the settings of front and
backend.  Knows not: when a part is started.  Called by ``service``,
``explain`` and ``check``, which therefore work with the very same parts.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from proxy.config import Config
from proxy.front.trusted import Trusted
from proxy.qmail import smtpd
from proxy.qmail.control import ControlError, ControlFiles
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.percenthack import opened_domains
from proxy.qmail.view import DirectoryView
from proxy.rules.engine import Engine
from proxy.rules.qmail import QmailRule
from proxy.rules.verdict import OnRuleError

if TYPE_CHECKING:  # explain wants neither, and wants to start quickly
    from proxy.backend.pool import BackendSettings
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
    )


def engine(
    config: Config, host: QmailHost, on_error: OnRuleError, *, serving: bool = False
) -> Engine:
    """The configured rules on ``host``; ``on_error`` hears of rules that fail.

    ``serving``: guard against becoming an open relay while running (at the
    start, :func:`relay_problem` does).
    """
    guard = serving and not config.relay.allow_missing_rcpthosts
    # There is one type so far.
    percenthack = config.relay.allow_percenthack
    rules = [
        QmailRule(host, guard_relay=guard, allow_percenthack=percenthack)
        for _ in config.rules
    ]
    return Engine(rules, observe=config.mode == "observe", on_error=on_error)


def hostname(config: Config, host: QmailHost) -> bytes:
    """Our name: the configured one, else control/me, else this machine's."""
    if config.listen.hostname:
        return _bytes(config.listen.hostname)
    me = _control(host, lambda control: control.line(b"me"), None)
    return me or socket.getfqdn().encode("ascii", "replace")


def start_problem(config: Config, host: QmailHost) -> str:
    """Why it would be wrong to serve, in words; ``""`` if it would not be."""
    try:
        host.moment().control()
    except (KernelError, CannotTell) as error:
        path = os.path.join(config.qmail.root, config.qmail.home.lstrip("/"))
        return f"{path}/control: {error} (are qmail.root and qmail.home right?)"
    return relay_problem(config, host)


def trouble(host: QmailHost) -> str:
    """Why every recipient would be deferred now; ``""`` if none of that."""
    try:
        host.moment().smtpd()
    except (ControlError, KernelError, CannotTell) as error:
        return f"every recipient is deferred until this is mended: {error}"
    return ""


def relay_problem(config: Config, host: QmailHost) -> str:
    """Why it would be wrong to serve, in words; ``""`` if it would not be.

    Without rcpthosts qmail takes mail for every domain, and it sees only our
    address: whoever reaches us would relay.
    """
    if config.relay.allow_missing_rcpthosts:
        return ""
    missing = _control(host, lambda control: control.names(b"rcpthosts") is None, False)
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


_WARNINGS_MAX = 5


def trusted(config: Config) -> Trusted:
    """The clients that may relay."""
    return Trusted(config.relay.trusted)


def backend_settings(config: Config) -> BackendSettings:
    """Where qmail-smtpd listens, and how long it may take; raises
    :class:`~proxy.certificates.TlsError`."""
    from proxy.backend.pool import BackendSettings
    from proxy.certificates import backend_context

    backend = config.backend
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
        learn_auth=config.auth.offer != "never",
    )


def door_settings(config: Config, host: QmailHost) -> DoorSettings:
    """Bounds of the client's side."""
    from proxy.front.door import DoorSettings
    from proxy.front.harvest import HarvestSettings
    from proxy.smtp.driver import Limits

    limits = config.limits
    # qmail counts a line end as one byte, the client sends two: what is surely
    # too long for qmail is twice its limit; the rest is qmail's to refuse.
    databytes = _control(host, smtpd.databytes, 0)
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
        proxies=Trusted(config.listen.proxy_from),
        session=Limits(
            command_length=limits.command_length,
            commands=limits.commands_per_session,
            errors=limits.errors_per_session,
            recipients=limits.recipients,
            unknown_recipients=limits.unknown_per_session,
            message_size=limits.message_size,
            declared_size=limits.message_size or 2 * databytes,
            auth_failures=limits.auth_failures,
            auth_needs_tls=config.auth.offer != "always",
        ),
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _control(host: QmailHost, read: Callable[[ControlFiles], T], default: T) -> T:
    """What ``read`` finds in the control files; ``default`` where they cannot
    be read, which every recipient's verdict will say too."""
    try:
        return read(host.moment().control())
    except (ControlError, KernelError, CannotTell):
        return default


# The addresses of this host, as ipme.c of qmail finds them: netdevice(7).

_SIOCGIFCONF = 0x8912
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_NAME_SIZE = 16
_REQUEST_SIZE = _NAME_SIZE + struct.calcsize("@LLHBBB0L")  # struct ifreq
_REQUESTS_MAX = 4096

_WITHOUT_NETWORK = frozenset({b"0.0.0.0", b"127.0.0.1"})


def interface_addresses() -> frozenset[bytes]:
    """The IPv4 addresses of this host's interfaces that are up, and 0.0.0.0,
    which qmail takes for this host too."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return frozenset({b"0.0.0.0", *_interfaces_up(sock)})
    except OSError:
        return _WITHOUT_NETWORK


def _interfaces_up(sock: socket.socket) -> list[bytes]:
    buffer = array.array("B", bytes(_REQUESTS_MAX * _REQUEST_SIZE))
    wanted = struct.pack("@iP", len(buffer), buffer.buffer_info()[0])
    answer = fcntl.ioctl(sock, _SIOCGIFCONF, wanted)
    length: int = struct.unpack("@iP", answer)[0]
    content = buffer.tobytes()[:length]
    found = []
    for start in range(0, length, _REQUEST_SIZE):
        request = content[start : start + _REQUEST_SIZE]
        family = struct.unpack_from("@H", request, _NAME_SIZE)[0]
        if family == socket.AF_INET and _is_up(sock, request[:_NAME_SIZE]):
            address = request[_NAME_SIZE + 4 : _NAME_SIZE + 8]
            found.append(socket.inet_ntoa(address).encode())
    return found


def _is_up(sock: socket.socket, name: bytes) -> bool:
    request = name.ljust(_REQUEST_SIZE, b"\0")
    answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
    flags: int = struct.unpack_from("@H", answer, _NAME_SIZE)[0]
    return bool(flags & _IFF_UP)
