"""EHLO on a connection, and what must be said before the first MAIL.

Knows: EHLO, HELO where it is refused (RFC 5321 §3.2), XCLIENT, what is offered.
Knows not: where the connection comes from, what it is for.  Made by ``link`` and
by ``question``, once for each EHLO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.backend import identity
from proxy.backend.channel import Channel, OnReply
from proxy.backend.client import Client
from proxy.backend.pool import Backend
from proxy.smtp import replies
from proxy.smtp.reply import Reply

OnTrouble = Callable[[Reply, str, str], None]
"""Gets what a client is to be told, the step, and why."""


# In place of the greeting of a client that is known (RFC 5321 §3.1, RFC 7504).
# 501, 503 and 550 after XCLIENT mean us (XCLIENT_README).
_NOT_YOU = (521, 554)


# It does not know EHLO (RFC 5321 §3.2); every other refusal is about the client.
_NO_EHLO = (500, 502)


def is_refusal(reply: Reply) -> bool:
    """421 is no answer to a command: the backend is about to leave."""
    return 400 <= reply.code < 600 and reply.code != 421


def answer_to(reply: Reply) -> Reply:
    """What a client is told when the backend says what does not belong there."""
    return replies.BACKEND_LOST if reply.code == 421 else replies.BACKEND_CONFUSED


class Greeting:
    """Greets as ``helo`` on behalf of ``client``, ``None`` for ourselves.

    One of the two is called when it is done, unless the channel is lost before:
    its owner hears of that.
    """

    __slots__ = ("_backend", "_channel", "_client", "_helo", "_on_ready", "_on_trouble")

    def __init__(
        self,
        backend: Backend,
        channel: Channel,
        helo: bytes,
        client: Client | None,
        on_ready: Callable[[], None],
        on_trouble: OnTrouble,
    ) -> None:
        self._backend = backend
        self._channel = channel
        self._helo = helo
        self._client = client
        self._on_ready = on_ready
        self._on_trouble = on_trouble
        channel.helo = helo
        self._ask(b"EHLO " + helo, self._ehlo)

    def _ask(self, line: bytes, on_reply: OnReply) -> None:
        backend = self._backend
        self._channel.deadline = backend.now() + backend.settings.command_timeout
        self._channel.ask((line, on_reply))

    def _ehlo(self, reply: Reply) -> None:
        channel, backend = self._channel, self._backend
        if reply.code == 250:
            channel.offered = frozenset(
                line.partition(b" ")[0].upper() for line in reply.lines[1:]
            )
            backend.heard(reply)
            self._introduce(reply.lines[1:])
        elif reply.code in _NO_EHLO:
            channel.offered = frozenset()
            channel.helo = None  # EHLO is tried again the next time
            self._ask(b"HELO " + self._helo, self._helo_answered)
        else:
            self._refused("EHLO", reply)

    def _helo_answered(self, reply: Reply) -> None:
        if reply.code == 250:
            self._introduce(())
        else:
            self._refused("HELO", reply)

    def _introduce(self, offers: Sequence[bytes]) -> None:
        """Say who the client is, once a connection (XCLIENT), or see whether it
        may be said with each message (XFORWARD)."""
        identify = self._backend.settings.identify
        if not identify:
            self._on_ready()
            return
        channel, client = self._channel, self._client
        channel.identity = identity.attributes(identify.upper().encode(), offers)
        if identify == "xforward" or channel.introduced or client is None:
            self._on_ready()
        elif b"ADDR" in channel.identity:
            channel.introduced = True
            command = identity.xclient(client, self._helo, channel.identity)
            self._ask(command, self._introduced)
        else:  # mail would pass for ours, which may have other rights
            why = "the backend does not offer XCLIENT ADDR to us"
            self._on_trouble(replies.BACKEND_CONFUSED, "EHLO", why)

    def _introduced(self, reply: Reply) -> None:
        """It begins anew: with a greeting, and then EHLO."""
        if reply.code == 220:
            self._ask(b"EHLO " + self._helo, self._ehlo)
        elif reply.code in _NOT_YOU:
            self._on_trouble(reply, "XCLIENT", f"the backend said: {reply.text}")
        else:
            self._confused("XCLIENT", reply)

    def _refused(self, step: str, reply: Reply) -> None:
        """A refusal of the client's name is the answer to its recipients."""
        if is_refusal(reply):
            self._on_trouble(reply, step, f"the backend said: {reply.text}")
        else:
            self._confused(step, reply)

    def _confused(self, step: str, reply: Reply) -> None:
        self._on_trouble(answer_to(reply), step, f"the backend said: {reply.text}")
