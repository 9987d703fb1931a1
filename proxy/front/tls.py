"""TLS on the client's side: a handshake on a connection that is in the clear.

Knows: which context serves which name, how a handshake begins and ends on either
event loop.  Knows not: files (``proxy.certificates`` reads them), SMTP.  Used by
the session; :class:`ServerTls` is shared by all of them.

Sessions that never ask for TLS touch nothing here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

# Where limits.command_timeout is 0; the loop wants a number.
_NO_LIMIT = 86400.0
# For the other side's close_notify (RFC 8446 §6.1), which many never send.
_SHUTDOWN_SECONDS = 5.0

_TOLD_MAX = 20
_TOLD_SECONDS = 60.0


class ServerTls:
    """The certificates that are shown, and when a failure is worth a line.

    ``default`` is for clients that name no host, or one that is not in
    ``by_name``: names in lower case, ``*.example.org`` for one label more.
    ``expires`` is when the first of them ends, in seconds since 1970;
    ``expires_first`` is its file.
    """

    def __init__(
        self,
        default: ssl.SSLContext,
        by_name: Mapping[str, ssl.SSLContext],
        expires: float = 0.0,
        expires_first: str = "",
    ) -> None:
        self.context = default
        self.expires_first = expires_first
        self.expires = expires
        self._by_name = dict(by_name)
        self._since = float("-inf")
        self._told = 0
        if any(context is not default for context in self._by_name.values()):
            default.sni_callback = self._choose

    def worth_a_line(self, now: float) -> bool:
        """Whether one more failed handshake is told: so many in a minute."""
        if now - self._since >= _TOLD_SECONDS:
            self._since, self._told = now, 0
        self._told += 1
        return self._told <= _TOLD_MAX

    def _choose(
        self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> None:
        """RFC 6066 §3: the certificate for the host that the client names."""
        name = (name or "").lower()
        wild = "*." + name.partition(".")[2]
        found = self._by_name.get(name) or self._by_name.get(wild)
        if found is not None:
            connection.context = found


class Handshake:
    """One handshake, from the moment that it is made.

    Either ``on_done`` is called with the encrypted transport, or ``on_failed``
    with the reason; neither after :meth:`cancel`.  ``received`` are its first
    bytes, where they were read already.

    ``loop.start_tls`` is a coroutine.  As a task it would begin a moment later,
    and the client's first bytes could be read as commands; so its first step is
    taken here and now (as ``asyncio.eager_task_factory`` does, since 3.12).
    """

    def __init__(
        self,
        tls: ServerTls,
        transport: Any,  # asyncio.Transport, of either loop
        protocol: asyncio.Protocol,
        on_done: Callable[[Any], None],
        on_failed: Callable[[str], None],
        received: bytes = b"",
        *,
        seconds: float = 0.0,
    ) -> None:
        self._transport = transport
        self._on_done = on_done
        self._on_failed = on_failed
        self._over = False
        self._waiter: asyncio.Future[None] | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        if transport.is_closing():  # lost already: nobody would ever end it
            asyncio.get_running_loop().call_soon(self._failed, "the client left")
            return
        self._coroutine = asyncio.get_running_loop().start_tls(
            transport,
            protocol,
            tls.context,
            server_side=True,
            ssl_handshake_timeout=seconds or _NO_LIMIT,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        self._step()
        if received and not self._over:
            # Behind the loop's own first steps, before it reads more.
            asyncio.get_running_loop().call_soon(self._feed, received)

    def _feed(self, data: bytes) -> None:
        """Hand in what came before, as the transport would."""
        protocol = self._transport.get_protocol()
        while data and not self._over:
            buffer = memoryview(protocol.get_buffer(len(data)))
            taken = min(len(buffer), len(data))
            buffer[:taken] = data[:taken]
            protocol.buffer_updated(taken)
            data = data[taken:]

    def cancel(self) -> None:
        """Give it up, and the connection with it."""
        self._over = True
        if self._waiter is not None:
            self._waiter.cancel()
        self._transport.abort()
        self._transport = None

    def _step(self, _: object = None) -> None:
        coroutine = self._coroutine
        assert coroutine is not None
        try:
            self._waiter = coroutine.send(None)
        except StopIteration as end:
            self._coroutine = self._waiter = None
            self._ended(end.value)
        except asyncio.CancelledError as error:
            self._coroutine = self._waiter = None
            error.__traceback__ = None
        except (OSError, ValueError) as error:  # ssl.SSLError is one, too
            self._coroutine = self._waiter = None
            error.__traceback__ = None  # its frames hold the connection
            self._failed(_reason(error))
        else:
            assert self._waiter is not None
            self._waiter.add_done_callback(self._step)

    def _ended(self, transport: Any) -> None:
        """Also where the connection was lost in the middle of it."""
        if transport.is_closing() or version_of(transport) is None:
            self._failed("the client left")
        elif not self._over:
            self._over = True
            self._on_done(transport)

    def _failed(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._on_failed(why)


def version_of(transport: Any) -> tuple[str, str] | None:
    """Version and cipher of an encrypted connection."""
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    version, cipher = connection.version(), connection.cipher()
    return (version, cipher[0]) if version and cipher else None


def _reason(error: Exception) -> str:
    """``wrong version number``, ``unsupported protocol`` and the like."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    if isinstance(error, ConnectionError | ssl.SSLError):
        return "the client left"
    return str(error) or type(error).__name__
