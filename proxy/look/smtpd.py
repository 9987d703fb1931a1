"""How qmail-smtpd is started: run scripts, xinetd, inetd, systemd.

Knows: tcpserver's options and those of its kin, where supervisors keep their
scripts.  Knows not: what runs at this moment (``sockets``).  Called by ``host``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.look.script import Command, commands, inner, line_with
from proxy.look.tree import Tree

_SERVICES = ("/service", "/var/qmail/supervise", "/var/qmail/service", "/etc/service")
_MORE_SERVICES = (
    "/var/service",
    "/etc/sv",
    "/etc/runit/runsvdir/default",
    "/var/svc.d",
)
_SCRIPTS = ("/var/qmail/rc", "/etc/rc.local", "/etc/rc.d/rc.local", "/etc/rc")
_INIT = ("/etc/init.d", "/etc/rc.d/init.d", "/usr/local/etc/rc.d", "/etc/rc.d")
_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")

# Options with an argument: tcpserver.1 (-I: ucspi-tcp6), tcpsvd.8, sslserver of
# ucspi-ssl.
_WITH_ARGUMENT = {
    "tcpserver": "cxgubBltI",
    "tcpsvd": "lucCbixt",
    "sslserver": "cxgubBltwTIy",
}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PORTS = {"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587}


@dataclass(frozen=True, slots=True)
class Smtpd:
    """One place where qmail-smtpd is started.

    ``host`` and ``port`` are as they stand there; ``command`` is what is run for a
    client; ``options`` are the listener's, ``-x`` among them with its file.
    """

    kind: str
    path: str
    line: int
    host: str
    port: str
    command: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The port's; 0 if it is not known."""
        if self.port.isdigit():
            return int(self.port)
        return _PORTS.get(self.port, 0)

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}" if self.line else self.path

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of the command's words that are programs, by their looks."""
        names = [os.path.basename(word) for word in self.command]
        return tuple(name for name in names if name and not name.startswith("-"))

    @property
    def behind(self) -> bool:
        """Whether only this machine reaches it, on a port of no service: where
        qmail-smtpd stands behind a front door."""
        return self.host in _LOOPBACK and self.number not in (0, *_PORTS.values())

    @property
    def words(self) -> str:
        """All of it in a line."""
        given = " ".join(f"-{k} {v}" if v else f"-{k}" for k, v in self.options.items())
        head = " ".join(filter(None, (self.kind, given, self.host, self.port)))
        return f"{head} {shlex.join(self.command)}".strip()

    @property
    def auth(self) -> tuple[str, ...]:
        """The words behind qmail-smtpd: host name, checkpassword and the like."""
        for number, word in enumerate(self.command):
            if os.path.basename(word).startswith("qmail-smtpd"):
                return self.command[number + 1 :]
        return ()

    @property
    def before(self) -> tuple[str, ...]:
        """The names of programs that stand before qmail-smtpd."""
        found: list[str] = []
        for word in self.command:
            name = os.path.basename(word)
            if name.startswith("qmail-smtpd"):
                return tuple(found)
            found.append(name)
        return ()


def scripts(tree: Tree) -> list[str]:
    """Files that may start qmail or qmail-smtpd, each once."""
    paths = []
    for directory in (*_SERVICES, *_MORE_SERVICES):
        paths += [f"{directory}/{n}/run" for n in tree.names(directory)]
    paths += _SCRIPTS
    for directory in _INIT:
        names = tree.names(directory)
        paths += [f"{directory}/{n}" for n in names if "qmail" in n or "smtp" in n]
    by_file: dict[str, str] = {}
    for path in paths:
        real = tree.real(path)
        if tree.exists(path) and (real not in by_file or "supervise" in path):
            by_file[real] = path
    return sorted(by_file.values(), key=paths.index)


def find(tree: Tree, among: list[str]) -> list[Smtpd]:
    """Every place where qmail-smtpd is started, those of port 25 first."""
    found = [smtpd for path in among for smtpd in _in_script(tree, path)]
    found += _in_xinetd(tree)
    found += _in_inetd(tree)
    found += _in_units(tree)
    return sorted(found, key=lambda smtpd: smtpd.number != 25)


def _in_script(tree: Tree, path: str) -> Iterator[Smtpd]:
    for command in commands(tree, path):
        smtpd = listener(command, tree)
        if smtpd is not None:
            yield smtpd


def listener(command: Command, tree: Tree | None = None) -> Smtpd | None:
    """What ``command`` listens with for qmail-smtpd, ``None`` if it does not; its
    script is in ``tree``, if it is of one."""
    for kind, with_argument in _WITH_ARGUMENT.items():
        at = command.at(kind)
        if at < 0:
            continue
        options, rest = _options(command.words[at + 1 :], with_argument)
        if len(rest) < 3:
            return None
        host, port, *program = rest
        ends = [
            i for i, word in enumerate(program) if re.match(r"[0-9]*[<>]|[|;&]", word)
        ]
        run = tuple(program[: ends[0] if ends else None])
        line = line_with(tree, command, kind) if tree else 0
        smtpd = Smtpd(kind, command.path, line, host, port, run, options)
        return smtpd if _is_smtpd(smtpd) else None
    return None


def _is_smtpd(smtpd: Smtpd) -> bool:
    if smtpd.number in _PORTS.values():
        return True
    return any(name.startswith("qmail-smtpd") for name in smtpd.programs)


def _options(
    words: tuple[str, ...], with_argument: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """getopt(3): options with their arguments, and the words behind them."""
    options: dict[str, str] = {}
    at = 0
    while at < len(words) and words[at].startswith("-") and len(words[at]) > 1:
        letters = words[at][1:]
        at += 1
        if letters == "-":
            break
        for number, letter in enumerate(letters):
            options[letter] = ""
            if letter in with_argument:
                rest = letters[number + 1 :]
                if not rest and at < len(words):
                    rest = words[at]
                    at += 1
                options[letter] = rest
                break
    return options, words[at:]


def _in_xinetd(tree: Tree) -> Iterator[Smtpd]:
    """xinetd.conf(5)."""
    paths = [f"/etc/xinetd.d/{name}" for name in tree.names("/etc/xinetd.d")]
    for path in ("/etc/xinetd.conf", *paths):
        name, begin, keys = "", 0, dict[str, str]()
        for number, line in tree.lines(path):
            if line.startswith("service "):
                name, begin, keys = line.split()[1], number, {}
            elif line == "}":
                smtpd = _xinetd(path, begin, name, keys)
                if smtpd is not None and _is_smtpd(smtpd):
                    yield smtpd
            elif "=" in line:
                key, _, value = line.partition("=")
                keys[key.rstrip("+- \t")] = value.strip()


def _xinetd(path: str, line: int, name: str, keys: dict[str, str]) -> Smtpd | None:
    if keys.get("disable") == "yes" or "server" not in keys:
        return None
    words = (keys["server"], *_words(keys.get("server_args", "")))
    if not any("qmail-smtpd" in word for word in words):
        return None
    host = keys.get("bind", keys.get("interface", "0"))
    return Smtpd("xinetd", path, line, host, keys.get("port", name), words)


def _in_inetd(tree: Tree) -> Iterator[Smtpd]:
    """inetd.conf(5): service, type, protocol, wait, user, server, its words."""
    path = "/etc/inetd.conf"
    for number, line in tree.lines(path):
        fields = _words(line)
        if len(fields) < 7 or "qmail-smtpd" not in line:
            continue
        host, colon, port = fields[0].rpartition(":")
        run = (fields[5], *fields[7:])
        yield Smtpd("inetd", path, number, host if colon else "0", port, run)


def unit_commands(tree: Tree) -> Iterator[Command]:
    """What units start in which qmail is named; an administrator's unit comes before
    a package's of the same name."""
    seen = set()
    for directory in _UNITS:
        for name in tree.names(directory):
            path = f"{directory}/{name}"
            if not name.endswith(".service") or name in seen:
                continue
            seen.add(name)
            if "qmail" in (tree.text(path) or ""):
                yield from _started(tree, path)


def _started(tree: Tree, path: str) -> Iterator[Command]:
    for number, line in tree.lines(path):
        if line.startswith("ExecStart="):
            words = _words(line.partition("=")[2].lstrip("-@:+!"))
            yield from inner(Command(path, number, tuple(words)))
            yield Command(path, number, tuple(words))


def _in_units(tree: Tree) -> Iterator[Smtpd]:
    """Of systemd.service(5), and its systemd.socket(5)."""
    for command in unit_commands(tree):
        path, line, words = command
        started = listener(command, tree)
        if started is not None:
            yield started
        elif any("qmail-smtpd" in word for word in words):
            socket = path.removesuffix(".service").removesuffix("@") + ".socket"
            for _, told in tree.lines(socket):
                if told.startswith("ListenStream="):
                    host, _, port = told.partition("=")[2].rpartition(":")
                    yield Smtpd("systemd", path, line, host or "0", port, words)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
