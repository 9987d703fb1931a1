"""What one line of vpopmail's leads to, and what is delivered so far.

Knows: programs, Maildirs and addresses as vdelivermail takes them.  Knows not: which
lines count (:mod:`proxy.qmail.vpopmail`).  Source: ``deliver_mail()`` and
``run_command()`` in vdelivermail.c.
"""

from __future__ import annotations

import re
import stat as stat_bits

from proxy.qmail.effect import Effect, Run
from proxy.qmail.errors import KernelError
from proxy.qmail.mailboxes import maildir_fault
from proxy.qmail.vpopmail_quota import Room, Rooms
from proxy.qmail.walk import Place

DELIVERED, STOPPED, BOUNCED, DEFERRED = 0, 99, 100, 111

_FILE_MAX = 1 << 18

# What qmail-inject takes for one address as it stands; the rest of RFC 822 is not
# followed.
_ADDRESS = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")


class Exit(Exception):
    """``vexit()``."""

    def __init__(self, code: int, reason: str = "", *, full: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.full = full


class Deliveries:
    """What one run of vdelivermail has delivered so far, and from where.

    ``here`` is its working directory; ``kept``, ``undecided`` and ``forwards`` are
    those of :class:`~proxy.qmail.effect.Effect`.  ``rooms``, where there are any, are
    asked whether there is room.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.here: Place = run.home
        self.forwards: list[bytes] = []
        self.kept = self.undecided = False
        self.rooms: Rooms | None = None

    def effect(self, end: Exit) -> Effect:
        """What the exit comes to, with what was delivered before it."""
        code, reason = end.code, end.reason
        if self.undecided and code not in (DELIVERED, STOPPED):
            # A program of a line before may have ended it with 99.
            code, reason = DELIVERED, ""
        return Effect(
            code,
            tuple(self.forwards),
            self.run.environment[b"SENDER"],
            reason,
            kept=self.kept or not self.forwards,
            undecided=self.undecided,
            full=end.full,
        )

    def note(self, text: str, *values: bytes | str | int, at: bytes = b"") -> None:
        """A step of the trail; by default the program's own."""
        self.run.trail.add(at or self.run.program, text, *values)

    def leave_undecided(self) -> None:
        """Taken, since only running vdelivermail would tell."""
        self.kept = self.undecided = True
        self.note("undecided: the program vdelivermail decides")

    def chdir(self, path: bytes) -> None:
        """Whether it went well, vdelivermail does not ask."""
        try:
            self.here = self.run.walker.enter(path, self.here)
        except KernelError as error:
            self.note("vpopmail cannot enter it: {}", str(error), at=path)

    def lines(self, directory: Place, name: bytes, size: int) -> list[bytes] | None:
        """fopen(3) and fgets(3); ``None`` where vpopmail cannot open it."""
        try:
            place = self.run.walker.readable(name, directory)
        except KernelError:
            return None
        if not stat_bits.S_ISREG(place.status.st_mode):
            return []
        content = self.run.host.cache.parsed(self.run.walker, place, bytes, _FILE_MAX)
        lines = content.split(b"\n")
        if not lines[-1]:
            lines.pop()
        self.note("counts", at=place.path)
        return [
            line[at : at + size - 1].partition(b"\0")[0]
            for line in lines
            for at in range(0, max(len(line), 1), size - 1)
        ]

    def loops(self, address: bytes) -> bool:
        """``is_looping()``, of the lines that are known: DTLINE is one."""
        environment = self.run.environment
        own = environment[b"LOCAL"] + b"@" + environment[b"HOST"]
        return address.removeprefix(b"&").lower() == own.lower()

    def deliver(self, line: bytes, quota: bytes = b"") -> None:
        """``deliver_mail()``."""
        if line.startswith(b"#"):
            self.kept = True
            return
        if self.loops(line):
            self.note("{} is where the mail comes from: it loops", line)
            raise Exit(BOUNCED, "mail is looping")
        if line.startswith(b"|"):
            self._command(line.lstrip(b" |"))
        elif line.startswith((b".", b"/")):
            self._maildir(line, quota)
        else:
            self._forward(line.removeprefix(b"&"))

    def _command(self, command: bytes) -> None:
        """``run_command()``."""
        run = self.run._replace(home=self.here)
        effect = run.shell(command, run)
        if effect is None or effect.undecided:
            self.note("undecided: the program {} decides", command)
            self.kept = self.undecided = True
            return
        self.note("the program {} exits {}", command, effect.code)
        self.forwards.extend(effect.forwards)
        if not effect.succeeds:
            code = BOUNCED if effect.fails else DEFERRED
            raise Exit(code, effect.reason or "a program line of vpopmail fails")
        self.kept = self.kept or effect.kept or not effect.forwards
        if effect.stops:
            raise Exit(STOPPED)

    def _maildir(self, path: bytes, quota: bytes) -> None:
        if not path.endswith(b"/"):
            self.note("{}: vpopmail delivers to no mbox", path)
            raise Exit(DEFERRED, "vpopmail delivers to no mbox")
        fault = maildir_fault(self.run.walker, self.here, path)
        if fault is not None:
            self.note("{}: {}", path, fault)
            raise Exit(DEFERRED, f"the Maildir cannot be written: {fault}")
        if self.rooms is not None:
            self._check_room(self.rooms, path, quota)
        self.note("delivered to {}", path)
        self.kept = True

    def _check_room(self, rooms: Rooms, path: bytes, quota: bytes) -> None:
        """First the mailbox, then the domain."""
        self._check("mailbox", rooms.mailbox(path, self.here, quota))
        self._check("domain", rooms.domain(path, self.here))

    def _check(self, what: str, room: Room) -> None:
        if room is Room.FULL:
            refuses = self.run.host.settings.vpopmail.over_quota == "reject"
            code = BOUNCED if refuses else DEFERRED
            raise Exit(code, f"the {what} is over its quota", full=True)
        if room is Room.LATER:
            raise Exit(DEFERRED, f"the {what} was over its quota", full=True)
        if room is Room.UNKNOWN:
            # Not undecided: the mailbox is there, and no policy is to refuse it.
            self.note("taken: whether the {} is over its quota is not known", what)

    def _forward(self, address: bytes) -> None:
        """qmail-inject sends it; what it reads otherwise than letter by letter is
        not followed."""
        if _ADDRESS.fullmatch(address) is None:
            self.note("undecided: {} is qmail-inject's to read", address)
            self.kept = self.undecided = True
            return
        self.note("forwarded to {}", address)
        self.forwards.append(address)
