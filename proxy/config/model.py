"""Every key that an administrator may set, with its default and its meaning.

Knows: names, types, defaults, texts.  Knows not: where values come from, what
the keys of a table are (:mod:`proxy.config.keys`).
``proxy.config.docs`` makes config.example.toml of it, in this order.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
)

from proxy.config.groups import check_groups
from proxy.config.leakwatch import LeakWatch
from proxy.config.limits import Limits
from proxy.config.process import Process
from proxy.config.relay import Relay
from proxy.config.rules import QmailRule, RuleKeys, read_rule
from proxy.config.section import Section
from proxy.config.tls import Tls
from proxy.config.values import (
    UNIX,
    AbsolutePath,
    Address,
    BackendAddress,
    Character,
    Domain,
    HostName,
    IPv4,
    ListenAddress,
    Processes,
    ProxyNetwork,
    Seconds,
    Text,
    Token,
    Weight,
    Whole,
    is_loopback,
    one_or_more,
    read_address,
    split_list,
    tables,
)
from proxy.config.vpopmail import Vpopmail
from proxy.config.ways import Ways

Rule = Annotated[SerializeAsAny[RuleKeys], BeforeValidator(read_rule)]

KeyPath = tuple[str | int, ...]
"""Where a value stands: ``("limits", "connections")``, ``("rules", 0, "type")``."""


class Listen(Section):
    """The client's side: where the Internet's mail arrives."""

    addresses: Annotated[
        tuple[ListenAddress, ...], BeforeValidator(split_list), Field(min_length=1)
    ] = Field(
        default=("0.0.0.0:25", "[::]:25"),
        description="Where to listen: host:port or [IPv6]:port. Change it to bind"
        " to some addresses only, or to try the front door on another port.",
    )
    tls_addresses: Annotated[tuple[ListenAddress, ...], BeforeValidator(split_list)] = (
        Field(
            default=(),
            examples=[("0.0.0.0:465",)],
            description="Where to listen for clients that begin with TLS, without"
            " STARTTLS, as on port 465. Needs tls.certificates.",
        )
    )
    hostname: HostName | None = Field(
        default=None,
        examples=["mx.example.test"],
        description="The name in the greeting and in our Received line. Default:"
        " qmail's control/me, else this machine's name.",
    )
    workers: Processes = Field(
        default=1,
        description="Processes that share the listening addresses. One serves"
        " thousands of connections; raise it when one CPU is busy all the time."
        " Limits hold for all of them together, and metrics are added up.",
    )
    worker_timeout: Seconds = Field(
        default=30.0,
        description="Seconds after which one of several workers that stands still (it"
        " waits for a dead disk or NFS server) is killed and replaced; after half of"
        " them the log tells. 4 at least; 0: never.",
    )
    tcprules: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/tcp.smtp.cdb"],
        description="A file of tcprules, below qmail.root, asked once a session by the"
        " client's address as tcpserver -x does, that of ucspi-tcp6 and sslserver too."
        " deny: the client is told 554."
        " RELAYCLIENT: it may relay. All variables are in the environment of"
        " backend.command. A file that cannot be read: 421. Default: none.",
    )
    proxy_from: Annotated[tuple[ProxyNetwork, ...], BeforeValidator(split_list)] = (
        Field(
            default=(),
            description="Balancers and tunnels, as networks or addresses, that put a"
            " PROXY header (version 1 or 2) before every connection: the address in it"
            " is the client's, for everything. Connections from them without one are"
            " closed; anybody else's header is a bad command.",
        )
    )

    @property
    def sockets(self) -> tuple[Address, ...]:
        """``addresses``, cut up."""
        return tuple(map(read_address, self.addresses))

    @property
    def all_sockets(self) -> tuple[Address, ...]:
        """Those of ``tls_addresses``, too."""
        return (*self.sockets, *map(read_address, self.tls_addresses))


class Qmail(Section):
    """The qmail host whose files decide who may receive. Only read, never
    written."""

    root: AbsolutePath = Field(
        default="/",
        description="Where the qmail host's file system is seen. Change it when"
        ' the host is mounted elsewhere, such as "/host" in a container: qmail\'s'
        " files, /etc/passwd, homes and Maildirs are all taken below it.",
    )
    home: AbsolutePath = Field(
        default="/var/qmail",
        description="qmail's home (conf-qmail), below root. Change it if qmail was"
        " built with another one.",
    )
    default_delivery: Text = Field(
        default="./Mailbox",
        description="qmail-start's first argument: what a missing or empty .qmail"
        " file means. Must be the one qmail is started with (see the script that"
        ' runs qmail-start, often /var/qmail/rc); "./Maildir/" is usual too.',
    )
    local_ips: Annotated[tuple[IPv4, ...], BeforeValidator(split_list)] | None = Field(
        default=None,
        examples=[("192.0.2.1", "127.0.0.1")],
        description="The IPv4 addresses that qmail-smtpd takes for its own in"
        " user@[192.0.2.1]. Set it when the front door does not run on the qmail"
        " host itself. Default: the addresses of this host's interfaces.",
    )
    break_char: Character = Field(
        default="-",
        description="The character between user and extension in user-ext"
        " (conf-break). Change it if qmail was built with another one.",
    )
    undecided: Literal["accept", "no-null-sender", "defer", "reject"] = Field(
        default="accept",
        description="What becomes of recipients of which only a program of a dot-qmail"
        " file could tell (docs/programs.md). accept: as qmail does; it may still"
        " bounce. no-null-sender: accept, but no bounces (550 5.7.1), not even of mail"
        " that these recipients sent. defer: 451 for"
        " ever. reject: 550, although qmail may well deliver. The log and backstop"
        " explain name the program; look there before you choose one of the last two.",
    )
    ezmlm_unknown_words: Literal["accept", "reject"] = Field(
        default="accept",
        description="Mail for LIST-anything of an ezmlm list, where anything is no"
        " command. accept: as ezmlm-manage does, which answers with help to whoever"
        " the sender claims to be. reject: 550. Leave it if your ezmlm was built with"
        " translated commands.",
    )


class Backend(Ways, Section):
    """qmail-smtpd on its other port, where accepted mail goes. It must not be
    reachable from outside, or the front door can be walked around. Or, instead of
    a port, qmail-smtpd as a program for each client. Several of them: a table
    [[backend]] for each, see docs/backends.md."""

    address: BackendAddress = Field(
        default="127.0.0.1:2525",
        description="Where qmail-smtpd listens: host:port, [IPv6]:port, or"
        " unix:/path of a socket.",
    )
    tls: Literal["none", "starttls", "tls"] = Field(
        default="none",
        description="none: in the clear, as qmail-smtpd without patches wants it, and"
        " enough on loopback. starttls: encrypted after STARTTLS, or not at all. tls:"
        " encrypted from the start.",
    )
    tls_verify: bool | None = Field(
        default=None,
        examples=[True],
        description="Whether the backend's certificate must be good for the host in"
        " address. Default: yes, but not on 127.0.0.0/8, ::1 and localhost.",
    )
    tls_ca: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/ca.pem"],
        description="A PEM file with certificates; the backend's must come from one of"
        " them. A self-signed one may be its own. Default: what the system trusts.",
    )
    connect_timeout: Seconds = Field(
        default=10.0,
        description="Seconds for a connection and its greeting. After it the client"
        " is told to come again (451). With command: for a place among those that run.",
    )
    command_timeout: Seconds = Field(
        default=60.0,
        description="Seconds for the answer to MAIL, RCPT and DATA, and for a command's"
        " greeting. Raise it if qmail-smtpd is patched to do slow look-ups there.",
    )
    data_timeout: Seconds = Field(
        default=120.0,
        description="Seconds for which the backend may take nothing of a message"
        " before it counts as lost.",
    )
    final_timeout: Seconds = Field(
        default=540.0,
        description="Seconds for the answer to the final dot, in which qmail queues"
        " the message; raise it if content filters run there. Clients wait ten"
        " minutes (RFC 5321), so keep it below 600.",
    )
    pool: Whole = Field(
        default=8,
        description="Idle connections kept for the next message. Each of"
        " listen.workers has its part, one at least. 0 keeps none.",
    )
    pool_age: Seconds = Field(
        default=60.0,
        description="Seconds for which an idle connection is kept. Must be less than"
        " qmail's control/timeoutsmtpd (1200 by default).",
    )
    breaker_failures: Whole = Field(
        default=5,
        description="Attempts to connect that fail in a row (no connection, no"
        " greeting) before clients are told to come again (451) at once, without"
        " waiting for connect_timeout. 0: always try. Other answers of the backend"
        " never count.",
    )
    breaker_seconds: Seconds = Field(
        default=2.0,
        description="Seconds without an attempt after that. Then one client's message"
        " tries: if it gets through, all is as before; else the pause begins anew.",
    )
    connections: Whole = Field(
        default=0,
        description="Connections to it at a time, idle ones included. Less than"
        " tcpserver's -c, which leaves what is beyond waiting without a word. Each of"
        " listen.workers has its part, one at least. 0: no limit.",
    )
    connection_wait: Seconds = Field(
        default=5.0,
        description="Seconds to wait where that many are in use, before the next"
        " backend is asked, or the client is told to come again (451).",
    )
    domains: Annotated[tuple[Domain, ...], BeforeValidator(split_list)] = Field(
        default=(),
        description="The recipients' domains that it serves, as in rcpthosts:"
        ' ["example.org", ".example.org"]. Empty: those that no other backend'
        " serves. One message goes to one backend: clients send it again for the"
        " other recipients.",
    )
    weight: Weight = Field(
        default=1,
        description="Its share of the sessions among the backends of the same"
        " domains: one of weight 2 gets twice as many as one of weight 1.",
    )
    backup: bool = Field(
        default=False,
        description="Use it only while no other backend of the same domains can be"
        " used. Several of them are asked in the order of this file.",
    )

    @property
    def shown(self) -> str:
        """Where accepted mail goes, in words."""
        return self.address if self.command is None else shlex.join(self.command)

    @property
    def unix_path(self) -> str | None:
        """The socket's path, if ``address`` is one."""
        is_unix = self.command is None and self._is_unix
        return self.address.removeprefix(UNIX) if is_unix else None

    @property
    def tcp(self) -> Address | None:
        """Host and port, if ``address`` is such."""
        other = self.command is not None or self._is_unix
        return None if other else read_address(self.address)

    @property
    def verifies_tls(self) -> bool:
        """``tls_verify``, or what it is by default."""
        if self.tls_verify is None:
            return not (self.tcp and is_loopback(self.tcp.host))
        return self.tls_verify

    @property
    def _is_unix(self) -> bool:
        return self.address.startswith(UNIX)


class Message(Section):
    """What is done to a message on its way."""

    received: bool = Field(
        default=True,
        description="Put one Received line of ours on top. qmail-smtpd's own names"
        " the front door as the client; ours names the true one. Turn it off only if"
        " something behind counts or reads Received lines.",
    )


class Status(Section):
    """A page for people, metrics and health probes."""

    address: ListenAddress | None = Field(
        default=None,
        examples=["127.0.0.1:8025"],
        description="Where / /metrics /healthz /readyz are served, as host:port."
        " Default: nowhere. Read at the start only.",
    )
    token: Token | None = Field(
        default=None,
        examples=["a-long-secret-word"],
        description="The password of the page /, which names senders and recipients:"
        " open /?token=... once. Without one the page is shown on loopback addresses"
        " only; /metrics, /healthz and /readyz need none. Read at the start only.",
    )
    history: AbsolutePath | None = Field(
        default=None,
        examples=["/var/lib/backstop/history"],
        description="A file in which the page's numbers of days outlive a restart: a"
        " small one, replaced once a minute and at the end. The front door's user must"
        " be able to write to its directory. Default: nothing is written anywhere."
        " Read at the start only.",
    )


class Log(Section):
    """What is written to standard error."""

    format: Literal["logfmt", "json", "bare", "journal"] = Field(
        default="logfmt",
        description="logfmt: key=value for people and machines. json: one object a"
        " line. bare: logfmt without time, for multilog and svlogd, which add their"
        " own. journal: bare, each line with its priority for systemd's journal"
        " (journalctl -p warning). Read at the start only.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least level that is written: every recipient and message is"
        " info, trouble with the backend is warning. Read at the start only.",
    )


class Auth(Section):
    """SMTP AUTH of a patched qmail-smtpd. Whom that accepts may relay."""

    offer: Literal["never", "tls", "always"] = Field(
        default="never",
        description="When EHLO offers the mechanisms that the backend offers. never:"
        " AUTH is unknown (502). tls: only where the client's connection is encrypted."
        " always: also in clear, where PLAIN and LOGIN show the password to everybody"
        " on the way.",
    )


class Config(Section):
    """The whole configuration. Made by :func:`proxy.config.load`; keyword
    arguments make one that asks neither file nor environment."""

    mode: Literal["enforce", "observe"] = Field(
        default="enforce",
        description="enforce: refuse unknown recipients. observe: let them pass, as"
        " before, and log what would have been refused; for the first days. Relaying"
        " is refused in both.",
    )
    shutdown_grace: Seconds = Field(
        default=30.0,
        description="Seconds that open transactions have to finish when the service"
        " is told to stop. Less than the supervisor's patience, or it will kill us.",
    )
    listen: Listen = Listen()
    tls: Tls = Tls()
    qmail: Qmail = Qmail()
    vpopmail: Vpopmail = Vpopmail()
    backend: Annotated[
        tuple[Backend, ...],
        BeforeValidator(one_or_more),
        AfterValidator(check_groups),
        Field(min_length=1),
    ] = (Backend(),)
    message: Message = Message()
    rules: Annotated[tuple[Rule, ...], BeforeValidator(tables), Field(min_length=1)] = (
        QmailRule(type="qmail"),
    )
    status: Status = Status()
    log: Log = Log()
    limits: Limits = Limits()
    relay: Relay = Relay()
    auth: Auth = Auth()
    leakwatch: LeakWatch = LeakWatch()
    process: Process = Process()

    # Set by ``sources``.
    _source: Path | None = PrivateAttr(default=None)

    @property
    def source(self) -> Path | None:
        """The file it was read from; ``None`` without one."""
        return self._source
