"""One client connection: the one subclass of aiosmtpd's ``SMTP``.

Knows: the transport, its flow in both directions, its time, its end; whom to ask
what the dialogue asks, and whom to answer.  Knows not: SMTP (the dialogue does),
rules, the backend's protocol.  Its parts know the rest: ``entry`` (and
``proxied``) how it begins, ``verdicts`` what follows from one, ``told`` what
others learn of the client, ``encrypted`` and ``authenticated`` what TLS and AUTH
change, ``stages`` where rules are asked beyond RCPT.  Made by the service; the door
calls it when its time is up.

aiosmtpd's own loop of one task, one timer and several writes a command is not
used; nor is its constructor, whose work is the same for every connection
(introspection of handlers, a stream reader, the resolver).  docs/performance.md
has the measurements.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from aiosmtpd.smtp import SMTP

from proxy.backend.channel import FINAL_DOT
from proxy.backend.client import Client, Variables
from proxy.backend.conversation import Conversation
from proxy.front.authenticated import Authenticated
from proxy.front.deadlines import REPLIES, deadline, latest, overdue
from proxy.front.door import Door
from proxy.front.encrypted import Encrypted
from proxy.front.entry import enter
from proxy.front.outcome import REFUSED_FOR, outcome_of
from proxy.front.pace import Pace
from proxy.front.proxied import expect_header
from proxy.front.stages import before_data
from proxy.front.told import client_of, facts_of, received_of
from proxy.front.verdicts import decide_later, decide_now
from proxy.observe.events import (
    BackendFailed,
    BackendRefusedRecipient,
    Disconnected,
    LimitHit,
    MessageEnded,
)
from proxy.rules.verdict import Changed, Facts, Question, Verdict
from proxy.smtp import replies
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.driver import Pending
from proxy.smtp.path import read_path
from proxy.smtp.reply import Reply
from proxy.smtp.state import BY_LINE, State

# Input held while an answer is awaited; beyond it, the client is not read.
_HELD_MAX = 65536
# Arguments of RCPT that the backend has not answered; a thousand usual ones fit.
_OWED_MAX = 65536
# A client that has not read this much when its session ends will not read it.
_UNREAD_MAX = 16384
# Seconds that it has for less.
_LINGER = 15.0
_NEVER = float("inf")


class Session(Authenticated, Encrypted, SMTP):
    """Feeds a :class:`Dialogue` and does what it asks for.

    ``deadline`` is loop time in seconds by which the client must act.
    """

    _rules_keep: dict[object, Any] | None = None  # see told.facts_of()
    _instead: bytes | None = None  # what a rule makes of the RCPT that is decided
    _rules_variables: Changed = ()  # what rules make of the backend's environment
    _sender_kept: object = None  # the transaction whose sender a rule cannot change

    def __init__(self, door: Door) -> None:  # not SMTP's: see the module
        self.deadline = _NEVER
        self._door = door
        self._dialogue = Dialogue(self, door.banner, door.session_limits)
        self._engine = door.engine
        self._conversation: Conversation | None = None
        self._socket: Any = None  # asyncio.Transport, of either loop
        self._client = ""
        self._ends: Client | None = None
        self._relayclient: bytes | None = None
        self._variables: Variables = ()
        self._id = ""
        self._began = 0.0
        self._why = "client"
        self._eof = False
        self._reading = True
        self._blocked = False
        self._gone = False
        self._task: asyncio.Task[None] | None = None
        self._arguments: deque[bytes] = deque()
        self._owed = 0  # their bytes
        self._recipients = self._refused = self._messages = 0
        self._message_began = 0.0
        self._oldest = _NEVER  # when the session is too old
        self._pace: Pace | None = None  # of the message
        self._held: Reply | None = None  # until the deadline: a guesser's refusal
        # What is decided must be newer than what the client was told last.
        self._since = time.monotonic()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport
        peer = transport.get_extra_info("peername")
        if not peer:  # reset before it was accepted: there is nobody
            self._gone = True
            self._socket.abort()
            return
        client = peer[0]
        door = self._door
        if door.proxied and client in door.settings.proxies:
            expect_header(self, client)
        else:
            enter(self, client)

    def data_received(self, data: bytes) -> None:
        if self._gone:
            return
        dialogue = self._dialogue
        dialogue.receive(data)
        # A part of a command buys no time; of a message, it does.
        whole = b"\n" in data
        usual = self._door.command_deadline
        free = self._reading and not (self._blocked or self._eof)
        if free and dialogue.idle and usual < self._oldest:
            if whole:  # most often
                self.deadline = usual
            return
        before = self.deadline
        self._after()
        if not whole and dialogue.state in BY_LINE:
            self.deadline = before

    def eof_received(self) -> bool:
        """The client sends no more; it may still read (RFC 5321 has no rule
        against it, and ``nc`` does it)."""
        self._eof = True
        self._after()
        # Under TLS both directions end together, as the loops have it.
        return not (self._gone or self._tls or self._handshake)

    def connection_lost(self, error: Exception | None) -> None:
        """The loop is about to close the descriptor."""
        self._client_left()
        self._free()

    def _client_left(self) -> None:
        if self._gone:
            return
        if self._handshake is not None:
            self._tls_failed("the client left")
            return
        self._gone = True
        state = self._dialogue.state
        if state is State.MESSAGE or state is State.REFUSED:
            self._report_message("aborted", "", "the client left before the dot")
        self._end()

    def pause_writing(self) -> None:
        self._dialogue.pause()

    def resume_writing(self) -> None:
        self._dialogue.resume()
        self._after()

    # What the door calls.

    def time_out(self) -> None:
        """The deadline has passed."""
        if self._gone:  # and still does not read what it was told
            self._socket.abort()
            return
        held = self._held
        if held is not None:
            self._held = None
            self._dialogue.decided(held)
            self._after()
            return
        limit = overdue(self._dialogue, self._door, self._oldest, self._pace)
        if limit:
            self.limit_reached(limit)
            self._finish(REPLIES[limit], "timeout")
        elif self._pace is not None:
            self.deadline = self._pace.next_look

    def hurry(self) -> None:
        """There is less patience than there was."""
        if self._gone:
            return
        if self._held is None and self.deadline != _NEVER:
            self.deadline = min(self.deadline, latest(self._dialogue, self._door))

    def shut_down(self, *, now: bool) -> bool:
        """End the session if nothing is under way, or in any case if ``now``;
        whether it is ended."""
        if self._gone:
            if now:
                self._socket.abort()
            return now
        if not now and self._dialogue.in_transaction:
            return False
        self._finish(replies.SHUTTING_DOWN, "shutdown")
        return True

    # Driver: what the dialogue asks for.

    def send(self, data: bytes) -> None:
        if not self._gone:
            self._door.writes.write(self._socket, data)

    def turn_over(self) -> bool:
        return self._door.turns.over(self)

    def go_on(self) -> None:
        """See :class:`proxy.front.turns.Working`."""
        if not self._gone:
            self._dialogue.go_on()
            self._after()

    def decide(self, recipient: bytes, argument: bytes) -> Reply | Pending:
        if self._owed > _OWED_MAX:
            self.limit_reached("waiting_recipients")
            return replies.TOO_MANY_WAITING
        sender, trust = self._dialogue.transaction.sender, self._relayclient
        question = Question(
            recipient, sender, self._client, trust, self._since, False, self._facts
        )
        verdict = self._engine.ask(question)
        self._since = time.monotonic()
        if isinstance(verdict, Verdict):
            return decide_now(self, recipient, verdict)
        waiting = decide_later(self, recipient, verdict)
        self._task = self._door.loop.create_task(waiting)
        return Pending.LATER

    def _facts(self) -> Facts:
        return facts_of(self)

    def relay_recipient(self, argument: bytes) -> None:
        conversation = self._conversation
        assert conversation is not None  # by served()
        argument = self._instead or argument
        self._arguments.append(argument)
        self._owed += len(argument)
        dialogue = self._dialogue
        mail = dialogue.transaction.mail or b""
        conversation.recipient(dialogue.helo, mail, argument)

    def relay_data(self) -> None:
        self._message_began = self._door.loop.time()
        if self._engine.stages:
            self._task = self._door.loop.create_task(before_data(self))
        else:
            self.pass_data(b"")

    def pass_data(self, header: bytes) -> None:
        """DATA, for the backend; ``header`` goes on top of the message."""
        assert self._conversation is not None
        received = received_of(self) if self._door.settings.received else b""
        self._conversation.data(received + header)

    def relay_body(self, piece: bytes) -> None:
        assert self._conversation is not None
        self._conversation.body(piece)

    def relay_end(self, piece: bytes) -> None:
        assert self._conversation is not None
        self._conversation.end(piece)

    def relay_abort(self) -> None:
        self._forget_arguments()
        self._blocked = False
        if self._conversation is not None:
            self._conversation.abort()

    def message_refused(self, reply: Reply) -> None:
        reason = REFUSED_FOR.get(reply, "the backend said so before its end")
        self._report_message(outcome_of(reply), reply.text, reason)

    def limit_reached(self, limit: str) -> None:
        self._door.observer(LimitHit(self._id, self._client, limit))

    def close(self, why: str) -> None:
        """The dialogue is over: all replies are written."""
        if not self._gone:
            self._why = why
            self._gone = True
            self._end()
            self.shut()

    def shut(self) -> None:
        """Close the connection when the client has read what it was told; it has a
        place, and counts, until then."""
        transport = self._socket
        self._door.writes.now(transport)
        transport.close()
        self.deadline = self._door.now + _LINGER
        if transport.get_write_buffer_size() > _UNREAD_MAX:
            transport.abort()

    # Listener: what the conversation answers.

    def recipient_answered(self, reply: Reply) -> None:
        argument = self._arguments.popleft()
        self._owed -= len(argument)
        if not reply.positive:
            if reply.code == 550 and self._relayclient is None:
                self._door.guessed(self._id, self._client, reply)
            event = BackendRefusedRecipient(
                self._id, self._client, read_path(argument), reply.text, self._backend
            )
            self._door.observer(event)
        self._dialogue.recipient_answered(reply)
        self._after()

    def data_answered(self, reply: Reply) -> None:
        if reply.code != 354:
            self._report_message(outcome_of(reply), reply.text, "at DATA")
        else:
            self._pace = self._door.pace()
        self._dialogue.data_answered(reply)
        self._after()

    def message_answered(self, reply: Reply) -> None:
        self._report_message(outcome_of(reply), reply.text, "")
        if reply.positive:
            self._door.delivered(self._client)
        if self._gone:
            self._part()
        else:
            self._dialogue.message_answered(reply)
            self._after()
            if self._door.now >= self._oldest and not self._dialogue.in_transaction:
                self.time_out()  # nothing is open

    def relay_failed(self, reply: Reply, step: str, why: str) -> None:
        self._forget_arguments()
        self._blocked = False
        if self._task is not None and self._dialogue.state is State.ASKING:
            self._task.cancel()  # nobody wants to know any more
            self._task = None
        self.backend_passed_over(step, why)
        if step == FINAL_DOT:  # whatever became of the client meanwhile
            self._report_message("unknown", reply.text, why)
        elif self._dialogue.state is State.ENDED:  # but the dot was not sent
            self._report_message(outcome_of(reply), reply.text, why)
        if self._gone:
            self._part()
        else:
            self._dialogue.relay_failed(reply)
            self._after()

    def backend_passed_over(self, step: str, why: str) -> None:
        self._door.observer(BackendFailed(self._id, self._backend, step, why))

    def relay_blocked(self) -> None:
        self._blocked = True
        self._flow()

    def relay_writable(self) -> None:
        if self._blocked:
            self._blocked = False
            self._flow()

    def _converse(self) -> Conversation:
        group = self._door.backends.default
        self._conversation = Conversation(group, self, client_of(self))
        return self._conversation

    @property
    def _backend(self) -> str:
        return str(self._conversation.backend) if self._conversation else ""

    # Inside: what became of messages.

    def _report_message(self, outcome: str, reply: str, reason: str) -> None:
        if outcome == "accepted":
            self._messages += 1
        transaction = self._dialogue.transaction
        self._door.observer(
            MessageEnded(
                self._id,
                self._client,
                transaction.sender,
                transaction.accepted,
                transaction.message_size,
                outcome,
                reply,
                reason,
                not self._gone,
                self._door.loop.time() - self._message_began,
                self._backend,
            )
        )

    # Inside: the connection.

    def _after(self) -> None:
        """What has to be seen to whenever the dialogue has moved."""
        if self._gone:
            return
        self._set_deadline()
        if self._blocked or not self._reading or self._dialogue.held:
            self._flow()
        if self._eof and not self._dialogue.waiting:
            over = self._handshake is None
            self._client_left()  # to us it has
            if over:
                self.shut()

    def _set_deadline(self) -> None:
        dialogue = self._dialogue
        if not (dialogue.waiting or self._blocked):
            self.deadline = deadline(dialogue, self._door, self._oldest, self._pace)
        elif self._held is None:
            self.deadline = _NEVER  # the backend's deadlines hold

    def _flow(self) -> None:
        """Read from the client only what can be passed on or held."""
        reading = not self._blocked and self._dialogue.held <= _HELD_MAX
        if reading is not self._reading and not (self._gone or self._handshake):
            self._reading = reading
            if reading:
                self._socket.resume_reading()
            else:
                self._socket.pause_reading()
            if self._pace is not None:
                self._pace.read(self._door.now, reading)
            self._set_deadline()

    def _finish(self, reply: Reply, why: str) -> None:
        """End from our side with ``reply``."""
        if self._handshake is not None:
            self._tls_failed(why, why)
            return
        state = self._dialogue.state
        if state is State.MESSAGE or state is State.REFUSED:
            self._report_message("aborted", reply.text, why)
        self._dialogue.end(reply, why)

    def _forget_arguments(self) -> None:
        self._arguments.clear()
        self._owed = 0

    def _free(self) -> None:
        """The descriptor is closed, or will be in this turn: give the place back, and
        leave no cycle behind for the collector to find."""
        self._door.leave(self, self._client)
        self._dialogue.leave()
        self._socket = None
        if self._conversation is not None and not self._conversation.open:
            self._part()

    def _part(self) -> None:
        """The conversation has nothing more to tell, and the client has left."""
        if self._conversation is not None and self._socket is None:
            self._conversation.forget()
            self._conversation = None

    def _end(self) -> None:
        """The session is over, whoever ended it."""
        door = self._door
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._conversation is not None:
            self._conversation.leave()
        door.observer(
            Disconnected(
                self._id,
                self._client,
                self._why,
                door.loop.time() - self._began,
                self._recipients,
                self._refused,
                self._messages,
            )
        )
