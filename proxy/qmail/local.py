"""qmail-local: what one delivery to one local user would come to.

Knows: the checks of the home directory, the order of dot-qmail lines, when a
mailbox file or Maildir can be written.  Knows not: where forwarded copies end
(:mod:`proxy.qmail.decide` follows them).  Source: qmail-local.8, dot-qmail.5,
maildir.5, qmail-local.c.
"""

from __future__ import annotations

import enum
import stat as stat_bits
from typing import NamedTuple

from proxy.qmail import program
from proxy.qmail.cache import identity
from proxy.qmail.dotqmail import (
    DotQmail,
    Instruction,
    Kind,
    OwnerNames,
    SearchDeferred,
    candidates,
    new_sender,
    parse,
    read_instructions,
    search,
)
from proxy.qmail.effect import Run
from proxy.qmail.errors import KernelError
from proxy.qmail.host import QmailHost
from proxy.qmail.mailboxes import maildir_fault, mbox_fault
from proxy.qmail.moment import Moment
from proxy.qmail.passwd import Controller
from proxy.qmail.questions import NO_ANSWERS, Answers
from proxy.qmail.trail import SILENT, Trail
from proxy.qmail.walk import SUPERUSER, Identity, Listed, Place

# qmail-queue.c, ADDR: a longer envelope address is refused for good.
_QUEUE_ADDRESS_MAX = 1003


class Ending(enum.Enum):
    """How qmail-local exits."""

    SUCCESS = "success"
    FAILURE = "failure"
    DEFERRAL = "deferral"


class Delivery(NamedTuple):
    """The end of one delivery.

    ``reason`` is for people.  ``kept`` says that a copy reaches a file or a
    program (or nothing at all was asked for); ``undecided`` that a program
    decides, whose answer only running it would tell.  ``forwards`` are addresses,
    each with the envelope sender of its copy.  ``full``: for want of room only.
    """

    ending: Ending
    reason: str
    kept: bool = False
    undecided: bool = False
    forwards: tuple[tuple[bytes, bytes], ...] = ()
    full: bool = False


class Envelope(NamedTuple):
    """One message copy on its way to a local recipient."""

    local: bytes
    host: bytes
    sender: bytes


class _Stop(Exception):
    """The delivery ends here, as ``delivery`` says."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery)
        self.delivery = delivery


def _defer(reason: str, *, full: bool = False) -> _Stop:
    return _Stop(Delivery(Ending.DEFERRAL, reason, full=full))


def _fail(reason: str, *, full: bool = False) -> _Stop:
    return _Stop(Delivery(Ending.FAILURE, reason, full=full))


NO_MAILBOX = "no mailbox here by that name"
NO_DELIVERY = Delivery(Ending.FAILURE, NO_MAILBOX)


def deliver(
    host: QmailHost,
    controller: Controller,
    envelope: Envelope,
    trail: Trail,
    moment: Moment,
    answers: Answers = NO_ANSWERS,
) -> Delivery:
    """What ``qmail-local`` would do with ``envelope`` for ``controller``.

    ``answers`` are those of databases that a program of a dot-qmail line asks.
    Raises :class:`~proxy.qmail.errors.CannotTell` where the front door cannot
    see what qmail would see, :class:`~proxy.qmail.vpopmail_data.Need` where another
    answer is wanted.
    """
    if trail is SILENT and _nothing_there(host, controller):
        return NO_DELIVERY
    try:
        it = _LocalDelivery(host, controller, envelope, trail, moment, answers)
        return it.run()
    except _Stop as stop:
        return stop.delivery


def _nothing_there(host: QmailHost, controller: Controller) -> bool:
    """Whether one look shows what :meth:`_LocalDelivery.run` would come to: the
    home is what it was when it was entered and listed, and no file for this
    extension is among the names.  Almost every guess ends so."""
    _, uid, gid, path, dash, extension = controller
    walker = host.walker(SUPERUSER)
    home = walker.ancestors.listed.get((path, uid, gid))
    if home is None or not dash or b"/" in extension or b"/" in dash:
        return False
    place, names = home
    status = walker.look(path)
    if status is not place.status:
        if status is None or identity(status) != identity(place.status):
            return False
        home = Listed(Place(path, status), names)
        walker.ancestors.listed[path, uid, gid] = home
    return names.isdisjoint(candidates(dash, extension))


class _LocalDelivery:
    """The state of qmail-local's ``main()``, one run."""

    def __init__(
        self,
        host: QmailHost,
        controller: Controller,
        envelope: Envelope,
        trail: Trail,
        moment: Moment,
        answers: Answers,
    ) -> None:
        self.host = host
        self.moment = moment
        self.answers = answers
        self.controller = controller
        self.envelope = envelope
        self.trail = trail
        self.walker = host.walker(Identity(controller.uid, controller.gid))
        self.forwards: list[tuple[bytes, bytes | None]] = []
        self.kept = False
        self.undecided = False
        self.decider = ""  # the first program that decides, for people

    def run(self) -> Delivery:
        controller = self.controller
        home = self._enter_home()
        try:
            file = search(
                self.walker,
                home,
                controller.dash,
                controller.extension,
                self.host.settings.unsafe_mode,
                self._names(home),
            )
            if file is None and controller.dash:
                self.trail.add(
                    home.path + b"/.qmail" + controller.dash,
                    "no file for {}, and no -default above it",
                    controller.extension or b"the empty extension",
                )
                return NO_DELIVERY
            self._follow(home, file)
            # Asked for by qmail-local before the lines; without forwards it
            # only matters for a file system in trouble.
            sender = self._forward_sender(home) if self.forwards else b""
        except SearchDeferred as deferred:
            path = home.path + b"/" + deferred.name
            self.trail.add(path, "{}: deferred", deferred.why)
            raise _defer(deferred.why) from deferred
        return self._end(sender)

    def _enter_home(self) -> Place:
        """``chdir(homedir)`` and ``checkhome()``."""
        controller = self.controller
        if not controller.home.startswith(b"/"):
            self.trail.add(b"qmail-local", "home {} is not absolute", controller.home)
            raise _fail("the home directory's name is not absolute")
        try:
            home = self.walker.enter(controller.home)
        except KernelError as error:
            self.trail.add(controller.home, "cannot enter the home: {}", str(error))
            raise _defer("unable to switch to the home directory") from error
        mode = home.status.st_mode
        if mode & self.host.settings.unsafe_mode:
            self.trail.add(home.path, "the home directory is writable for others")
            raise _defer("home directory is writable")
        if mode & stat_bits.S_ISVTX:
            self.trail.add(home.path, "the home directory is sticky: being edited")
            raise _defer("home directory is sticky")
        return home

    def _names(self, home: Place) -> frozenset[bytes] | None:
        """Extensions are mostly guesses: know what there is.  The file of the
        user itself is mostly there: look at it."""
        controller = self.controller
        if not controller.dash:
            return None
        names = self.host.cache.names(self.host.view, home)
        if names is not None and home.path == controller.home:
            key = controller.home, controller.uid, controller.gid
            self.walker.ancestors.listed[key] = Listed(home, names)
        return names

    def _forward_sender(self, home: Place) -> bytes:
        controller, envelope = self.controller, self.envelope
        names = OwnerNames(envelope.local, envelope.host, envelope.sender)
        return new_sender(
            self.walker, home, controller.dash, controller.extension, names
        )

    def _follow(self, home: Place, file: DotQmail | None) -> None:
        """The lines in order, until one ends the delivery."""
        instructions = None
        forward_only = False
        if file is not None:
            path = file.place.path
            instructions = read_instructions(self.host, self.walker, file)
            forward_only = file.forward_only
        if instructions is None:
            path = b"default delivery"
            forward_only = False
            default = self.host.settings.default_delivery
            # An empty instruction is a blank first line (qmail-local.c).
            instructions = parse(default if default.strip(b"\0") else b"\n")
            why = "is empty" if file else "is not there"
            self.trail.add(
                home.path + b"/" + (file.name if file else b".qmail"),
                "{}: the default delivery {} is used",
                why,
                default,
            )
        if not instructions:
            self.trail.add(path, "only comments: taken, and nothing is done")
            self.kept = True
        for instruction in instructions:
            if instruction.kind is Kind.FORWARD_ONLY:
                forward_only = True
            elif not self._one(home, path, instruction, file, forward_only):
                break

    def _one(
        self,
        home: Place,
        path: bytes,
        instruction: Instruction,
        file: DotQmail | None,
        forward_only: bool,
    ) -> bool:
        """Obey one line; ``False`` if the rest is not looked at."""
        kind, argument, line = instruction
        if kind is Kind.BLANK_FIRST:
            self.trail.add(path, "the first line is blank: deferred", line=line)
            raise self._sure(_defer("first line of the dot-qmail file is blank"))
        if kind is Kind.FORWARD:
            self.trail.add(path, "forwarded to {}", argument, line=line)
            self.forwards.append((argument, None))
            return True
        if forward_only:
            self.trail.add(path, "{}, but only forwards may stand here", kind.value)
            raise self._sure(_defer("file or program delivery with the x bit set"))
        if kind is Kind.PROGRAM:
            return self._program(home, path, instruction, file)
        self._mailbox(home, path, instruction)
        return True

    def _mailbox(self, home: Place, path: bytes, instruction: Instruction) -> None:
        kind, argument, line = instruction
        writable = maildir_fault if kind is Kind.MAILDIR else mbox_fault
        fault = writable(self.walker, home, argument)
        if fault is not None:
            self.trail.add(path, "{} {}: {}", kind.value, argument, fault, line=line)
            raise self._sure(_defer(f"{kind.value} cannot be written: {fault}"))
        self.trail.add(path, "delivered to {} {}", kind.value, argument, line=line)
        self.kept = True

    def _program(
        self, home: Place, path: bytes, instruction: Instruction, file: DotQmail | None
    ) -> bool:
        command, line = instruction.argument, instruction.line
        run = Run(
            self.host,
            self.walker,
            home,
            self._environment(file),
            self.trail,
            program.effect,
            users_cdb=self.moment.users_cdb,
            answers=self.answers,
        )
        effect = program.effect(command, run)
        if effect is None:
            self.trail.add(
                path, "undecided: the program {} decides", command, line=line
            )
            self.decider = self.decider or program.name_of(command)
            self.kept = self.undecided = True
            return True
        text = "the program {} exits {}"
        self.trail.add(path, text, command, effect.code, line=line)
        if effect.fails:
            reason = effect.reason or "a program line refuses the mail"
            raise self._sure(_fail(reason, full=effect.full))
        if not effect.succeeds:
            reason = effect.reason or "a program line defers the mail"
            raise self._sure(_defer(reason, full=effect.full))
        copies = list(effect.copies())
        if copies:
            addresses = b" ".join(address for address, _ in copies)
            self.trail.add(path, "it forwards to {}", addresses)
        if effect.kept or not (copies or effect.passes):
            self.kept = True  # the program has taken it, whatever it did with it
        if effect.undecided:
            self.decider = self.decider or program.name_of(command)
            self.undecided = True
        self.forwards += copies
        return not effect.stops

    def _environment(self, file: DotQmail | None) -> dict[bytes, bytes]:
        """The variables of qmail-command.8 whose values are certain here."""
        controller, envelope = self.controller, self.envelope
        environment = {
            b"HOST": envelope.host,
            b"HOME": controller.home,
            b"USER": controller.user,
            b"LOCAL": envelope.local,
            b"RECIPIENT": envelope.local + b"@" + envelope.host,
            b"SENDER": envelope.sender,
            b"EXT": controller.extension,
        }
        extension, host = controller.extension, envelope.host
        for number in (b"2", b"3", b"4"):  # ever less of them
            extension = extension.partition(b"-")[2]
            host = host.rpartition(b".")[0] if b"." in host else host
            environment[b"EXT" + number] = extension
            environment[b"HOST" + number] = host
        if file is not None and file.matched_default is not None:
            environment[b"DEFAULT"] = file.matched_default
        return environment

    def _sure(self, stop: _Stop) -> _Stop:
        """After an undecided program nothing is sure: it may have exited 99,
        and then the line that would fail is not even read."""
        if self.undecided:
            self.trail.add(b"qmail-local", "but the program may exit 99 and end it")
            return _Stop(Delivery(Ending.SUCCESS, self._reason(), True, True))
        return stop

    def _reason(self) -> str:
        return f"undecided: the program {self.decider} decides"

    def _end(self, sender: bytes) -> Delivery:
        """``mailforward()``: one message to all forward lines, at the end."""
        forwards = tuple(
            (address, sender if own is None else own) for address, own in self.forwards
        )
        for copy in forwards:
            if max(map(len, copy)) >= _QUEUE_ADDRESS_MAX:
                self.trail.add(b"qmail-queue", "a forward is too long")
                raise self._sure(_fail("envelope address too long"))
        return Delivery(
            Ending.SUCCESS,
            self._reason() if self.undecided else "delivered",
            self.kept,
            self.undecided,
            forwards,
        )
