"""One new connection to the backend, greeted, and in TLS where it is to be.

Knows: how aiosmtplib is asked for one, and whom a failure is about.  Knows not:
whether one may be made, and what a failure leads to (``pool``, its only caller).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import aiosmtplib

from proxy.backend.channel import Channel
from proxy.backend.client import Client
from proxy.backend.program import CannotStart
from proxy.backend.reach import Reach, Reached
from proxy.backend.settings import BackendSettings
from proxy.smtp.reply import Reply


class NotConnected(Exception):
    """No connection came of it; the text says why.  ``there``: the backend is
    there, and its greeting was about this one client; ``refusal``: for good."""

    def __init__(self, why: str, *, there: bool, refusal: Reply | None = None) -> None:
        super().__init__(why)
        self.there = there
        self.refusal = refusal


async def connect(
    settings: BackendSettings,
    client: Client | None,
    reach: Reach,
    hostname: bytes,
    now: Callable[[], float],
) -> Channel:
    """On behalf of ``client``; ``hostname`` is what we call ourselves, ``now``
    gives seconds.  Raises :class:`NotConnected`, and
    :class:`~proxy.backend.program.NoPlace` where no more programs may run."""
    reached: Reached | None = None
    try:
        if settings.reaches:
            reached = await reach(settings, client)
        smtp = _unconnected(settings, reached, hostname)
        await smtp.connect()
        # uvloop's transports are not registered as asyncio's.
        transport = cast(asyncio.Transport | None, smtp.transport)
        if transport is None or transport.is_closing():
            raise ConnectionError("the backend closed the connection")
    except _TROUBLE as error:
        _give_up(reached)
        late = isinstance(error, TimeoutError) and not settings.command
        raise NotConnected(
            f"connect: {error or type(error).__name__}",
            there=reached is not None and not (late or _about_tls(error)),
            refusal=_refusal(error) if reached and reached.known else None,
        ) from error
    except asyncio.CancelledError:
        _give_up(reached)
        raise
    channel = Channel(smtp, transport, now())
    if reached is not None and reached.program is not None:
        reached.program.connection = channel
    return channel


def _unconnected(
    settings: BackendSettings, reached: Reached | None, hostname: bytes
) -> aiosmtplib.SMTP:
    named = not settings.path and not settings.command
    return aiosmtplib.SMTP(
        # Where there is a socket already, its certificate's name.
        hostname=settings.host if named else None,
        port=settings.port if named and reached is None else None,
        socket_path=settings.path or None if reached is None else None,
        sock=reached.sock if reached is not None else None,
        # What stands before qmail-smtpd may ask DNS before it greets.
        timeout=settings.command_timeout
        if settings.command
        else settings.connect_timeout,
        # Else the library asks the resolver for our name, in a thread.
        local_hostname=hostname.decode("ascii", "replace"),
        start_tls=settings.context is not None and settings.starttls,
        use_tls=settings.context is not None and not settings.starttls,
        tls_context=settings.context,
    )


_TROUBLE = (aiosmtplib.SMTPException, CannotStart, OSError, ValueError)


def _refusal(error: BaseException) -> Reply | None:
    """A refusal in place of the greeting, which from a backend that sees the
    client means the client.  (From others it means us.)  554 (RFC 5321 §3.1) and
    521 (RFC 7504) are made for it; its like (55z, "mail system") are in use."""
    if not isinstance(error, aiosmtplib.SMTPConnectResponseError):
        return None
    if error.code != 521 and not 550 <= error.code <= 559:
        return None
    lines = error.message.encode("utf-8", "replace").split(b"\n")
    return Reply(error.code, *lines)


def _about_tls(error: BaseException) -> bool:
    """Whether it failed for want of STARTTLS or of a good certificate, which is
    the same for every client."""
    wanting = type(error) is aiosmtplib.SMTPException
    return wanting or isinstance(error.__cause__ or error, ssl.SSLError)


def _give_up(reached: Reached | None) -> None:
    """No connection came of it."""
    if reached is not None:
        reached.sock.close()
        if reached.program is not None:
            reached.program.given_up = True
