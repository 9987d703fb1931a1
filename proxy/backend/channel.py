"""One connection to the backend: commands out, replies in, in order.

Knows: pairing of replies with commands, pipelining where the backend offers
it, deadlines, when a connection can no longer be trusted.  Knows not: what is
said over it (:mod:`proxy.backend.conversation`), where connections come from
(:mod:`proxy.backend.pool`).
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Protocol

import aiosmtplib

from proxy.backend.client import Client
from proxy.smtp.reply import BadReply, Reply, ReplyReader

OnReply = Callable[[Reply], None]

FINAL_DOT = "final dot"
"""The step after which the backend may have the message, whatever happens."""


class ChannelOwner(Protocol):
    """Whoever speaks over a channel at the moment."""

    def channel_lost(self, why: str, said: Reply | None) -> None:
        """The channel is gone; nothing that was asked will be answered.
        ``said`` is what the backend said without having been asked."""

    def channel_blocked(self) -> None:
        """The backend does not keep up: stop handing in bytes."""

    def channel_writable(self) -> None:
        """It does again."""


class Channel(asyncio.Protocol):
    """Takes over a connection that aiosmtplib has made and greeted.

    ``deadline`` is loop time, in seconds, by which something must happen.
    """

    __slots__ = (
        "_client",
        "_paused",
        "_reader",
        "_secure",
        "_transport",
        "_unsent",
        "_waiting",
        "born",
        "client",
        "cut_short",
        "deadline",
        "helo",
        "identity",
        "introduced",
        "lost_why",
        "offered",
        "owner",
        "private",
        "read",
        "reset_first",
        "step",
        "used",
    )

    def __init__(
        self,
        client: aiosmtplib.SMTP,
        transport: asyncio.Transport,
        now: float,
        *,
        secure: bool = False,
    ) -> None:
        """``secure``: the transport is one of TLS."""
        self._client = client
        self._paused = False
        self._secure = secure
        self._transport = transport
        self._reader = ReplyReader()
        self._waiting: deque[OnReply] = deque()
        self._unsent: deque[tuple[bytes, OnReply]] = deque()
        self.born = now
        self.client: Client | None = None  # who has it, or had it last
        self.cut_short = False  # it was lost with bytes in our buffer
        self.deadline = float("inf")
        self.helo: bytes | None = None  # what the backend was told last
        # What XCLIENT or XFORWARD may say here, and whether XCLIENT has.
        self.identity: frozenset[bytes] = frozenset()
        self.introduced = False
        self.lost_why = ""
        self.offered: frozenset[bytes] = frozenset()
        self.owner: ChannelOwner | None = None
        self.private = False  # it has seen AUTH: for nobody else
        self.read: object = None  # what the backend's files were when it began
        self.reset_first = False  # RSET is due before the next MAIL
        self.step = "greeting"
        self.used = 0
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Open, and nothing outstanding in either direction."""
        return (
            not self.lost_why
            and not self._waiting
            and not self._unsent
            and self._reader.empty
            and not self.sending
            and not self._transport.is_closing()
        )

    @property
    def sending(self) -> bool:
        """Whether bytes are still in our buffer: what the backend says meanwhile
        is no answer to them."""
        if self._paused or self._transport.get_write_buffer_size() > 0:
            return True
        # Below TLS the loops have a buffer that nobody can ask for; it is empty
        # unless the socket takes no more.
        return self._secure and not _takes_more(self._transport)

    def ask(self, *commands: tuple[bytes, OnReply]) -> None:
        """Send command lines (without CRLF), each with whom to tell its reply.

        Together if the backend offers PIPELINING (RFC 2920), else one by one.
        """
        if b"PIPELINING" in self.offered and not self._unsent:
            self._waiting.extend(on_reply for _, on_reply in commands)
            self._write(b"".join([line + b"\r\n" for line, _ in commands]), commands)
            return
        self._unsent.extend(commands)
        if not self._waiting:
            self._send_next()

    def ask_secretly(self, line: bytes, on_reply: OnReply) -> None:
        """Send a line of an AUTH exchange: it is kept nowhere and never told.
        Nothing else may be outstanding."""
        self.step = "AUTH"
        self.private = True
        self._waiting.append(on_reply)
        self.write(line + b"\r\n")

    def write(self, data: bytes) -> None:
        """Send bytes of a message."""
        if not self.lost_why:
            self._transport.write(data)

    def end_message(self, data: bytes, on_reply: OnReply) -> None:
        """The last bytes of a message and the final dot; see :attr:`replying`."""
        self.step = FINAL_DOT
        self._waiting.append(on_reply)
        self.write(data + b".\r\n")

    @property
    def replying(self) -> bool:
        """Whether a reply has begun and is not complete."""
        return not self._reader.empty

    def drop(self, why: str, said: Reply | None = None) -> None:
        """Close at once; the owner is told."""
        if not self.lost_why:
            self._lost(why, said)
            self._transport.abort()
            self._client.close()

    def discard(self) -> None:
        """Close without telling anybody: the owner wants it so."""
        self.owner = None
        self.drop("given up")

    def quit(self) -> None:
        """Close politely (RFC 5321 §4.1.1.10), without waiting for the answer."""
        self.owner = None
        if not self.lost_why:
            self.lost_why = "quit"
            self._transport.write(b"QUIT\r\n")
            self._client.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._reader.feed(data)
        except BadReply as error:
            self.drop(f"{self.step}: {error}")
            return
        asked = len(self._waiting)
        if 0 < asked < len(replies) and replies[-1].code != 421:
            # One of them answers nothing, and there is no telling which.  (421
            # may come at any time: RFC 5321 §3.8.)
            self.drop(f"{self.step}: more replies than commands: {replies[-1].text}")
            return
        for reply in replies:
            if self.lost_why:
                return
            if not self._waiting:
                self.drop(f"unexpected reply: {reply.text}", reply)
                return
            self._waiting.popleft()(reply)
            if not self._waiting and self._unsent:
                self._send_next()

    def eof_received(self) -> bool:
        self.drop(f"{self.step}: the backend closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost_why:
            # The transport's buffer is gone by now; a full one was told of.
            detail = str(exc) if exc else "the backend closed the connection"
            self._lost(f"{self.step}: {detail}")

    def pause_writing(self) -> None:
        self._paused = True
        if self.owner is not None:
            self.owner.channel_blocked()

    def resume_writing(self) -> None:
        self._paused = False
        if self.owner is not None:
            self.owner.channel_writable()

    # Inside.

    def _send_next(self) -> None:
        line, on_reply = self._unsent.popleft()
        self._waiting.append(on_reply)
        self._write(line + b"\r\n", ((line, on_reply),))

    def _write(self, data: bytes, commands: tuple[tuple[bytes, OnReply], ...]) -> None:
        self.step = commands[-1][0].partition(b" ")[0].decode("latin-1")
        self.write(data)

    def _lost(self, why: str, said: Reply | None = None) -> None:
        self.lost_why = why
        self.cut_short = self.sending
        self._waiting.clear()
        self._unsent.clear()
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.channel_lost(why, said)


def _takes_more(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    return bool(poll.poll(0))
