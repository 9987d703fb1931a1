"""One client session's conversation with the backend.

Knows: when a connection is opened (late), what goes out together, which of the
backend's answers may be passed on, when a lost connection may be replaced, or
another backend tried, without anybody noticing.  Knows not: the client's side
(the ``Listener`` does), which backends there are to try
(:mod:`proxy.backend.choice`).
One conversation is made per session, and outlives it while an answer to a
final dot is awaited.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from proxy.backend import identity
from proxy.backend.channel import Channel
from proxy.backend.choice import Group
from proxy.backend.client import Client
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
        "_asked",
        "_auth",
        "_authenticated",
        "_backend",
        "_channel",
        "_client",
        "_fresh",
        "_group",
        "_helo",
        "_left",
        "_listener",
        "_mail",
        "_mail_refusal",
        "_opening",
        "_others",
        "_prefix",
        "_private",
        "_promised",
        "_ready",
        "_reset_first",
        "_step",
    )

    def __init__(self, group: Group, listener: Listener, client: Client | None) -> None:
        self._group = group
        self._others: list[Backend] = []  # that this transaction may still try
        self._backend = group.backends[0]
        self._client = client
        self._listener = listener
        self._channel: Channel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._helo = b""
        self._mail = b""
        self._asked: deque[bytes] = deque()
        self._mail_refusal: Reply | None = None
        self._prefix = b""
        self._auth: bytes | None = None  # the command, until it can be sent
        self._authenticated = False
        self._fresh = False
        self._left = False
        self._private = False  # the connection has seen AUTH: for nobody else
        self._promised = False
        self._ready = False
        self._reset_first = False
        self._step = _Step.IDLE

    @property
    def backend(self) -> Backend:
        """The one that is spoken to, or was last."""
        return self._backend

    @property
    def group(self) -> Group:
        """The backends that may serve what comes."""
        return self._group

    # Requests.

    def turn_to(self, group: Group) -> bool:
        """Have what comes served by ``group``; ``False`` while the transaction
        that is under way may have a recipient at another one."""
        if self._asked or self._promised:
            return False
        self._let_go()
        self._forget_transaction()
        self._group = group
        return True

    def recipient(self, helo: bytes, mail: bytes, argument: bytes) -> None:
        """Tell the backend of a recipient; ``mail`` and ``argument`` are the
        client's own arguments of MAIL and RCPT."""
        self._asked.append(argument)
        if self._channel is None:
            if self._opening is None:
                self._helo, self._mail = helo, mail
                self._others = self._group.candidates()
                self._connect()
        elif self._ready:
            if self._step is _Step.IDLE:
                self._mail = mail
                self._others = self._group.others(self._backend)
                self._send_envelope()
            else:
                self._ask((self._rcpt(argument), self._rcpt_answered))

    def authenticate(self, helo: bytes, line: bytes) -> None:
        """Pass on AUTH, or a line of the exchange.

        The connection is a new one, and from now on this client's alone.
        """
        channel = self._channel
        if channel is not None:
            if self._private and self._ready and not self._reset_first:
                self._send_auth(line)
                return
            self._give_back(channel)
            self._forget_channel()
        self._auth, self._helo = line, helo
        if self._opening is None:
            self._others = self._group.candidates()
            self._connect()

    def data(self, prefix: bytes) -> None:
        """Ask for 354; ``prefix`` goes before the message's own bytes."""
        self._prefix = prefix
        if self._mail_refusal is not None or self._channel is None:
            self._listener.data_answered(self._mail_refusal or replies.BACKEND_LOST)
            return
        self._step = _Step.DATA
        self._ask((b"DATA", self._data_answered))

    def body(self, piece: bytes) -> None:
        """Bytes of the message."""
        channel = self._channel
        if channel is not None:
            channel.write(self._take_prefix() + piece)

    def end(self, piece: bytes) -> None:
        """The message's last bytes and the final dot."""
        channel = self._channel
        assert channel is not None
        self._step = _Step.DOT
        self._expect(self._backend.settings.final_timeout)
        channel.end_message(self._take_prefix() + piece, self._message_answered)

    def abort(self) -> None:
        """Give the transaction up; nothing that was asked is told any more."""
        self._asked.clear()
        channel = self._channel
        if channel is not None:
            if self._step is _Step.ENVELOPE and channel.usable:
                self._reset_first = True
                self._fresh = False  # from now on it is a used one
            else:
                self._backend.discard(channel)
                self._forget_channel()
        self._forget_transaction()

    def leave(self) -> None:
        """The client's session is over."""
        self._left = True
        self._auth = None
        if self._step is not _Step.DOT:  # its answer is waited for, and logged
            self._let_go()

    # The channel's owner.

    def channel_blocked(self) -> None:
        self._expect(self._backend.settings.data_timeout)
        self._listener.relay_blocked()

    def channel_writable(self) -> None:
        if self._step is _Step.MESSAGE:
            self._expect(float("inf"))
        self._listener.relay_writable()

    def channel_lost(self, why: str, said: Reply | None) -> None:
        step = self._step
        self._forget_channel()
        if step is _Step.IDLE and not (self._asked or self._auth):
            if self._authenticated:
                self._fail(replies.BACKEND_LOST, step.value, why)
            return  # between two transactions: the next one opens another
        answer = replies.BACKEND_LOST
        if step is _Step.MESSAGE and said is not None and _is_refusal(said):
            answer = said  # it has read enough of the message; no dot is sent
        self._lost(answer, step.value, why)

    # Inside: opening.

    def _may_retry(self) -> bool:
        """Once where it was, if that was a connection that had been used
        before, then at the other backends; and only while the client was
        promised nothing.  Another connection would not know who the client is
        that has authenticated."""
        if not self._asked or self._promised or self._authenticated:
            return False
        if not self._fresh:
            self._fresh = True
            self._others.insert(0, self._backend)
        return bool(self._others)

    def _connect(self) -> None:
        """Go to the first of those that may be tried."""
        if self._authenticated:
            why = "the connection that was authenticated is gone"
            self._fail(replies.BACKEND_LOST, _Step.AUTH.value, why)
            return
        self._private = False
        backend = self._others.pop(0)
        if backend is not self._backend:
            self._backend = backend
            self._fresh = False
        new = self._fresh or self._auth is not None
        channel = None if new else backend.reuse(self._client)
        if channel is not None:
            self._greet(channel)
            return
        self._fresh = True
        self._opening = backend.open(
            self._client,
            partial(self._opened, backend),
            partial(self._open_failed, backend),
        )

    def _awaited(self, backend: Backend) -> bool:
        """Whether its connection is still wanted: an attempt cannot always be
        cancelled in time."""
        wanted = self._opening is not None and backend is self._backend
        return wanted and not self._left

    def _opened(self, backend: Backend, channel: Channel) -> None:
        if not self._awaited(backend):
            backend.release(channel)
            return
        self._opening = None
        self._greet(channel)

    def _open_failed(self, backend: Backend, step: str, why: str) -> None:
        if not self._awaited(backend):
            return
        self._opening = None
        if step == "connections":  # enough was waited
            self._others = [other for other in self._others if not other.full]
        if self._others and (self._asked or self._auth is not None):
            self._listener.backend_passed_over(step, why)
            self._connect()
        else:
            self._fail(replies.BACKEND_UNREACHABLE, step, why)

    def _let_go(self) -> None:
        """Use the connection no more: give it back if it is in order."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        channel = self._channel
        if channel is None:
            return
        if self._ready and self._step not in (_Step.AUTH, _Step.MESSAGE):
            self._give_back(channel)
        else:
            self._backend.discard(channel)
        self._forget_channel()

    def _greet(self, channel: Channel) -> None:
        """Say EHLO with the client's own name; it also resets a connection
        that was used before (RFC 5321 §4.1.4).  Where that was done under the
        same name, RSET is enough, and goes out with the envelope."""
        self._channel = channel
        self._ready = False
        channel.owner = self
        helo = self._helo or self._backend.hostname
        if channel.helo == helo:
            self._reset_first = True
            self._begin()
            return
        channel.helo = helo
        self._ask((b"EHLO " + helo, self._ehlo))

    def _ehlo(self, reply: Reply) -> None:
        channel = self._channel
        assert channel is not None
        if reply.code == 250:
            channel.offered = frozenset(
                line.partition(b" ")[0].upper() for line in reply.lines[1:]
            )
            self._backend.heard(reply)
            if self._backend.settings.identify:
                self._introduce(channel, reply.lines[1:])
            else:
                self._begin()
        elif 400 <= reply.code < 600 and reply.code != 421:
            channel.offered = frozenset()
            channel.helo = None
            self._ask((b"HELO " + self._backend.hostname, self._helo_answered))
        else:
            self._confused("EHLO", reply)

    def _helo_answered(self, reply: Reply) -> None:
        if reply.code != 250:
            self._confused("HELO", reply)
        elif self._backend.settings.identify:
            assert self._channel is not None
            self._introduce(self._channel, ())
        else:
            self._begin()

    def _introduce(self, channel: Channel, offers: Sequence[bytes]) -> None:
        """Say who the client is, once a connection (XCLIENT), or see whether it
        may be said with each message (XFORWARD)."""
        identify = self._backend.settings.identify
        channel.identity = identity.attributes(identify.upper().encode(), offers)
        client = self._client
        if identify == "xforward" or channel.introduced or client is None:
            self._begin()
        elif b"ADDR" in channel.identity:
            channel.introduced = True
            command = identity.xclient(client, self._helo, channel.identity)
            self._ask((command, self._introduced))
        else:  # mail would pass for ours, which may have other rights
            self._backend.discard(channel)
            self._forget_channel()
            why = "the backend does not offer XCLIENT ADDR to us"
            self._lost(replies.BACKEND_CONFUSED, "EHLO", why)

    def _introduced(self, reply: Reply) -> None:
        """It begins anew: with a greeting, and then EHLO."""
        if reply.code == 220:
            self._ask((b"EHLO " + (self._helo or self._backend.hostname), self._ehlo))
        else:
            self._confused("XCLIENT", reply)

    def _begin(self) -> None:
        self._ready = True
        line, self._auth = self._auth, None
        if line is not None:
            self._send_auth(line)
        elif self._asked:
            self._send_envelope()
        else:
            self._expect(float("inf"))

    # Inside: authentication.

    def _send_auth(self, line: bytes) -> None:
        channel = self._channel
        assert channel is not None
        self._private = True
        self._step = _Step.AUTH
        self._expect(self._backend.settings.command_timeout)
        channel.ask_secretly(line, self._auth_answered)

    def _auth_answered(self, reply: Reply) -> None:
        self._expect(float("inf"))
        if reply.code == 235:
            self._authenticated = True
        elif reply.code != 334 and not _is_refusal(reply):
            self._confused("AUTH", reply)
            return
        if reply.code != 334:
            self._step = _Step.IDLE
        self._listener.auth_answered(reply)

    # Inside: the envelope.

    def _send_envelope(self) -> None:
        channel = self._channel
        assert channel is not None
        self._step = _Step.ENVELOPE
        # AUTH= is for servers that trust who says it (RFC 4954 §5).
        offered = channel.offered
        if b"AUTH" in offered and not self._authenticated:
            offered = offered - {b"AUTH"}
        commands = [(for_backend(b"MAIL", self._mail, offered), self._mailed)]
        if self._reset_first:
            self._reset_first = False
            commands.insert(0, (b"RSET", self._reset_answered))
        if channel.identity and self._client is not None and not channel.introduced:
            told = identity.xforward(self._client, self._helo, channel.identity)
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
        if not reply.positive and not _is_refusal(reply):
            self._confused("XFORWARD", reply)

    def _mailed(self, reply: Reply) -> None:
        if reply.code == 250:
            return
        if _is_refusal(reply):
            self._mail_refusal = reply
        else:
            self._confused("MAIL", reply)

    def _rcpt_answered(self, reply: Reply) -> None:
        if self._mail_refusal is not None:
            reply = self._mail_refusal  # it says 503, MAIL was the reason
        if reply.code in (250, 251):
            self._promised = True
        elif not _is_refusal(reply):
            self._confused("RCPT", reply)
            return
        self._asked.popleft()
        if not self._asked:
            self._expect(float("inf"))
        self._listener.recipient_answered(reply)

    # Inside: the message.

    def _data_answered(self, reply: Reply) -> None:
        self._expect(float("inf"))
        if reply.code == 354:
            self._step = _Step.MESSAGE
        elif _is_refusal(reply):
            self._reset_first = True
            self._forget_transaction()
        else:
            self._confused("DATA", reply)
            return
        self._listener.data_answered(reply)

    def _message_answered(self, reply: Reply) -> None:
        if reply.code != 250 and not _is_refusal(reply):
            self._confused("final dot", reply)
            return
        self._expect(float("inf"))
        self._forget_transaction()
        self._fresh = False  # from now on it is a used one
        channel = self._channel
        if self._left and channel is not None:
            self._give_back(channel)
            self._forget_channel()
        self._listener.message_answered(reply)

    def _take_prefix(self) -> bytes:
        prefix, self._prefix = self._prefix, b""
        return prefix

    # Inside: trouble.

    def _confused(self, step: str, reply: Reply) -> None:
        """An answer that does not belong here: the connection is not trusted
        any more, and the client is told "later"."""
        channel = self._channel
        if channel is not None:
            self._backend.discard(channel)
            self._forget_channel()
        answer = replies.BACKEND_CONFUSED
        if reply.code == 421:
            answer = replies.BACKEND_LOST
        self._lost(answer, step, f"the backend said: {reply.text}")

    def _lost(self, reply: Reply, step: str, why: str) -> None:
        """The channel is gone: replace it if nobody can notice, else fail."""
        if self._may_retry():
            if self._others[0] is not self._backend:
                self._listener.backend_passed_over(step, why)
            self._forget_transaction()
            self._connect()
        else:
            self._fail(reply, step, why)

    def _fail(self, reply: Reply, step: str, why: str) -> None:
        self._asked.clear()
        self._auth = None
        self._forget_transaction()
        self._listener.relay_failed(reply, step, why)

    def _give_back(self, channel: Channel) -> None:
        """The connection is not needed any more."""
        if not channel.usable:
            self._backend.discard(channel)
        elif self._private:
            self._backend.finish(channel)
        else:
            self._backend.release(channel)

    def _forget_channel(self) -> None:
        self._channel = None
        self._ready = False
        self._reset_first = False

    def _forget_transaction(self) -> None:
        self._step = _Step.IDLE
        self._mail_refusal = None
        self._prefix = b""
        self._promised = False

    def _ask(self, *commands: tuple[bytes, Callable[[Reply], None]]) -> None:
        channel = self._channel
        assert channel is not None
        self._expect(self._backend.settings.command_timeout)
        channel.ask(*commands)

    def _expect(self, seconds: float) -> None:
        if self._channel is not None:
            self._channel.deadline = self._backend.now() + seconds


def _is_refusal(reply: Reply) -> bool:
    """421 is no answer to a command: the backend is about to leave."""
    return 400 <= reply.code < 600 and reply.code != 421
