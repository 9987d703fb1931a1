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

from proxy.backend.client import Client
from proxy.backend.conversation import Conversation
from proxy.front.door import Door
from proxy.front.outcome import REFUSED_FOR, outcome_of
from proxy.front.proxied import HeaderPhase
from proxy.observe.events import (
    AuthEnded,
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
from proxy.smtp.state import State

# Input held while an answer is awaited; beyond it, the client is not read.
_HELD_MAX = 65536
_NEVER = float("inf")
# A line of the client's is awaited, and half a one buys no time.
_BY_LINE = (State.COMMAND, State.AUTH)
_BUDGETS = ("unknown_per_session", "auth_failures")


class Session(SMTP):
    """Feeds a :class:`Dialogue` and does what it asks for.

    ``deadline`` is loop time in seconds by which the client must act.
    """

    def __init__(self, door: Door) -> None:  # not SMTP's: see the module
        self.deadline = _NEVER
        self._door = door
        self._dialogue = Dialogue(self, door.banner, door.settings.session)
        self._engine = door.engine
        self._conversation: Conversation | None = None
        self._socket: Any = None  # asyncio.Transport, of either loop
        self._client = ""
        self._ends: Client | None = None
        self._relayclient: bytes | None = None
        self._authenticated, self._user = False, b""
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
        # What is decided must be newer than what the client was told last.
        self._since = time.monotonic()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        door = self._door
        self._socket = transport
        peer = transport.get_extra_info("peername")
        client = peer[0] if peer else ""
        if door.proxied and client in door.settings.proxies:
            if door.full(client):
                self._turn_away()
            else:
                HeaderPhase(door, self, transport, client)
            return
        self.enter(client)

    def enter(
        self, client: str, ends: Client | None = None, *, by_proxy: bool = False
    ) -> None:
        """Begin with ``client``.  ``by_proxy``: a proxy has connected, and says
        that ``ends`` are the client's; without ``ends``, it speaks for itself or
        for it knows not whom, who then may not relay."""
        door = self._door
        self._client, self._ends = client, ends
        known = ends is not None or not by_proxy
        if door.enter(self, client, capped=known):
            self._turn_away()
            return
        self._relayclient = door.relayclient(client) if known else None
        self._dialogue.auth_offered = door.backend.auth_offered
        self._id = door.next_id()
        self._began = door.loop.time()
        door.observer(Connected(self._id, self._client))
        self._dialogue.start()
        self._set_deadline()

    def _turn_away(self) -> None:
        self._gone = True
        closing = self._door.closing
        full = replies.SHUTTING_DOWN if closing else replies.TOO_MANY_CONNECTIONS
        self._socket.write(full.wire)
        self._socket.close()

    def data_received(self, data: bytes) -> None:
        if self._gone:
            return
        dialogue = self._dialogue
        dialogue.receive(data)
        # A part of a command buys no time; of a message, it does.
        whole = b"\n" in data
        if dialogue.idle and self._reading and not (self._blocked or self._eof):
            if whole:  # most often
                self.deadline = self._door.command_deadline
            return
        deadline = self.deadline
        self._after()
        if not whole and dialogue.state in _BY_LINE:
            self.deadline = deadline

    def eof_received(self) -> bool:
        """The client sends no more; it may still read (RFC 5321 has no rule
        against it, and ``nc`` does it)."""
        self._eof = True
        self._after()
        return not self._gone

    def connection_lost(self, error: Exception | None) -> None:
        if self._gone:
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
        self._finish(replies.IDLE, "timeout")

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
        if conversation is None:
            conversation = self._converse()
        self._arguments.append(argument)
        dialogue = self._dialogue
        conversation.recipient(dialogue.helo, dialogue.mail_argument or b"", argument)

    def relay_auth(self, line: bytes) -> None:
        conversation = self._conversation or self._converse()
        conversation.authenticate(self._dialogue.helo, line)

    def auth_ended(
        self, mechanism: bytes, outcome: str, reply: Reply, user: bytes
    ) -> None:
        if outcome == "accepted":
            self._authenticated, self._user = True, user
            self._relayclient = b""  # as the backend's own patch does
        self._door.observer(
            AuthEnded(self._id, self._client, mechanism, outcome, reply.code, user)
        )

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

    def close(self, why: str) -> None:
        """The dialogue is over: all replies are written."""
        if not self._gone:
            self._why = why
            if why in _BUDGETS:
                self._door.observer(LimitHit(self._id, self._client, why))
            self._gone = True
            self._door.shut(self._socket)
            self._end()

    # Listener: what the conversation answers.

    def recipient_answered(self, reply: Reply) -> None:
        argument = self._arguments.pop(0)
        if not reply.positive:
            self._door.observer(
                BackendRefusedRecipient(
                    self._id, self._client, read_path(argument), reply.text
                )
            )
        self._dialogue.recipient_answered(reply)
        self._after()

    def auth_answered(self, reply: Reply) -> None:
        self._dialogue.auth_answered(reply)
        self._after()

    def data_answered(self, reply: Reply) -> None:
        if reply.code != 354:
            self._report_message(outcome_of(reply), reply.text, "at DATA")
        self._dialogue.data_answered(reply)
        self._after()

    def message_answered(self, reply: Reply) -> None:
        self._report_message(outcome_of(reply), reply.text, "")
        if not self._gone:
            self._dialogue.message_answered(reply)
            self._after()

    def relay_failed(self, reply: Reply, step: str, why: str) -> None:
        self._arguments.clear()
        self._blocked = False  # there is nothing left to wait for
        backend = str(self._door.backend.settings)
        self._door.observer(BackendFailed(self._id, backend, step, why))
        state = self._dialogue.state
        if state is State.ENDED:
            self._report_message("unknown", reply.text, why)
        if not self._gone:
            self._dialogue.relay_failed(reply)
            self._after()

    def relay_blocked(self) -> None:
        self._blocked = True
        self._flow()

    def relay_writable(self) -> None:
        self._blocked = False
        self._flow()

    def _converse(self) -> Conversation:
        self._conversation = Conversation(self._door.backend, self, self._who())
        return self._conversation

    def _who(self) -> Client:
        """Both ends of the connection; asked for when a backend is needed."""
        if self._ends is not None:
            return self._ends
        ends: list[Any] = []
        for name in ("peername", "sockname"):
            end = self._socket.get_extra_info(name)
            ends += end[:2] if isinstance(end, tuple) else ("", 0)
        return Client(*ends)

    # Inside: verdicts.

    async def _await(self, recipient: bytes, verdict: Awaitable[Verdict]) -> None:
        decided = self._decided(recipient, await verdict)
        self._task = None
        if not self._gone:
            self._dialogue.decided(decided)
            self._after()

    def _decided(self, recipient: bytes, verdict: Verdict) -> Reply | Pending:
        dialogue = self._dialogue
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
        return verdict.reply

    # Inside: messages.

    def _received(self) -> bytes:
        return received_line(
            helo=self._dialogue.helo,
            client=self._client,
            hostname=self._door.hostname,
            protocol=protocol_name(
                extended=self._dialogue.extended,
                tls=self._dialogue.tls,
                authenticated=self._authenticated,
            ),
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
            self._gone = True
            if self._dialogue.state not in _BY_LINE:
                self._report_message("aborted", "", "the client left before the dot")
            self._door.shut(self._socket)
            self._end()

    def _set_deadline(self) -> None:
        dialogue = self._dialogue
        if dialogue.waiting:
            self.deadline = _NEVER  # the backend's deadlines hold
            return
        door = self._door
        if dialogue.state in _BY_LINE:
            self.deadline = door.command_deadline
        else:
            limit = door.settings.data_timeout
            self.deadline = door.now + limit if limit else _NEVER

    def _flow(self) -> None:
        """Read from the client only what can be passed on or held."""
        reading = not self._blocked and self._dialogue.held <= _HELD_MAX
        if reading is not self._reading and not self._gone:
            self._reading = reading
            if reading:
                self._socket.resume_reading()
            else:
                self._socket.pause_reading()

    def _finish(self, reply: Reply, why: str) -> None:
        """End from our side with ``reply``."""
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
