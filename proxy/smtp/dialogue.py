"""The server's side of an SMTP session: a state machine without I/O.

Knows: the order of commands as qmail-smtpd keeps it, what is answered at
once and what has to be asked.  Knows not: sockets, clocks, rules, the
backend.  Driven by :mod:`proxy.front.session`, and by tests, which hand in
bytes cut in any way and get the same transcript.  :mod:`proxy.smtp.state` has
the states, and what each has promised; AUTH and STARTTLS have modules of
their own.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.smtp import auth, replies, starttls
from proxy.smtp.command import has_control, is_rcpt, parameters, split_line
from proxy.smtp.data import MessageStream
from proxy.smtp.driver import Banner, Driver, Limits, Pending
from proxy.smtp.outbox import Outbox
from proxy.smtp.path import ADDRESS_MAX, read_path
from proxy.smtp.reply import Reply
from proxy.smtp.state import UNDER_WAY, State

__all__ = ["Dialogue", "State"]


class Dialogue:
    """One client's session, from greeting to close."""

    __slots__ = (
        "_answer",
        "_buffer",
        "_asked",
        "_banner",
        "_commands_left",
        "_driver",
        "_errors_left",
        "_limits",
        "_named",
        "_outbox",
        "_paused",
        "_recipients",
        "_relayed",
        "_skipping",
        "_stream",
        "_why",
        "_working",
        "accepted",
        "auth",
        "auth_offered",
        "broken",
        "extended",
        "helo",
        "mail_argument",
        "refusal",
        "sender",
        "state",
        "tls",
        "unknown",
    )

    def __init__(self, driver: Driver, banner: Banner, limits: Limits) -> None:
        self._driver = driver
        self._banner = banner
        self._limits = limits
        # Counted down; what begins with none never comes to -1.
        self._commands_left = limits.commands or -1
        self._errors_left = limits.errors or -1
        self._buffer = b""
        self._outbox = outbox = Outbox()
        self._answer = outbox.say
        self._stream: MessageStream | None = None
        self._asked = b""
        self._recipients = 0
        self._relayed = False
        self._named = False
        self.broken: Reply | None = None
        self._paused = False
        self._skipping = False
        self._working = False
        self._why = ""
        self.state = State.COMMAND
        self.tls = False
        self.auth_offered = b""
        self.auth: auth.Exchange | None = None
        self.helo = b""
        self.extended = False
        self.mail_argument: bytes | None = None
        self.sender = b""
        self.accepted = 0
        self.unknown = 0
        self.refusal: Reply | None = None

    # What the driver calls.

    def start(self) -> None:
        """Greet."""
        self._driver.send(self._banner.greeting.wire)

    @property
    def held(self) -> int:
        """Bytes of input that wait for an answer."""
        return len(self._buffer)

    @property
    def waiting(self) -> bool:
        """Whether it is not the client's turn, but the rules' or backend's."""
        return (
            self.state is State.ASKING
            or self.state is State.ENDED
            or self._outbox.waiting
        )

    @property
    def idle(self) -> bool:
        """Whether the client's next command is all that is waited for."""
        nothing_held = not (self._buffer or self._outbox.waiting)
        return nothing_held and self.state is State.COMMAND

    @property
    def in_transaction(self) -> bool:
        """Whether a client that is left now would have to send again."""
        return self.mail_argument is not None or self.state in UNDER_WAY

    @property
    def message_size(self) -> int:
        """Bytes of the message so far."""
        return max(self._stream.size, 0) if self._stream is not None else 0

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.state is not State.CLOSED:
            self._buffer += data
            self._work()

    def pause(self) -> None:
        """The client does not read its replies: take no more commands."""
        self._paused = True

    def resume(self) -> None:
        """The client reads again."""
        self._paused = False
        self._work()

    def decided(self, verdict: Reply | Pending) -> None:
        """The answer that :meth:`Driver.decide` put off."""
        self.state = State.COMMAND
        self._recipient_decided(self._asked, verdict)
        self._work()

    def recipient_answered(self, reply: Reply) -> None:
        """The backend's answer to the oldest recipient it was told."""
        if reply.positive:
            self.accepted += 1
        self._outbox.fill_oldest(reply)
        self._work()

    def auth_answered(self, reply: Reply) -> None:
        """The backend's answer to AUTH, or to a line of the exchange."""
        auth.answered(self, reply)
        self._work()

    def data_answered(self, reply: Reply) -> None:
        """The backend's answer to DATA."""
        self._answer(reply)
        if reply.code == 354:
            self.state = State.MESSAGE
            self._stream = MessageStream()
        else:
            self._forget_transaction()
            self.state = State.COMMAND
        self._work()

    def message_answered(self, reply: Reply) -> None:
        """The backend's answer to the final dot."""
        self._answer(reply)
        self._forget_transaction()
        self.state = State.COMMAND
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
        self.broken = reply
        self._relayed = False
        if self._outbox.waiting:
            self._outbox.fill_all(reply)
        elif self.state is State.MESSAGE:
            self.refusal = reply
            self.state = State.REFUSED
        elif self.state is State.ASKING or self.state is State.ENDED:
            self._answer(reply)
            self._forget_transaction()
            self.state = State.COMMAND
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
        self._answer(reply)
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
        buffer = self._buffer
        end = buffer.find(b"\n")
        limit = self._limits.command_length
        if end < 0:
            if limit and len(buffer) > limit and not auth.may_be_long(self, buffer):
                self._skipping = True
                self._buffer = b""
            return False
        line = buffer[:end]
        if self._outbox.waiting and not is_rcpt(line):
            return False  # in order: first the recipients' answers
        self._buffer = buffer[end + 1 :]
        self._commands_left -= 1
        if self._commands_left == -1:
            return self._used_up(replies.TOO_MANY_COMMANDS, "commands_per_session")
        too_long = limit and end + 1 > limit and not auth.may_be_long(self, line)
        if self._skipping or too_long:
            self._skipping = False
            self._driver.limit_reached("command_length")
            return self._error(replies.LINE_TOO_LONG)
        if line.endswith(b"\r"):
            line = line[:-1]
        if has_control(line):
            return self._error(replies.CONTROL_CHARACTER)
        verb, argument = split_line(line)
        _VERBS.get(verb, Dialogue._unimplemented)(self, argument)
        return True

    def _message_piece(self) -> bool:
        """Take what is there of a message; ``False`` if it goes on."""
        stream = self._stream
        assert stream is not None
        data, self._buffer = self._buffer, b""
        piece, self._buffer = stream.feed(data)
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
            self._end_refused()
        return stream.ended

    def _refuse_message(self, reply: Reply) -> None:
        self.refusal = reply
        self.state = State.REFUSED
        self._driver.relay_abort()

    def _end_refused(self) -> None:
        """The true end of a message that was refused before it."""
        bare = self._stream is not None and self._stream.bare_lf
        refusal = replies.BARE_LF if bare else self.refusal or replies.INTERNAL
        self._driver.message_refused(refusal)
        self._answer(refusal)
        self._forget_transaction()
        self.state = State.COMMAND
        if bare:
            # As qmail-smtpd does: such a client may mean another end than we.
            self._close("bare LF")

    # Verbs.

    def _greet(self, argument: bytes, *, extended: bool) -> None:
        self._reset()
        self.helo = argument
        self.extended = extended

    def _helo(self, argument: bytes) -> None:
        self._greet(argument, extended=False)
        self._answer(self._banner.helo)

    def _ehlo(self, argument: bytes) -> None:
        self._greet(argument, extended=True)
        offered = self.auth_offered and auth.offered_now(self)
        self._answer(self._banner.ehlo_reply(self.tls, offered))

    def _mail(self, argument: bytes) -> None:
        sender = read_path(argument)
        if len(sender) > ADDRESS_MAX:
            self._error(replies.SYNTAX)
            return
        limit = self._limits.declared_size
        if limit:
            size = parameters(argument).get(b"SIZE", b"")
            if size.isdigit() and len(size) <= 20 and int(size) > limit:
                self._driver.limit_reached("message_size")
                self._answer(replies.TOO_BIG)
                return
        self._reset()  # a second MAIL starts anew (qmail-smtpd.c, smtp_mail)
        self.mail_argument = argument
        self.sender = sender
        self._answer(replies.SENDER_OK)

    def _rcpt(self, argument: bytes) -> None:
        if self.mail_argument is None:
            self._error(replies.MAIL_FIRST)
            return
        if self._too_many():
            return
        self._named = True
        verdict = self._driver.decide(read_path(argument), argument)
        if verdict is Pending.LATER:
            self._asked = argument
            self.state = State.ASKING
            return
        self._recipient_decided(argument, verdict)

    def _recipient_decided(self, argument: bytes, verdict: Reply | Pending) -> None:
        if isinstance(verdict, Reply):
            self._answer(verdict)
            if verdict.permanent:
                self.unknown += 1
            elif verdict.code == 421:
                self._close("harvest_defence")
            return
        if self.broken is not None:
            self._answer(self.broken)
            return
        self._relayed = True
        self._outbox.keep_place()
        self._driver.relay_recipient(argument)

    def _too_many(self) -> bool:
        """Unknown recipients of the session, or recipients of the transaction:
        what is beyond is 452, what was taken stays (RFC 5321 §4.5.3.1.10)."""
        limits = self._limits
        if 0 < limits.unknown_recipients <= self.unknown:
            self._used_up(replies.TOO_MANY_UNKNOWN, "unknown_per_session")
            return True
        self._recipients += 1
        if not 0 < limits.recipients < self._recipients:
            return False
        if self._recipients == limits.recipients + 1:
            self._driver.limit_reached("recipients")
        self._answer(replies.TOO_MANY_RECIPIENTS)
        return True

    def _data(self, argument: bytes) -> None:
        if self.mail_argument is None:
            self._error(replies.MAIL_FIRST)
        elif not self.accepted:
            # Behind refused recipients it is no error (RFC 2920 §3.1).
            (self._answer if self._recipients else self._error)(replies.RCPT_FIRST)
        elif self.broken is not None:
            self._answer(self.broken)
            self._forget_transaction()
        else:
            self.state = State.ASKING
            self._driver.relay_data()

    def _rset(self, argument: bytes) -> None:
        self._reset()
        self._answer(replies.FLUSHED)

    def _quit(self, argument: bytes) -> None:
        self._answer(self._banner.quit)
        self._close("quit")

    def _unimplemented(self, argument: bytes) -> None:
        self._error(replies.UNIMPLEMENTED)

    def _bdat(self, argument: bytes) -> None:
        """RFC 3030, which EHLO does not offer.  Where a message could be meant,
        it follows at once, and its lines must not be taken for commands."""
        self._answer(replies.UNIMPLEMENTED)
        if self._named:
            self._reset()
            self._close("BDAT")

    # Transactions.

    def _reset(self) -> None:
        """Give up the transaction (RFC 5321 §4.1.1.5)."""
        if self._relayed:
            self._driver.relay_abort()
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        self.mail_argument = None
        self.sender = b""
        self.accepted = 0
        self.refusal = None
        self._recipients = 0
        self._stream = None
        self._relayed = False
        self._named = False
        self.broken = None

    # Output.

    def _error(self, reply: Reply) -> bool:
        """Answer what is no good command; whether there is more to come."""
        self._errors_left -= 1
        if self._errors_left == -1:
            return self._used_up(replies.TOO_MANY_ERRORS, "errors_per_session")
        self._answer(reply)
        return True

    def _used_up(self, reply: Reply, limit: str) -> bool:
        """Say ``reply`` (421) and close: nothing more is to come."""
        self._driver.limit_reached(limit)
        self._answer(reply)
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
        self._buffer = b""


_Verb = Callable[[Dialogue, bytes], None]


def _says(reply: Reply) -> _Verb:
    """A verb that is always answered so."""
    return lambda dialogue, argument: dialogue._answer(reply)


_VERBS: dict[bytes, _Verb] = {
    b"helo": Dialogue._helo,
    b"ehlo": Dialogue._ehlo,
    b"mail": Dialogue._mail,
    b"rcpt": Dialogue._rcpt,
    b"data": Dialogue._data,
    b"starttls": starttls.command,
    b"rset": Dialogue._rset,
    b"noop": _says(replies.OK),
    b"help": _says(replies.HELP),
    b"vrfy": _says(replies.VRFY),
    b"quit": Dialogue._quit,
    b"bdat": Dialogue._bdat,
    b"auth": auth.command,
}
