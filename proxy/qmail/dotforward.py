"""dot-forward: sendmail's ``.forward`` files under qmail.

Knows: its options, the lines of the file, which address is the user's own.
Knows not: where the forwarded copies end.  Called by way of
:mod:`proxy.qmail.known`.  Source: dot-forward.c 0.71.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from typing import NamedTuple

from proxy.qmail.control import ControlError, ControlFiles
from proxy.qmail.effect import Effect, Run, options, program_fault
from proxy.qmail.errors import KernelError
from proxy.qmail.token822 import Token, tokens, unquoted
from proxy.qmail.walk import READ

_FILE_MAX = 4 << 20
_BEFORE_ADDRESS = frozenset({"comment", "atom", "quote", "@", "."})


class _Hosts(NamedTuple):
    """What completes an address; readcontrols()."""

    host: bytes
    domain: bytes
    plus: bytes


class _Ends(Exception):
    """dot-forward exits here."""

    def __init__(self, effect: Effect | None) -> None:
        super().__init__(effect)
        self.effect = effect


def dot_forward(arguments: list[bytes], run: Run) -> Effect | None:
    """dot-forward [ -nN ] file ...; ``None`` where an unknown program in a file
    decides.

    Raises :class:`~proxy.qmail.errors.CannotTell`.
    """
    read = options(arguments, b"nN")
    if read is None:
        return Effect(100, reason="dot-forward: wrong usage")
    flags, files = read
    try:
        hosts = _hosts(run)
        for name in files:
            found = _File(run, hosts, name, deliver=flags.get(b"n") != b"n").follow()
            if found is not None:
                return found
    except _Ends as end:
        return end.effect
    return Effect(0, passes=True)


def _defer(run: Run, at: bytes, why: str) -> _Ends:
    run.trail.add(at, "dot-forward cannot go on: {}", why)
    return _Ends(Effect(111, reason=f"dot-forward: {at.decode('latin-1')}: {why}"))


def _hosts(run: Run) -> _Hosts:
    """``readcontrols()``; it opens the current directory first."""
    if not run.walker.identity.may(run.home.status, READ):
        raise _defer(run, run.home.path, "the directory is not readable")
    qmail = run.host.settings.home
    try:
        run.walker.enter(qmail)
        try:
            directory = run.walker.stat(qmail + b"/control")
        except KernelError as error:
            if error.code != errno.ENOENT:
                raise
            return _Hosts(b"me", b"me", b"me")
        control = ControlFiles(run.host.cache, run.walker, directory)
        me = control.line(b"me")
        if me is None:
            me = b"me"
        lines = []
        for name in (b"defaultdomain", b"defaulthost", b"plusdomain"):
            line = control.line(name)
            lines.append(me if line is None else line)
    except KernelError as error:
        raise _defer(run, qmail, str(error)) from error
    except ControlError as error:
        raise _defer(run, b"control/" + error.name, error.why) from error
    domain, host, plus = lines
    return _Hosts(host, domain, plus)


class _File:
    """``try()``: one file."""

    def __init__(self, run: Run, hosts: _Hosts, name: bytes, *, deliver: bool) -> None:
        self.run = run
        self.hosts = hosts
        self.name = name
        self.deliver = deliver
        self.forwards: list[bytes] = []
        self.inner: list[Effect] = []
        self.acted = False
        self.direct = False
        self.number = 0

    def follow(self) -> Effect | None:
        """``None`` if the next file is to be tried."""
        content = self._read()
        if content is None:
            return None
        *lines, last = content.split(b"\n")
        lines = [line + b"\n" for line in lines] + ([last] if last else [])
        for number, line in enumerate(lines, start=1):
            self.number = number
            if line[:1] != b"#":
                self._line(line)
        inner, forwards = tuple(self.inner), tuple(self.forwards)
        if not self.deliver:
            forwards = ()
        if self.direct:
            return Effect(0, forwards, inner=inner, passes=True)
        if self.acted or self.forwards:
            return Effect(99, forwards, inner=inner)
        return None

    def _read(self) -> bytes | None:
        walker = self.run.walker
        try:
            place = walker.readable(self.name, self.run.home)
        except KernelError as error:
            if error.code == errno.ENOENT:
                self.run.trail.add(self.name, "dot-forward: it is not there")
                return None
            raise _defer(self.run, self.name, str(error)) from error
        if stat_bits.S_ISDIR(place.status.st_mode):
            raise _defer(self.run, self.name, "a directory")
        return self.run.host.cache.parsed(walker, place, bytes, _FILE_MAX)

    def _line(self, line: bytes) -> None:
        """``parseline()``: from the end to the beginning."""
        found = tokens(line)
        if found is None:
            raise self._bad()
        address: list[Token] = []
        word_ok = True
        while found:
            token = found.pop()
            if token.kind in (";", ":", "comment"):
                continue
            if token.kind == ">":
                self._address(address)
                while found and found[-1].kind != "<":
                    address.append(found.pop())
                self._address(address)
                if not found:
                    raise self._bad()
                found.pop()
                while found and found[-1].kind in _BEFORE_ADDRESS:
                    found.pop()
                word_ok = False
            elif token.kind in ("atom", "quote", "literal"):
                if not word_ok:
                    self._address(address)
                word_ok = False
                address.append(token)
            elif token.kind == ",":
                self._address(address)
                word_ok = True
            else:
                word_ok = True
                address.append(token)
        self._address(address)

    def _bad(self) -> _Ends:
        why = f"line {self.number} is not understood"
        return _defer(self.run, self.name, why)

    def _address(self, parts: list[Token]) -> None:
        """``gotaddr()``; empties ``parts``."""
        has_at = any(token.kind == "@" for token in parts)
        address = unquoted(parts[::-1])
        parts.clear()
        if not address:
            return
        if address.lower() == self._own(has_at):
            self.acted = self.direct = True
            self._note("the user's own address: delivered here")
            return
        if not has_at and address.startswith(b"/"):
            raise _defer(self.run, self.name, "files are not supported by it")
        if not has_at and address.startswith(b"|"):
            self.acted = True
            self._program(address[1:].partition(b"\0")[0])
            return
        address = _completed(address, has_at, self.hosts).partition(b"\0")[0]
        self._note("forwarded to {}", address)
        self.forwards.append(address)

    def _own(self, has_at: bool) -> bytes:
        environment = self.run.environment
        user = environment[b"USER"].lower()
        return user + b"@" + environment[b"HOST"].lower() if has_at else user

    def _program(self, command: bytes) -> None:
        if not self.deliver:
            return
        found = self.run.shell(command, self.run._replace(piped=True))
        if found is None:
            self._note("undecided: {} decides", command)
            raise _Ends(None)
        fault = program_fault(found, self.run, "dot-forward")
        if fault is not None:
            raise _Ends(fault)
        self.inner.append(found)

    def _note(self, text: str, *values: bytes) -> None:
        self.run.trail.add(self.name, text, *values, line=self.number)


def _completed(address: bytes, has_at: bool, hosts: _Hosts) -> bytes:
    if not has_at:
        address += b"@" + hosts.host
    if address.endswith(b"+"):
        address = address[:-1] + b"." + hosts.plus
    at = max(address.rfind(b"@"), 0)
    if b"." not in address[at:]:
        address += b"." + hosts.domain
    return address
