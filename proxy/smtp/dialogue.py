"""The server's side of an SMTP session: a state machine without I/O.

Knows: where a line or a message ends, whose turn it is, that replies go out in
order and together.  Knows not: what a verb means (:mod:`proxy.smtp.verbs`,
``auth``, ``starttls``); sockets, clocks, rules, the backend.  Driven by
:mod:`proxy.front.session`, and by tests, which hand in bytes cut in any way and
get the same transcript.  :mod:`proxy.smtp.state` has the states, and what each
has promised.
"""

from __future__ import annotations

from typing import cast

from proxy.smtp import auth, replies, starttls
from proxy.smtp.command import has_control, is_rcpt, split_line
from proxy.smtp.data import MessageStream
from proxy.smtp.driver import Banner, Driver, Limits, Pending
from proxy.smtp.outbox import Outbox
from proxy.smtp.reply import Reply
from proxy.smtp.state import OTHERS_TURN, UNDER_WAY, State
from proxy.smtp.transaction import Transaction
from proxy.smtp.verbs import VERBS, recipient_decided, unimplemented


class Dialogue:
    """One client's session, from greeting to close."""

    __slots__ = (
        "_asked",
        "_at",
        "_banner",
        "_buffer",
        "_commands_left",
        "_driver",
        "_errors_left",
        "_limits",
        "_outbox",
        "_paused",
        "_skipping",
        "_unknown",
        "_why",
        "_working",
        "_yielded",
        "auth",
        "auth_offered",
        "extended",
        "flushed",
        "helo",
        "state",
        "tls",
        "transaction",
    )

    def __init__(self, driver: Driver, banner: Banner, limits: Limits) -> None:
        self._driver = driver
        self._banner = banner
        self._limits = limits
        # Counted down; what begins with none never comes to -1.
        self._commands_left = limits.commands or -1
        self._errors_left = limits.errors or -1
        self._unknown = 0  # recipients that were refused for good
        self._buffer = b""
        self._at = 0  # how much of it is done
        self._yielded = False  # others are served first
        self._outbox = Outbox()
        self._asked = b""  # the RCPT whose verdict was put off
        self._paused = False
        self._skipping = False  # the rest of a line that is too long
        self._working = False
        self._why = ""
        self.state = State.COMMAND
        self.tls = False
        self.auth_offered = b""
        self.auth: auth.Exchange | None = None
        self.helo = b""
        self.extended = False
        self.flushed = 0  # how many RSETs, and messages that were begun
        self.transaction = Transaction()

    # What the driver calls.

    def bound(self, banner: Banner, limits: Limits) -> None:
        """Other words and bounds than at first, before :meth:`start`."""
        self._banner = banner
        self._limits = limits

    def start(self) -> None:
        """Greet."""
        self._driver.send(self._banner.greeting.wire)

    @property
    def held(self) -> int:
        """Bytes of input that wait for an answer."""
        return len(self._buffer) - self._at

    @property
    def waiting(self) -> bool:
        """Whether it is not the client's turn, but the rules' or backend's, or ours."""
        outstanding = self._outbox.waiting or self._yielded
        return outstanding or self.state in OTHERS_TURN

    @property
    def idle(self) -> bool:
        """Whether the client's next command is all that is waited for."""
        nothing_held = not (self._buffer or self._outbox.waiting)
        return nothing_held and self.state is State.COMMAND

    @property
    def in_transaction(self) -> bool:
        """Whether a client that is left now would have to send again."""
        return self.transaction.mail is not None or self.state in UNDER_WAY

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.state is not State.CLOSED:
            self._buffer = self._buffer + data if self._buffer else data
            if not self._yielded:
                self._work()

    def go_on(self) -> None:
        """Others have been served: take up what is held."""
        self._yielded = False
        self._work()

    def leave(self) -> None:
        """The session is over: nothing more is asked of the driver."""
        self._driver = cast(Driver, None)  # no cycle is left behind

    def pause(self) -> None:
        """The client does not read its replies: take no more commands."""
        self._paused = True

    def resume(self) -> None:
        """The client reads again."""
        self._paused = False
        self._work()

    def decided(self, verdict: Reply | Pending) -> None:
        """The answer that :meth:`Driver.decide` put off; nobody hears it any more
        if the session was ended meanwhile."""
        if self.state is not State.DECIDING:
            return
        self.state = State.COMMAND
        recipient_decided(self, self._asked, verdict)
        self._work()

    def recipient_answered(self, reply: Reply) -> None:
        """The backend's answer to the oldest recipient it was told."""
        if reply.positive:
            self.transaction.accepted += 1
        self._outbox.fill_oldest(reply)
        self._work()

    def auth_answered(self, reply: Reply) -> None:
        """The backend's answer to AUTH, or to a line of the exchange."""
        auth.answered(self, reply)
        self._work()

    def data_answered(self, reply: Reply) -> None:
        """The backend's answer to DATA."""
        if reply.code == 354:
            self._outbox.say(reply)
            self.flushed += 1
            self.state = State.MESSAGE
            self.transaction.stream = MessageStream()
        else:
            self._transaction_over(reply)
        self._work()

    def data_refused(self, reply: Reply) -> None:
        """A rule's answer to DATA, of which the backend was not told: as with
        qmail-spp, the transaction stays as it is."""
        self._outbox.say(reply)
        self.state = State.COMMAND
        if reply.code == 421 or reply.last:
            self._close("rule")
        self._work()

    def message_answered(self, reply: Reply) -> None:
        """The backend's answer to the final dot."""
        if reply.positive:
            self._unknown = 0  # counted from message to message
        self._transaction_over(reply)
        self._work()

    def relay_failed(self, reply: Reply) -> None:
        """The backend is lost: whatever it was asked is answered ``reply``.

        In the middle of a message the client is first heard to its end.
        """
        if self.auth is not None and auth.backend_lost(self, reply):
            self._work()
            return
        # Recipients that were accepted are lost with it: DATA, and further
        # recipients of this transaction, must not be refused for good.
        transaction = self.transaction
        transaction.broken = reply
        transaction.relayed = False
        if self._outbox.waiting:
            self._outbox.fill_all(reply)
        elif self.state is State.MESSAGE:
            transaction.refusal = reply
            self.state = State.REFUSED
        elif self.state is State.ASKING or self.state is State.ENDED:
            self._transaction_over(reply)
        if self.auth is not None:
            auth.end_if_lost(self)
        self._work()

    def tls_started(self, *, greet: bool) -> None:
        """The handshake is done; ``greet`` if it came first of all.  What is held
        came encrypted."""
        starttls.started(self)
        if greet:
            self.start()
        self._work()

    def end(self, reply: Reply, why: str) -> None:
        """Say ``reply`` (421) and close, whatever the state."""
        if self.state is State.CLOSED:
            return
        self._outbox.fill_all(replies.INTERNAL)
        self._outbox.say(reply)
        self._close(why)
        self._flush()

    # Inside.

    def _work(self) -> None:
        """Go on with what is held, as far as it goes, and send in one piece."""
        if self._working:
            return
        self._working = True
        try:
            while self._buffer and not self._paused:
                state = self.state
                if state is State.COMMAND:
                    if not self._command_line():
                        break
                    if self._buffer and self._driver.turn_over():
                        self._yielded = True
                        break
                elif state is State.MESSAGE or state is State.REFUSED:
                    if not self._message_piece():
                        break
                elif state is State.AUTH:
                    if not auth.take_line(self):
                        break
                else:
                    break
        finally:
            self._working = False
        self._flush()

    def _command_line(self) -> bool:
        """Take one command; ``False`` if there is none now."""
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\n", at)
        limit = self._limits.command_length
        if end < 0:
            buffer = self._take_buffer()
            if limit and len(buffer) > limit and not auth.may_be_long(self, buffer):
                self._skipping = True
            else:
                self._buffer = buffer
            return False
        line = buffer[at:end]
        if self._outbox.waiting and not is_rcpt(line):
            return False  # in order: first the recipients' answers
        if end + 1 == len(buffer):
            self._buffer, self._at = b"", 0
        else:
            self._at = end + 1  # what is left is moved once, not for each line
        self._commands_left -= 1
        if self._commands_left == -1:
            return self._used_up(replies.TOO_MANY_COMMANDS, "commands_per_session")
        length = end + 1 - at
        too_long = limit and length > limit and not auth.may_be_long(self, line)
        if self._skipping or too_long:
            self._skipping = False
            self._driver.limit_reached("command_length")
            return self._error(replies.LINE_TOO_LONG)
        if line.endswith(b"\r"):
            line = line[:-1]
        if has_control(line):
            return self._error(replies.CONTROL_CHARACTER)
        verb, argument = split_line(line)
        VERBS.get(verb, unimplemented)(self, argument)
        return True

    def _message_piece(self) -> bool:
        """Take what is there of a message; ``False`` if it goes on."""
        stream = self.transaction.stream
        assert stream is not None
        piece, self._buffer = stream.feed(self._take_buffer())
        if self.state is State.MESSAGE:
            limit = self._limits.message_size
            if stream.bare_lf:
                self._refuse_message(replies.BARE_LF)
            elif limit and stream.size > limit:
                self._driver.limit_reached("message_size")
                self._refuse_message(replies.TOO_BIG)
            elif stream.ended:
                self.state = State.ENDED
                self._driver.relay_end(piece)
            elif piece:
                self._driver.relay_body(piece)
        if stream.ended and self.state is State.REFUSED:
            self._end_refused(bare=stream.bare_lf)
        return stream.ended

    def _refuse_message(self, reply: Reply) -> None:
        self.transaction.refusal = reply
        self.state = State.REFUSED
        self._driver.relay_abort()

    def _end_refused(self, *, bare: bool) -> None:
        """The true end of a message that was refused before it; ``bare``: with
        a bare LF somewhere, maybe behind what it was refused for."""
        refusal = replies.BARE_LF if bare else self.transaction.refusal
        assert refusal is not None
        self._driver.message_refused(refusal)
        self._transaction_over(refusal)
        if bare:
            # As qmail-smtpd does: such a client may mean another end than we.
            self._close("bare LF")

    # Transactions.

    def _reset(self) -> None:
        """Give up the transaction, if there is one (RFC 5321 §4.1.1.5)."""
        transaction = self.transaction
        if transaction.relayed:
            self._driver.relay_abort()
        if transaction.mail is not None:
            self.transaction = Transaction()

    def _transaction_over(self, reply: Reply) -> None:
        """It ends with ``reply``."""
        self._outbox.say(reply)
        self.transaction = Transaction()
        self.state = State.COMMAND

    # Output.

    def _error(self, reply: Reply) -> bool:
        """Answer what is no good command; whether there is more to come."""
        self._errors_left -= 1
        if self._errors_left == -1:
            return self._used_up(replies.TOO_MANY_ERRORS, "errors_per_session")
        self._outbox.say(reply)
        return True

    def _used_up(self, reply: Reply, limit: str) -> bool:
        """Say ``reply`` (421) and close: nothing more is to come."""
        self._driver.limit_reached(limit)
        self._outbox.say(reply)
        self._close(limit)
        return False

    def _flush(self) -> None:
        data = self._outbox.take()
        if data:
            self._driver.send(data)
        if self.state is State.CLOSED and not self._outbox.waiting:
            self._driver.close(self._why)

    def _close(self, why: str) -> None:
        self._why = why
        self.state = State.CLOSED
        self._take_buffer()

    def _take_buffer(self) -> bytes:
        """All that is held; nothing is, then."""
        buffer, at = self._buffer, self._at
        self._buffer, self._at = b"", 0
        return buffer[at:] if at else buffer
