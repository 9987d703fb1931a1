"""The leak watch: follows qmail-send's log, and tells what we let in and it
bounced.

Knows: our events, and a log that grows and is rotated.  Knows not: the lines in it
(:mod:`proxy.report.qmail_log`), how messages are matched
(:mod:`proxy.report.ledger`).  Made by the service if ``leakwatch.log`` is set, an
``Observer`` then.

With several workers, each follows the log on its own account and looks for its own
messages only: nothing has to be shared, the sum of what they count is right, and the
cost is one more look at lines that are in the kernel's cache.

It never waits: of a regular file a small piece is read at a time, and no more than
a megabyte in a second.

qmail-send may have logged a message, and even its end, before qmail-smtpd's 250
has come to us.  So lines are kept for a second before they are looked at.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections import deque
from collections.abc import Callable

from proxy.observe.events import (
    BackendRefusedRecipient,
    Disconnected,
    Event,
    Leaked,
    MessageEnded,
    Observer,
    RecipientDecided,
)
from proxy.report import qmail_log
from proxy.report.ledger import Delivery, Ledger, Passed, Recipient, reply_key
from proxy.report.stamp import Clock

Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""

PIECE = 1 << 16
"""Bytes that are read and looked at in one turn of the loop."""
_IDLE_SECONDS = 0.5
_BUSY_SECONDS = PIECE / 1_000_000
HELD_SECONDS = 1.0
"""How long after it was read a line is looked at; what waits is at most what is
read in that time, about a megabyte."""
_PIECES_AT_END = 16
_MESSAGES_MAX = 20_000
_RECIPIENTS_MAX = 1000  # of a session, since its last message
OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""A FIFO or a terminal in its place is not waited for."""


class Follower:
    """The new lines of a file that others write and rotate."""

    def __init__(self, path: str, say: Say) -> None:
        """What is there now is passed over; of a file that comes later, nothing."""
        self._path = path
        self._say = say
        self._file = -1
        self._rest = b""
        self._trouble = ""
        self._replaced = False
        if self._open():
            os.lseek(self._file, 0, os.SEEK_END)

    @property
    def reading(self) -> bool:
        """Whether there is a file that can be read."""
        return self._file >= 0

    def read(self) -> bytes:
        """Whole lines, at most about :data:`PIECE`; empty if there is nothing new.
        Never raises: what is wrong is said once."""
        if self._file < 0 and not self._open():
            return b""
        try:
            data = os.read(self._file, PIECE)
            if not data and self._turned():
                data = os.read(self._file, PIECE) if self._file >= 0 else b""
        except OSError as error:
            self._wrong(error.strerror or str(error))
            self.close()
            return b""
        end = data.rfind(b"\n") + 1
        if not end:
            # No line is as long as that: it is not qmail-send's.
            self._rest = (self._rest + data)[-PIECE:]
            return b""
        lines = self._rest + data[:end]
        self._rest = data[end:]
        return lines

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._rest = b""

    def _turned(self) -> bool:
        """At the end of the file: whether there is another place to read at."""
        mine = os.fstat(self._file)
        if mine.st_size < os.lseek(self._file, 0, os.SEEK_CUR):
            os.lseek(self._file, 0, os.SEEK_SET)  # truncated, as by copytruncate
            self._rest = b""
            return True
        try:
            there = os.stat(self._path)
        except OSError:
            return False  # renamed, and the new one is not there yet
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            self._replaced = False
            return False
        if not self._replaced:
            # What was written between our read and the renaming.
            self._replaced = True
            return True
        self.close()
        return self._open()

    def _open(self) -> bool:
        self._replaced = False
        try:
            file = os.open(self._path, OPEN_FLAGS)
        except OSError as error:
            self._wrong(error.strerror or str(error))
            return False
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            self._wrong("not a regular file")
            return False
        if self._trouble:
            self._trouble = ""
            self._say("info", f"leak watch: {self._path}: can be read now")
        self._file = file
        return True

    def _wrong(self, why: str) -> None:
        if why != self._trouble:
            self._trouble = why
            self._say("warning", f"leak watch: {self._path}: {why}; tried again")


class LeakWatch:
    """An ``Observer`` that knows what was let in, and tells ``observer`` of each
    :class:`~proxy.observe.events.Leaked`.

    Not leaks: what a client that may relay sent to another host that refused it;
    what enforce mode would not have let in.
    """

    def __init__(self, path: str, observer: Observer, say: Say) -> None:
        self._observer = observer
        self._sessions: dict[str, list[RecipientDecided]] = {}
        self._ledger = Ledger(self._heard, Clock(), _MESSAGES_MAX, successes=False)
        self._follower = Follower(path, say)
        self._held: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def reading(self) -> bool:
        """Whether the log can be read."""
        return self._follower.reading

    def __call__(self, event: Event) -> None:
        """Remember what is let in."""
        if isinstance(event, RecipientDecided):
            if event.verdict == "accept":
                accepted = self._sessions.setdefault(event.session, [])
                accepted.append(event)
                if len(accepted) > _RECIPIENTS_MAX:  # of transactions given up
                    del accepted[0]
        elif isinstance(event, MessageEnded):
            accepted = self._sessions.pop(event.session, [])
            if event.outcome == "accepted":
                self._passed(event, accepted[-event.recipients :])
        elif isinstance(event, BackendRefusedRecipient):
            self._refused(event)
        elif isinstance(event, Disconnected):
            self._sessions.pop(event.session, None)

    def _refused(self, event: BackendRefusedRecipient) -> None:
        accepted = self._sessions.get(event.session, [])
        for decided in accepted:
            if decided.recipient == event.recipient:
                accepted.remove(decided)
                return

    def _passed(self, event: MessageEnded, accepted: list[RecipientDecided]) -> None:
        when, qp = reply_key(event.reply.encode("latin-1", "replace"))
        self._ledger.passed(
            Passed(
                event.session,
                event.client,
                event.sender,
                int(time.time()) if when is None else when,
                tuple(
                    [
                        Recipient(
                            each.recipient,
                            each.rule,
                            each.reason,
                            each.observed,
                            each.undecided,
                        )
                        for each in accepted
                    ]
                ),
                qp,
            )
        )

    def _heard(self, heard: Delivery) -> None:
        message, recipient = heard.message, heard.recipient
        if heard.outcome != "failure" or not isinstance(message, Passed):
            return
        if heard.channel == "remote" and not message.forwarded:
            return
        if recipient is not None and recipient.observed == "reject":
            return
        self._observer(
            Leaked(
                message.session,
                message.client,
                message.sender,
                recipient.address if recipient else b"",
                recipient.rule if recipient else "unknown",
                recipient.reason if recipient else "",
                bool(recipient and recipient.undecided),
                heard.address,
                message.qp or 0,
                heard.text,
            )
        )

    # Following.

    def start(self) -> None:
        """Follow the log from now on, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._turn)

    def close(self) -> None:
        """No longer; what is in the log by now is still told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._finish()
        self._follower.close()

    def look(self, now: float) -> bool:
        """Read one piece of what is new, and look at what was read before long
        enough; whether there was anything new.  ``now``: seconds, of any clock."""
        lines = self._follower.read()
        if lines:
            self._held.append((now, lines))
        while self._held and now - self._held[0][0] >= HELD_SECONDS:
            qmail_log.feed(self._held.popleft()[1], self._ledger)
        return bool(lines)

    def _finish(self) -> None:
        """No message of ours can come any more."""
        for _ in range(_PIECES_AT_END):
            if not self.look(0.0):
                break
        while self._held:
            qmail_log.feed(self._held.popleft()[1], self._ledger)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        wait = _BUSY_SECONDS if self.look(loop.time()) else _IDLE_SECONDS
        self._timer = loop.call_later(wait, self._turn)
