"""The servers that are measured: what each needs, and how it is started.

Knows: their configuration for the same task: take mail for 10,000 recipients,
refuse the others, pass on to the backend.  Knows not: the load, the clock.
Called by the measurements.

Every one stays in the foreground and uses one worker process, but Postfix,
which has a process for each client.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import haraka, host
from bench.cpu import Tree, cores
from bench.tools import (
    DOMAIN,
    HERE,
    USERS,
    Sink,
    free_port,
    user_name,
    wait_for_greeting,
)

CAP = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)
"""What limits are set to: in force, and never reached."""


@dataclass
class Task:
    """Where a peer listens, where its backend is, where it may write."""

    directory: Path
    backend: int
    port: int = field(default_factory=free_port)
    workers: int = 1
    pool: int | None = None
    limits: str | None = None


Command = list[str]


@dataclass(frozen=True)
class Peer:
    """A server.

    ``missing`` tells what keeps it from running here, ``""`` if nothing.
    ``prepare`` writes the configuration and gives the command.
    ``knows_recipients``: it refuses by itself, and in every transaction.
    """

    name: str
    missing: Callable[[], str]
    prepare: Callable[[Task], Command]
    version: Callable[[], str]
    skips: frozenset[str] = frozenset()
    knows_recipients: bool = True


class Running:
    """A peer with its backend, from start to end of a ``with`` block."""

    def __init__(
        self,
        peer: Peer,
        directory: Path,
        *,
        where: str | None = None,
        workers: int = 1,
        backend: int | None = None,
        pool: int | None = None,
        limits: str | None = None,
    ) -> None:
        """``limits`` are the front door's, as its configuration has them, in
        place of such that are never reached."""
        directory.mkdir(mode=0o755)
        self.sink = Sink(refusing=not peer.knows_recipients)
        port = self.sink.port if backend is None else backend
        self.task = Task(directory, port, workers=workers, pool=pool, limits=limits)
        self.port = self.task.port
        command = peer.prepare(self.task)
        with (directory / "log").open("wb") as log:
            self.tree = Tree(
                command,
                where=cores()[0] if where is None else where,
                output=log.fileno(),
                env={"PYTHONPATH": str(HERE.parent)},
            )

    def __enter__(self) -> Running:
        try:
            wait_for_greeting(self.port, self.tree)
        except RuntimeError as error:
            self.close()
            raise RuntimeError(f"{error}:\n{self.log_end()}") from error
        except BaseException:
            self.close()
            raise
        return self

    def log_end(self) -> str:
        """The last lines that the server wrote."""
        lines = (self.task.directory / "log").read_text("latin-1").splitlines()
        return "\n".join(lines[-5:])

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both."""
        self.tree.close()
        self.sink.close()


def recipients() -> list[str]:
    """Every address that is known."""
    return [f"{user_name(number)}@{DOMAIN}" for number in range(USERS)]


def _program(name: str, package: str) -> Callable[[], str]:
    def missing() -> str:
        if shutil.which(name) is None:
            return f"{name} is not installed: apt-get install {package}"
        return ""

    return missing


def _said(*argv: str) -> Callable[[], str]:
    def version() -> str:
        done = subprocess.run(argv, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    return version


# The front door: the qmail rule on 10,000 system users, one worker, logs to a
# file, metrics on, all caps in force; only the harvest delays are off.


def qmail_host(directory: Path) -> Path:
    """The host with 10,000 users; made once, next to the peers' directories."""
    root = directory / "host"
    if not root.exists():
        host.lay_out(root)
        host.add_users(root, USERS)
    return root


_NEVER_REACHED = f"""\
connections = {CAP}
connections_per_client = {CAP}
unknown_per_session = {CAP}
harvest_defence = false
"""


def _backstop(task: Task) -> Command:
    root = qmail_host(task.directory.parent)
    config = task.directory / "config.toml"
    pool = "" if task.pool is None else f"pool = {task.pool}"
    config.write_text(
        f"""\
[listen]
addresses = ["127.0.0.1:{task.port}"]
hostname = "mx.{DOMAIN}"
workers = {task.workers}
[qmail]
root = "{root}"
[backend]
address = "127.0.0.1:{task.backend}"
{pool}
[[rules]]
type = "qmail"
[limits]
{_NEVER_REACHED if task.limits is None else task.limits}
[status]
address = "127.0.0.1:{free_port()}"
"""
    )
    return [sys.executable, "-m", "proxy", "serve", "-c", str(config)]


def _backstop_version() -> str:
    from proxy import __version__

    return f"qmail-backstop {__version__}"


# nginx as a mail proxy; its own http server answers auth_http from a table.
# It asks for the first recipient of a session only, and hangs up after a 550.

_NGINX_MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"


def _nginx_missing() -> str:
    package = "nginx libnginx-mod-mail"
    if not Path(_NGINX_MODULE).exists():
        return f"nginx's mail module is not installed: apt-get install {package}"
    return _program("nginx", package)()


def _nginx(task: Task) -> Command:
    here, http = task.directory, free_port()
    table = "\n".join(f'"RCPT TO:<{each}>" OK;' for each in recipients())
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    scratch = "\n".join(f"    {k}_temp_path {here}/{k};" for k in kinds)
    user = "user www-data;" if os.geteuid() == 0 else ""
    config = here / "nginx.conf"
    config.write_text(
        f"""\
load_module {_NGINX_MODULE};
daemon off;
worker_processes {task.workers};
pid {here}/pid;
{user}
error_log {here}/error.log warn;
events {{ worker_connections {2 * CAP}; }}
mail {{
    server_name mx.{DOMAIN};
    auth_http 127.0.0.1:{http}/;
    proxy_pass_error_message on;
    xclient off;
    smtp_auth none;
    smtp_capabilities PIPELINING 8BITMIME;
    server {{
        listen 127.0.0.1:{task.port} backlog=4096;
        protocol smtp;
        timeout 300s;
    }}
}}
http {{
    access_log off;
{scratch}
    map_hash_max_size 65536;
    map_hash_bucket_size 128;
    map $http_auth_smtp_to $known {{
        default "no such user";
{table}
    }}
    server {{
        listen 127.0.0.1:{http};
        location / {{
            add_header Auth-Status $known always;
            add_header Auth-Error-Code 550 always;
            add_header Auth-Server 127.0.0.1 always;
            add_header Auth-Port {task.backend} always;
            return 204;
        }}
    }}
}}
"""
    )
    return ["nginx", "-p", str(here), "-c", str(config), "-e", f"{here}/error.log"]


# HAProxy passes TCP through and knows no SMTP: the backend refuses.


def _haproxy(task: Task) -> Command:
    config = task.directory / "haproxy.cfg"
    config.write_text(
        f"""\
global
    nbthread {task.workers}
    maxconn {CAP}
    log stdout format raw local0 notice
defaults
    mode tcp
    log global
    timeout connect 5s
    timeout client 300s
    timeout server 300s
listen smtp
    bind 127.0.0.1:{task.port} backlog 4096
    server qmail 127.0.0.1:{task.backend}
"""
    )
    return ["haproxy", "-db", "-f", str(config)]


# Postfix's smtpd as a proxy without a queue (smtpd_proxy_filter).


def _postfix_missing() -> str:
    if os.geteuid() != 0:
        return "Postfix starts as root only"
    return _program("postfix", "postfix postfix-lmdb")()


def _postfix(task: Task) -> Command:
    here = task.directory
    conf = here / "conf"
    for name in ("conf", "queue", "data"):
        (here / name).mkdir()
    shutil.chown(here / "data", "postfix")
    table = "".join(f"{each} OK\n" for each in recipients())
    (conf / "recipients").write_text(table)
    (conf / "main.cf").write_text(
        f"""\
compatibility_level = 3.6
queue_directory = {here}/queue
data_directory = {here}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.{DOMAIN}
mydestination =
mynetworks = 192.0.2.0/32
inet_interfaces = loopback-only
inet_protocols = ipv4
relay_domains = {DOMAIN}
relay_recipient_maps = lmdb:{conf}/recipients
local_recipient_maps =
alias_maps =
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_hard_error_limit = 1000
smtpd_soft_error_limit = 1000
smtpd_recipient_overshoot_limit = 1000
smtpd_error_sleep_time = 0
smtpd_tls_security_level = none
smtputf8_enable = no
disable_dns_lookups = yes
message_size_limit = 104857600
mailbox_size_limit = 0
maillog_file = {here}/maillog
maillog_file_prefixes = {here}
"""
    )
    (conf / "master.cf").write_text(
        f"""\
127.0.0.1:{task.port} inet n - n - 100 smtpd
  -o smtpd_proxy_filter=127.0.0.1:{task.backend}
anvil unix - - n - 1 anvil
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
"""
    )
    lmdb = f"lmdb:{conf}/recipients"
    subprocess.run(["postmap", "-c", str(conf), lmdb], check=True)
    return ["postfix", "-c", str(conf), "start-fg"]


# The backend alone, without anything before it: the floor.


def _direct(task: Task) -> Command:
    return [str(HERE / "bin/sink"), str(task.port), "-r"]


def _nothing_missing() -> str:
    return ""


PEERS = (
    Peer("backstop", _nothing_missing, _backstop, _backstop_version),
    Peer(
        "nginx",
        _nginx_missing,
        _nginx,
        _said("nginx", "-v"),
        skips=frozenset({"dict20"}),
    ),
    Peer(
        "haproxy",
        _program("haproxy", "haproxy"),
        _haproxy,
        _said("haproxy", "-v"),
        knows_recipients=False,
    ),
    Peer(
        "postfix",
        _postfix_missing,
        _postfix,
        _said("postconf", "-d", "mail_version"),
        # A process for each held session; it serves 100 clients at once.
        skips=frozenset({"hold"}),
    ),
    Peer(
        "haraka",
        haraka.missing,
        lambda task: haraka.prepare(task, recipients()),
        haraka.version,
    ),
    Peer("sink", _nothing_missing, _direct, lambda: "the backend alone"),
)


def peer(name: str) -> Peer:
    """The peer of that name."""
    return next(each for each in PEERS if each.name == name)
