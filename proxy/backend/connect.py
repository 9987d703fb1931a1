"""One new connection to the backend, greeted, and in TLS where it is to be.

A name's addresses are tried in turn, as RFC 8305 has it, until one of them greets: an
address that takes connections and never greets is as dead as one that does not answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import cast

import aiosmtplib

from proxy.backend.channel import Channel
from proxy.backend.client import Client
from proxy.backend.program import CannotStart
from proxy.backend.reach import Reach, Reached
from proxy.backend.settings import BackendSettings
from proxy.smtp.reply import Reply
from proxy.system.resolver import Address

HEAD_START = 2.0
"""Seconds, at most, that one address of a name has before the next is tried, too."""

_ADDRESSES_MAX = 8  # of one name
_NOT_IN_TIME = "no connection and greeting in time"


class NotConnected(Exception):
    """No connection came of it; the text says why.  ``there``: the backend is
    there, and its greeting was about this one client; ``refusal``: for good."""

    def __init__(self, why: str, *, there: bool, refusal: Reply | None = None) -> None:
        super().__init__(why)
        self.there = there
        self.refusal = refusal


class Connector:
    """Makes connections; ``hostname`` is what we call ourselves, ``now`` gives
    seconds."""

    def __init__(self, reach: Reach, hostname: bytes, now: Callable[[], float]) -> None:
        self._reach = reach
        self._hostname = hostname
        self._now = now
        self._good: Address | None = None  # that of the last connection to a name

    async def connect(
        self, settings: BackendSettings, client: Client | None
    ) -> Channel:
        """On behalf of ``client``.  Raises :class:`NotConnected`, and
        :class:`~proxy.backend.program.NoPlace` where no more programs may run."""

        async def attempt(address: Address | None) -> Channel:
            channel = await _attempt(
                settings, client, self._reach, self._hostname, self._now, address
            )
            self._good = address
            return channel

        if not settings.named:
            return await attempt(None)
        try:
            async with asyncio.timeout(settings.connect_timeout):
                found = await self._reach.addresses(settings)
                if len(found) > 1:
                    found.sort(key=lambda each: each != self._good)
                    head_start = settings.connect_timeout / len(found)
                    return await _first(found, attempt, min(head_start, HEAD_START))
        except OSError as error:  # TimeoutError, too
            why = f"connect: {str(error) or _NOT_IN_TIME}"
            raise NotConnected(why, there=False) from error
        return await attempt(found[0] if found else None)


async def _first(
    addresses: Sequence[Address],
    attempt: Callable[[Address], Coroutine[None, None, Channel]],
    head_start: float,
) -> Channel:
    """The first connection that comes of ``addresses``: each of them is tried
    ``head_start`` seconds after the one before, or as soon as all before have failed.
    Raises :class:`NotConnected` if all fail, or the client is refused."""
    todo = deque(addresses[:_ADDRESSES_MAX])
    running: dict[asyncio.Task[Channel], Address] = {}
    failed: list[tuple[Address, NotConnected]] = []
    try:
        while todo or running:
            if todo:
                address = todo.popleft()
                running[asyncio.create_task(attempt(address))] = address
            done, _ = await asyncio.wait(
                running,
                timeout=head_start if todo else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                address = running.pop(task)
                try:
                    channel = task.result()
                except NotConnected as error:
                    if error.refusal is not None:
                        raise
                    failed.append((address, error))
                else:
                    running.update(dict.fromkeys(done - {task}, address))
                    return channel
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_unwanted)
    why = "; ".join(f"{each.address[0]}: {error}" for each, error in failed)
    raise NotConnected(why, there=any(error.there for _, error in failed))


def _unwanted(task: asyncio.Task[Channel]) -> None:
    """Another address was faster, or nobody waits any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().quit()


async def _attempt(
    settings: BackendSettings,
    client: Client | None,
    reach: Reach,
    hostname: bytes,
    now: Callable[[], float],
    address: Address | None,
) -> Channel:
    reached: Reached | None = None
    try:
        if settings.reaches or address is not None:
            reached = await reach(settings, client, address)
        smtp = _unconnected(settings, reached, hostname)
        await smtp.connect()
        # uvloop's transports are not registered as asyncio's.
        transport = cast(asyncio.Transport | None, smtp.transport)
        if transport is None or transport.is_closing():
            raise ConnectionError("the backend closed the connection")
    except _TROUBLE as error:
        _give_up(reached)
        late = isinstance(error, TimeoutError) and not settings.command
        told = reached is not None and settings.reaches  # of the client
        raise NotConnected(
            f"connect: {str(error) or type(error).__name__}",
            there=told and not (late or _about_tls(error)),
            refusal=_refusal(error) if reached and reached.known else None,
        ) from error
    except asyncio.CancelledError:
        _give_up(reached)
        raise
    channel = Channel(smtp, transport, now(), secure=settings.context is not None)
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
