"""One client connection: the one subclass of aiosmtpd's ``SMTP``.

Knows: the transport, flow control in both directions, who is told what
happened.  Knows not: SMTP (the dialogue does), rules, the backend's protocol.

aiosmtpd's own loop of one task, one timer and several writes a command is not
used; nor is its constructor, whose work is the same for every connection
(introspection of handlers, a stream reader, the resolver).  docs/performance.md
has the measurements.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

from aiosmtpd.smtp import SMTP

from proxy.backend.client import Client, Variables, without_relayclient
from proxy.backend.conversation import Conversation
from proxy.front.admission import Admit
from proxy.front.authenticated import Authenticated
from proxy.front.deadlines import REPLIES, deadline, latest, overdue
from proxy.front.door import Door
from proxy.front.elsewhere import ELSEWHERE
from proxy.front.encrypted import Encrypted
from proxy.front.outcome import REFUSED_FOR, outcome_of
from proxy.front.pace import Pace
from proxy.front.proxied import HeaderPhase
from proxy.observe.events import (
    BackendFailed,
    BackendRefusedRecipient,
    Connected,
    Disconnected,
    LimitHit,
    MessageEnded,
    RecipientDecided,
)
from proxy.rules.verdict import Kind, Question, Verdict
from proxy.smtp import replies
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.driver import Pending
from proxy.smtp.path import read_path
from proxy.smtp.received import protocol_name, received_line
from proxy.smtp.reply import Reply
from proxy.smtp.state import BY_LINE, State

# Input held while an answer is awaited; beyond it, the client is not read.
_HELD_MAX = 65536
_NEVER = float("inf")


class Session(Authenticated, Encrypted, SMTP):
    """Feeds a :class:`Dialogue` and does what it asks for.

    ``deadline`` is loop time in seconds by which the client must act.
    """

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
        self._arguments: list[bytes] = []
        self._recipients = self._refused = self._messages = 0
        self._message_began = 0.0
        self._oldest = _NEVER  # when the session is too old
        self._pace: Pace | None = None  # of the message
        self._held: Reply | None = None  # until the deadline: a guesser's refusal
        # What is decided must be newer than what the client was told last.
        self._since = time.monotonic()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        door = self._door
        self._socket = transport
        peer = transport.get_extra_info("peername")
        client = peer[0] if peer else ""
        if door.proxied and client in door.settings.proxies:
            refusal = door.full(client)
            if refusal is not None:
                self._turn_away(refusal)
            else:
                HeaderPhase(door, self, transport, client)
            return
        self.enter(client)

    def enter(
        self,
        client: str,
        ends: Client | None = None,
        *,
        by_proxy: bool = False,
        received: bytes = b"",
    ) -> None:
        """Begin with ``client``.  ``by_proxy``: a proxy has connected, and says
        that ``ends`` are the client's; without ``ends``, it speaks for itself or
        for it knows not whom, who then may not relay.  ``received`` came first."""
        door = self._door
        self._client, self._ends = client, ends
        known = ends is not None or not by_proxy
        refusal = door.enter(self, client, capped=known)
        if refusal is not None:
            self._turn_away(refusal)
            return
        self._relayclient = door.relayclient(client)
        admit = door.settings.admit
        if admit is not None and not self._admitted(admit):
            return
        if not known:  # whatever the proxy itself may
            self._relayclient = None
            self._variables = without_relayclient(self._variables)
        self._dialogue.auth_offered = door.backends.auth_offered
        self._id = door.next_id()
        self._began = door.loop.time()
        self._oldest = door.oldest()
        door.observer(Connected(self._id, self._client))
        if self.implicit:
            self._dialogue.state = State.SWITCHING
            self.start_tls(0, received)
            received = b""
        else:
            self._dialogue.start()
        self._set_deadline()
        if received:
            self.data_received(received)

    def _turn_away(self, refusal: Reply) -> None:
        self._gone = True
        if not self.implicit:
            self._socket.write(refusal.wire)
        self._socket.close()

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
        if self._held is None and self.deadline != _NEVER:
            self.deadline = min(self.deadline, latest(self._dialogue, self._door))

    def shut_down(self, *, now: bool) -> bool:
        """End the session if nothing is under way, or in any case if ``now``;
        whether it is ended."""
        if not now and self._dialogue.in_transaction:
            return False
        self._finish(replies.SHUTTING_DOWN, "shutdown")
        return True

    # Driver: what the dialogue asks for.

    def send(self, data: bytes) -> None:
        if not self._gone:
            self._socket.write(data)

    def decide(self, recipient: bytes, argument: bytes) -> Reply | Pending:
        sender, trust = self._dialogue.sender, self._relayclient
        question = Question(recipient, sender, self._client, trust, self._since, False)
        verdict = self._engine.ask(question)
        self._since = time.monotonic()
        if isinstance(verdict, Verdict):
            return self._decided(recipient, verdict)
        self._task = self._door.loop.create_task(self._await(recipient, verdict))
        return Pending.LATER

    def relay_recipient(self, argument: bytes) -> None:
        conversation = self._conversation
        assert conversation is not None  # by _served
        self._arguments.append(argument)
        dialogue = self._dialogue
        conversation.recipient(dialogue.helo, dialogue.mail_argument or b"", argument)

    def relay_data(self) -> None:
        assert self._conversation is not None
        self._message_began = self._door.loop.time()
        self._conversation.data(
            self._received() if self._door.settings.received else b""
        )

    def relay_body(self, piece: bytes) -> None:
        assert self._conversation is not None
        self._conversation.body(piece)

    def relay_end(self, piece: bytes) -> None:
        assert self._conversation is not None
        self._conversation.end(piece)

    def relay_abort(self) -> None:
        self._arguments.clear()
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
            self._door.shut(self._socket)
            self._end()

    # Listener: what the conversation answers.

    def recipient_answered(self, reply: Reply) -> None:
        argument = self._arguments.pop(0)
        if not reply.positive:
            if reply.code == 550 and not self._authenticated:
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
        if not self._gone:
            self._dialogue.message_answered(reply)
            self._after()
            if self._door.now >= self._oldest and not self._dialogue.in_transaction:
                self.time_out()  # nothing is open

    def relay_failed(self, reply: Reply, step: str, why: str) -> None:
        self._arguments.clear()
        self._blocked = False  # there is nothing left to wait for
        self.backend_passed_over(step, why)
        state = self._dialogue.state
        if state is State.ENDED:
            self._report_message("unknown", reply.text, why)
        if not self._gone:
            self._dialogue.relay_failed(reply)
            self._after()

    def backend_passed_over(self, step: str, why: str) -> None:
        self._door.observer(BackendFailed(self._id, self._backend, step, why))

    def relay_blocked(self) -> None:
        self._blocked = True
        self._flow()

    def relay_writable(self) -> None:
        self._blocked = False
        self._flow()

    def _converse(self) -> Conversation:
        self._conversation = Conversation(
            self._door.backends.default, self, self._who()
        )
        return self._conversation

    def _who(self) -> Client:
        """Both ends of the connection; asked for when a backend is needed."""
        client = self._ends or self._socket_ends()
        variables = self._variables
        if self._relayclient is not None:
            variables = (*variables, (b"RELAYCLIENT", self._relayclient))
        return client._replace(variables=variables, extended=self._dialogue.extended)

    def _socket_ends(self) -> Client:
        ends: list[Any] = []
        for name in ("peername", "sockname"):
            end = self._socket.get_extra_info(name)
            ends += end[:2] if isinstance(end, tuple) else ("", 0)
        return Client(*ends)

    def _admitted(self, admit: Admit) -> bool:
        """Take what tcp.smtp says of the client; false if it is turned away."""
        admission = admit(self._client)
        if admission.refused:
            self._gone = True
            self._door.turn_away(self, self._client, admission.refused)
            if not self.implicit:
                self._socket.write(admission.reply.wire)
            self._door.shut(self._socket)
            return False
        self._variables = admission.variables
        relayclient = admission.relayclient
        if relayclient is not None:
            self._relayclient = relayclient
        return True

    # Inside: verdicts.

    async def _await(self, recipient: bytes, verdict: Awaitable[Verdict]) -> None:
        decided = self._decided(recipient, await verdict)
        self._task = None
        if not self._gone and decided is not Pending.LATER:
            self._dialogue.decided(decided)
            self._after()

    def _decided(self, recipient: bytes, verdict: Verdict) -> Reply | Pending:
        dialogue = self._dialogue
        if verdict.kind is Kind.ACCEPT and not self._served(recipient):
            verdict = ELSEWHERE
        self._recipients += 1
        self._door.observer(
            RecipientDecided(
                self._id,
                self._client,
                dialogue.helo,
                dialogue.sender,
                recipient,
                verdict.kind.value,
                verdict.observed.value if verdict.observed else "",
                verdict.undecided,
                verdict.rule,
                verdict.reason,
                verdict.reply.text,
            )
        )
        if verdict.kind is Kind.ACCEPT:
            return Pending.ACCEPTED
        self._refused += 1
        if verdict.kind is Kind.REJECT and not verdict.gate:
            return self._guessed(verdict.reply)
        return verdict.reply

    def _guessed(self, refusal: Reply) -> Reply | Pending:
        """The refusal of somebody who may be guessing: now, later, or 421."""
        if self._authenticated:
            return refusal  # it writes to whom it will
        door = self._door
        reply, delay = door.guessed(self._id, self._client, refusal)
        if not delay or self._conversation is not None:
            return reply  # nobody waits with a connection to the backend
        self._held = reply
        self.deadline = door.now + delay
        return Pending.LATER

    def _served(self, recipient: bytes) -> bool:
        """Have the transaction served by the recipient's backends; ``False``
        if it has recipients at others."""
        group, conversation = self._door.backends.group(recipient), self._conversation
        if conversation is None:
            self._conversation = Conversation(group, self, self._who())
            return True
        if group is conversation.group or self._authenticated:
            return True  # nobody else would know who the client is
        if not conversation.turn_to(group):
            return False
        if not self._dialogue.accepted:
            self._dialogue.broken = None  # those that failed are not asked again
        return True

    @property
    def _backend(self) -> str:
        return str(self._conversation.backend) if self._conversation else ""

    # Inside: messages.

    def _received(self) -> bytes:
        return received_line(
            helo=self._dialogue.helo,
            client=self._client,
            hostname=self._door.hostname,
            protocol=protocol_name(
                extended=self._dialogue.extended,
                tls=bool(self._tls),
                authenticated=self._authenticated,
            ),
            tls=self._tls,
            user=self._user,
            session=self._id,
            when=datetime.now(UTC),
        )

    def _report_message(self, outcome: str, reply: str, reason: str) -> None:
        if outcome == "accepted":
            self._messages += 1
        dialogue = self._dialogue
        self._door.observer(
            MessageEnded(
                self._id,
                self._client,
                dialogue.sender,
                dialogue.accepted,
                dialogue.message_size,
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
            if self._handshake is not None:
                self._tls_failed("the client left")
                return
            self._gone = True
            if self._dialogue.state not in BY_LINE:
                self._report_message("aborted", "", "the client left before the dot")
            self._door.shut(self._socket)
            self._end()

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
        door.leave(self, self._client)
