"""One LDAP directory behind a rule: a bounded pool, time limits, one exception.

Knows: python-ldap, which waits in threads of its own; how values are written
in filters and names.  Knows not: any schema.  Used by the rules that ask
directories; imported only when one is configured, as it wants the extra ``ldap``.

In threads, because libldap connects and resolves names while it keeps its caller
waiting, and TLS handshakes it cannot do otherwise; python-ldap lets the
interpreter go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ldap

from proxy.rules.source import SourceDown

_WHY_MAX = 200


class Entry(NamedTuple):
    """One entry: its name, and its attributes by lower-case name."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]

    def first(self, name: str) -> bytes | None:
        """The first value of an attribute; ``None`` without one."""
        values = self.attributes.get(name.lower())
        return values[0] if values else None


class Scope:
    """How far below the base a search goes (RFC 4511 §4.5.1.2)."""

    BASE: int = ldap.SCOPE_BASE
    ONE: int = ldap.SCOPE_ONELEVEL
    SUBTREE: int = ldap.SCOPE_SUBTREE


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """Where it is and who asks.  ``uri`` is ``ldap://host:port``, ``ldaps://`` or
    ``ldapi://``; an empty ``user`` binds anonymously.  ``ca`` is a PEM file."""

    uri: str
    user: str = ""
    password: str = field(default="", repr=False)
    starttls: bool = False
    ca: str | None = None
    connections: int = 4
    connect_timeout: float = 5.0
    query_timeout: float = 5.0
    entries: int = 1000


class Directory:
    """A directory that is asked over a pool of threads, each with a connection."""

    def __init__(self, settings: DirectorySettings) -> None:
        self.settings = settings
        self.shown = settings.uri
        self._threads = ThreadPoolExecutor(settings.connections, "directory")
        self._idle: list[Any] = []
        self._closed = False

    async def search(
        self, base: str, scope: int, query: str, attributes: Sequence[str]
    ) -> list[Entry] | None:
        """The entries below ``base`` that the filter ``query`` fits; ``None`` where
        there is no such base.

        Values in both come from :func:`filter_value` and :func:`name_value`.
        Raises :class:`SourceDown`.
        """
        if self._closed:
            raise SourceDown(f"{self.shown}: closed")
        loop = asyncio.get_running_loop()
        asked = base, scope, query, list(attributes)
        future = loop.run_in_executor(self._threads, self._twice, asked)
        limit = self.settings.query_timeout
        try:
            await asyncio.wait({future}, timeout=limit)
            if not future.done():
                raise SourceDown(f"{self.shown}: no answer within {limit:g} s")
            return future.result()
        finally:
            # Not begun: it never is.  Else its thread has a time limit, too.
            future.cancel()

    # From here on in a thread.

    def _twice(self, asked: tuple[str, int, str, list[str]]) -> list[Entry] | None:
        """A kept connection may have died meanwhile; a new one may not."""
        try:
            while (kept := self._kept()) is not None:
                try:
                    return self._once(kept, asked)
                except (ldap.SERVER_DOWN, ldap.CONNECT_ERROR):
                    _put_away(kept)
            return self._once(self._connect(), asked)
        except ldap.LDAPError as error:
            raise SourceDown(self._why(error)) from None

    def _kept(self) -> Any:
        """A connection that nobody uses; ``None`` without one.  Other threads may
        take the last one meanwhile."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _once(
        self, connection: Any, asked: tuple[str, int, str, list[str]]
    ) -> list[Entry] | None:
        settings = self.settings
        try:
            found = connection.search_ext_s(
                *asked, timeout=settings.query_timeout, sizelimit=settings.entries
            )
        # A name that is none, such as one that is not UTF-8, has no entry either.
        except (ldap.NO_SUCH_OBJECT, ldap.INVALID_DN_SYNTAX):
            found = None
        except ldap.LDAPError:
            _put_away(connection)
            raise
        if self._closed:
            _put_away(connection)
        else:
            self._idle.append(connection)
        if found is None:
            return None
        return [_entry(dn, values) for dn, values in found if dn is not None]

    def _connect(self) -> Any:
        settings = self.settings
        connection = ldap.initialize(settings.uri)
        connection.set_option(ldap.OPT_PROTOCOL_VERSION, 3)
        connection.set_option(ldap.OPT_REFERRALS, 0)
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, settings.connect_timeout)
        connection.set_option(ldap.OPT_TIMEOUT, settings.query_timeout)
        if settings.ca is not None:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, settings.ca)
            # Whatever ldap.conf(5) says.
            demand = ldap.OPT_X_TLS_DEMAND
            connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, demand)
            try:
                connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
            except ValueError:
                why = "no certificates that can be used"
                raise SourceDown(f"{settings.ca}: {why}") from None
        try:
            if settings.starttls:
                connection.start_tls_s()
            connection.simple_bind_s(settings.user, settings.password)
        except ldap.LDAPError:
            _put_away(connection)
            raise
        return connection

    def _why(self, error: Exception) -> str:
        """libldap's own words, without secrets."""
        told = error.args[0] if error.args else {}
        parts = [type(error).__name__]
        if isinstance(told, dict):
            parts += [str(told[key]) for key in ("desc", "info") if told.get(key)]
        said = ": ".join(parts)
        if self.settings.password:
            said = said.replace(self.settings.password, "***")
        said = "".join(c if c.isprintable() else " " for c in said)
        return f"{self.shown}: {said[:_WHY_MAX]}"

    async def close(self) -> None:
        """Close every connection; those in use when their answer is there."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        while (kept := self._kept()) is not None:
            _put_away(kept)


def _put_away(connection: Any) -> None:
    # Of a lost connection python-ldap has given up its own half already.
    with contextlib.suppress(ldap.LDAPError, AttributeError):
        connection.unbind_s()


def _entry(dn: str, values: Mapping[str, Sequence[bytes]]) -> Entry:
    return Entry(dn, {name.lower(): tuple(each) for name, each in values.items()})


_PLAIN = re.compile(rb"[A-Za-z0-9._@=+-]")
_PLAIN_IN_NAMES = re.compile(rb"[A-Za-z0-9._@-]")


def filter_value(value: bytes) -> str:
    """``value`` as it stands in a filter (RFC 4515 §3): every byte that is not
    plain in hexadecimal, so that none can end the value or match others."""
    return _escaped(value, _PLAIN)


def name_value(value: bytes) -> str:
    """``value`` as it stands in a distinguished name (RFC 4514 §2.4)."""
    return _escaped(value, _PLAIN_IN_NAMES)


def _escaped(value: bytes, plain: re.Pattern[bytes]) -> str:
    bytes_ = (value[at : at + 1] for at in range(len(value)))
    return "".join(
        each.decode("ascii") if plain.match(each) else f"\\{each[0]:02x}"
        for each in bytes_
    )
