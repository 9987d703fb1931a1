"""One client session's conversation with the backend.

Knows: when a connection is wanted (late), what goes out together, which of the
backend's answers may be passed on, when a lost connection may be replaced
without anybody noticing.  Knows not: the client's side (the ``Listener`` does),
where the connection comes from and what it is replaced by
(:mod:`proxy.backend.link`).
One conversation is made per session, and outlives it while an answer to a
final dot is awaited.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import cast

from proxy.backend import identity
from proxy.backend.accepted import Accepted
from proxy.backend.channel import FINAL_DOT
from proxy.backend.choice import Group
from proxy.backend.client import Client
from proxy.backend.greeting import answer_to, is_refusal
from proxy.backend.link import Link
from proxy.backend.listener import Listener
from proxy.backend.pool import Backend
from proxy.smtp import replies
from proxy.smtp.command import for_backend
from proxy.smtp.reply import Reply


class _Step(enum.Enum):
    """Where the backend stands in a transaction."""

    IDLE = "idle"  # nothing begun, or everything complete
    AUTH = "AUTH"  # an exchange is under way
    ENVELOPE = "envelope"  # MAIL was sent
    DATA = "DATA"  # DATA was sent, 354 is awaited
    MESSAGE = "message"  # 354 was given
    DOT = "final dot"  # the dot was sent


class Conversation:
    """Implements the ``relay_`` requests of the dialogue."""

    __slots__ = (
        "_accepted",
        "_asked",
        "_auth",
        "_authenticated",
        "_client",
        "_left",
        "_link",
        "_listener",
        "_mail",
        "_mail_refusal",
        "_prefix",
        "_promised",
        "_repeated",
        "_step",
    )

    def __init__(self, group: Group, listener: Listener, client: Client | None) -> None:
        self._link = Link(self, group, listener, client)
        self._client = client
        self._listener = listener
        self._mail = b""
        self._asked: deque[bytes] = deque()
        self._promised = False  # a recipient of this transaction was accepted
        self._accepted = Accepted()
        self._repeated = 0  # so many of the asked ones were accepted before
        self._mail_refusal: Reply | None = None
        self._prefix = b""
        self._auth: bytes | None = None  # the command, until it can be sent
        self._authenticated = False
        self._left = False
        self._step = _Step.IDLE

    @property
    def backend(self) -> Backend:
        """The one that is spoken to, or was last."""
        return self._link.backend

    @property
    def group(self) -> Group:
        """The backends that may serve what comes."""
        return self._link.group

    # Requests.

    def know(self, client: Client) -> None:
        """More is known of the client now; programs that are started for its next
        transactions are told."""
        self._client = client
        self._link.know(client)

    def turn_to(self, group: Group) -> bool:
        """Have what comes served by ``group``; ``False`` while the transaction
        that is under way may have a recipient at another one."""
        if self._asked or self._promised:
            return False
        self._let_go()
        self._forget_transaction()
        self._link.group = group
        return True

    def recipient(self, helo: bytes, mail: bytes, argument: bytes) -> None:
        """Tell the backend of a recipient; ``mail`` and ``argument`` are the
        client's own arguments of MAIL and RCPT."""
        self._asked.append(argument)
        link = self._link
        if link.channel is None:
            if not link.opening:
                self._mail = mail
                self._open(helo)
        elif link.ready:
            if self._step is _Step.IDLE:  # authenticated: else it was given back
                self._mail = mail
                self._send_envelope()
            else:
                self._ask((self._rcpt(argument), self._rcpt_answered))

    def authenticate(self, helo: bytes, line: bytes) -> None:
        """Pass on AUTH, or a line of the exchange.

        The connection is a new one, and from now on this client's alone.
        """
        link = self._link
        channel = link.channel
        if channel is not None:
            if channel.private and not channel.reset_first:
                self._send_auth(line)
                return
            link.give_back()
        self._auth = line
        if link.opening:
            link.helo = helo
        else:
            self._open(helo)

    def data(self, prefix: bytes) -> None:
        """Ask for 354; ``prefix`` goes before the message's own bytes."""
        self._prefix = prefix
        if self._mail_refusal is not None or self._link.channel is None:
            self._listener.data_answered(self._mail_refusal or replies.BACKEND_LOST)
            return
        self._step = _Step.DATA
        self._ask((b"DATA", self._data_answered))

    def body(self, piece: bytes) -> None:
        """Bytes of the message."""
        channel = self._link.channel
        if channel is not None:
            channel.write(self._take_prefix() + piece)

    def end(self, piece: bytes) -> None:
        """The message's last bytes and the final dot."""
        channel = self._link.channel
        assert channel is not None
        if channel.replying:  # not to our dot, and its end would pass for that
            channel.drop("message: a reply has begun that nobody asked for")
            return
        self._step = _Step.DOT
        self._link.expect(self.backend.settings.final_timeout)
        channel.end_message(self._take_prefix() + piece, self._message_answered)

    def abort(self) -> None:
        """Give the transaction up; nothing that was asked is told any more."""
        self._asked.clear()
        link, channel = self._link, self._link.channel
        if channel is not None:
            if self._step is _Step.ENVELOPE and channel.usable:
                channel.reset_first = True
            else:
                link.discard()
        self._forget_transaction()
        self._rest()

    @property
    def open(self) -> bool:
        """Whether the listener is still to hear of something."""
        return self._step is _Step.DOT

    def forget(self) -> None:
        """Nobody listens any more; no cycle is left behind."""
        self._listener = cast(Listener, None)
        self._link.part()

    def leave(self) -> None:
        """The client's session is over."""
        self._left = True
        self._auth = None
        if self._step is not _Step.DOT:  # its answer is waited for, and logged
            self._let_go()

    # The channel's owner.

    def channel_blocked(self) -> None:
        # Every other step has its own time already, which holds however slowly
        # its bytes go out.
        if self._step is _Step.MESSAGE:
            self._link.expect(self.backend.settings.data_timeout)
        self._listener.relay_blocked()

    def channel_writable(self) -> None:
        if self._step is _Step.MESSAGE:
            self._link.expect(float("inf"))
        self._listener.relay_writable()

    def channel_lost(self, why: str, said: Reply | None) -> None:
        step, channel = self._step, self._link.channel
        if step is _Step.DOT and channel is not None and channel.cut_short:
            step = _Step.MESSAGE  # the dot, the last of it, was not sent
        self._link.forget()
        if step is _Step.IDLE and not self.waiting:
            if self._authenticated:
                self._fail(replies.BACKEND_LOST, step.value, why)
            return  # between two transactions: the next one opens another
        answer = replies.BACKEND_LOST
        if step is _Step.MESSAGE and said is not None and is_refusal(said):
            answer = said  # it has read enough of the message; no dot is sent
        self._lost(answer, step.value, why)

    # The link's owner.

    @property
    def waiting(self) -> bool:
        return bool(self._asked) or self._auth is not None

    def link_ready(self) -> None:
        line, self._auth = self._auth, None
        if line is not None:
            self._send_auth(line)
        elif self._asked:
            self._send_envelope()
        else:
            self._rest()

    def link_trouble(self, answer: Reply, step: str, why: str) -> None:
        if answer.permanent and self._link.fresh:  # the client itself is refused
            self._fail(answer, step, why)
        else:
            self._lost(answer, step, why)

    def link_failed(self, answer: Reply, step: str, why: str) -> None:
        self._fail(answer, step, why)

    def _open(self, helo: bytes) -> None:
        """Another connection would not know who the client is that has
        authenticated."""
        if self._authenticated:
            why = "the connection that was authenticated is gone"
            self._fail(replies.BACKEND_LOST, _Step.AUTH.value, why)
        else:
            self._link.open(helo, alone=self._auth is not None)

    def _rest(self) -> None:
        """No transaction is open: the connection is for others, unless it is
        this client's by authentication."""
        if self._step is not _Step.IDLE or self._authenticated:
            self._link.expect(float("inf"))
        else:
            self._link.rest()

    def _let_go(self) -> None:
        complete = self._step not in (_Step.AUTH, _Step.MESSAGE)
        if self._step is _Step.ENVELOPE and self._link.channel is not None:
            self._link.channel.reset_first = True
        self._link.let_go(complete=complete)

    # Inside: authentication.

    def _send_auth(self, line: bytes) -> None:
        channel = self._link.channel
        assert channel is not None
        self._step = _Step.AUTH
        self._link.expect(self.backend.settings.command_timeout)
        channel.ask_secretly(line, self._auth_answered)

    def _auth_answered(self, reply: Reply) -> None:
        self._link.expect(float("inf"))
        if reply.code == 235:
            self._authenticated = True
        elif reply.code != 334 and not is_refusal(reply):
            self._confused("AUTH", reply)
            return
        if reply.code != 334:
            self._step = _Step.IDLE
            self._rest()
        self._listener.auth_answered(reply)

    # Inside: the envelope.

    def _send_envelope(self) -> None:
        channel = self._link.channel
        assert channel is not None
        self._step = _Step.ENVELOPE
        # AUTH= is for servers that trust who says it (RFC 4954 §5).
        offered = channel.offered
        if b"AUTH" in offered and not self._authenticated:
            offered = offered - {b"AUTH"}
        commands = [(for_backend(b"MAIL", self._mail, offered), self._mailed)]
        if channel.reset_first:
            channel.reset_first = False
            commands.insert(0, (b"RSET", self._reset_answered))
        if channel.identity and self._client is not None and not channel.introduced:
            told = identity.xforward(self._client, self._link.helo, channel.identity)
            commands.insert(len(commands) - 1, (told, self._forwarded))
        commands += [(self._rcpt(rcpt), self._rcpt_answered) for rcpt in self._asked]
        self._ask(*commands)

    def _rcpt(self, argument: bytes) -> bytes:
        return for_backend(b"RCPT", argument, ())

    def _reset_answered(self, reply: Reply) -> None:
        if not reply.positive:
            self._confused("RSET", reply)

    def _forwarded(self, reply: Reply) -> None:
        """Only the backend's log knows less if it is refused."""
        if not reply.positive and not is_refusal(reply):
            self._confused("XFORWARD", reply)

    def _mailed(self, reply: Reply) -> None:
        if reply.positive:
            return
        if not is_refusal(reply):
            self._confused("MAIL", reply)
        elif self._doubtful(reply):
            self._ask_anew("MAIL", reply)
        else:
            self._mail_refusal = reply

    def _rcpt_answered(self, reply: Reply) -> None:
        if self._mail_refusal is not None:
            reply = self._mail_refusal  # it says 503, MAIL was the reason
        repeated = self._repeated > 0
        if not (reply.positive or is_refusal(reply)) or (
            repeated and not reply.positive
        ):
            self._confused("RCPT", reply)
            return
        if self._doubtful(reply):
            if self._accepted.complete:
                self._ask_anew("RCPT", reply)
                return
            reply = replies.OTHER_TRANSACTION  # which cannot be asked here
        argument = self._asked.popleft()
        if reply.positive:
            self._promised = True
            if not (self._link.fresh or self._authenticated):
                self._accepted.add(argument)
        if not self._asked:
            self._link.expect(float("inf"))
        if repeated:
            self._repeated -= 1
        else:
            self._listener.recipient_answered(reply)

    def _doubtful(self, reply: Reply) -> bool:
        """Whether it is a refusal for good over a used connection: qmail-smtpd knows
        its control files as they were when it started, and tcpserver's rules as they
        were when it was connected to."""
        return reply.permanent and not (self._link.fresh or self._authenticated)

    def _ask_anew(self, step: str, reply: Reply) -> None:
        """Have a refusal confirmed by a new connection.  Recipients that were accepted
        already are told again."""
        link, accepted = self._link, self._accepted.arguments
        link.discard()
        self._forget_transaction()
        self._asked.extendleft(reversed(accepted))
        self._repeated = len(accepted)
        link.replace(step, f"asked again, after: {reply.text}")

    # Inside: the message.

    def _data_answered(self, reply: Reply) -> None:
        self._link.expect(float("inf"))
        if reply.code == 354:
            self._step = _Step.MESSAGE
        elif is_refusal(reply):
            assert self._link.channel is not None
            self._link.channel.reset_first = True
            self._forget_transaction()
            self._rest()
        else:
            self._confused("DATA", reply)
            return
        self._listener.data_answered(reply)

    def _message_answered(self, reply: Reply) -> None:
        channel = self._link.channel
        assert channel is not None
        if channel.sending:
            # It has not read our dot: no is no, but nothing has been taken.
            self._link.discard()
            if not is_refusal(reply):
                why = f"the backend answered before it had the dot: {reply.text}"
                self._fail(answer_to(reply), _Step.MESSAGE.value, why)
                return
        elif not (reply.positive or is_refusal(reply)):
            self._confused(FINAL_DOT, reply)
            return
        self._forget_transaction()
        if self._left:
            self._link.give_back()
        else:
            self._rest()
        self._listener.message_answered(reply)

    def _take_prefix(self) -> bytes:
        prefix, self._prefix = self._prefix, b""
        return prefix

    # Inside: trouble.

    def _confused(self, step: str, reply: Reply) -> None:
        """An answer that does not belong here: the connection is not trusted
        any more, and the client is told "later"."""
        self._link.discard()
        self._lost(answer_to(reply), step, f"the backend said: {reply.text}")

    def _lost(self, reply: Reply, step: str, why: str) -> None:
        """The channel is gone: replace it if nobody can notice, else fail."""
        told = self._promised or self._repeated
        if self._asked and not (told or self._authenticated):
            self._forget_transaction()
            if self._link.replace(step, why):
                return
        self._fail(reply, step, why)

    def _fail(self, reply: Reply, step: str, why: str) -> None:
        self._asked.clear()
        self._auth = None
        self._forget_transaction()
        self._listener.relay_failed(reply, step, why)

    def _forget_transaction(self) -> None:
        self._step = _Step.IDLE
        self._mail_refusal = None
        self._prefix = b""
        self._promised = False
        self._accepted = Accepted()
        self._repeated = 0

    def _ask(self, *commands: tuple[bytes, Callable[[Reply], None]]) -> None:
        channel = self._link.channel
        assert channel is not None
        self._link.expect(self.backend.settings.command_timeout)
        channel.ask(*commands)
