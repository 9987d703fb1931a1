"""What the qmail decision cannot read in files at once, as questions and answers.

Knows: the shape of both.  Knows not: who answers, nor any network
(:mod:`proxy.rules.needs`).  A decision that wants to know raises :class:`Need`;
whoever has the answer decides again, with all answers so far.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.qmail.walk import Identity

# What is asked about.


@dataclass(frozen=True, slots=True)
class Backend:
    """A database as vpopmail's own file names it.

    ``path`` is that file; ``host`` is empty for the driver's default, ``port`` 0,
    ``socket`` the path that MySQL's file may have instead.  ``database`` is the
    base DN of LDAP.  ``many`` says whether all domains share one table, ``None``
    that it is not known.
    """

    kind: str
    path: bytes
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = ""
    socket: str = ""
    many: bool | None = None


@dataclass(frozen=True, slots=True)
class Daemon:
    """vusaged, as ``path``, its client's configuration, names it: a ``socket`` of the
    qmail host, or else ``host`` and ``port``.  It is given ``timeout`` seconds."""

    path: bytes
    socket: bytes = b""
    host: str = ""
    port: int = 0
    timeout: float = 1.0


# Questions.


@dataclass(frozen=True, slots=True)
class AskAccounts:
    """Which of the names are aliases of ``domain``, and which are mailboxes.

    All in lower case, of the characters that vpopmail allows
    (:func:`proxy.qmail.vpopmail_data.valid_user`).  The answer is :class:`Found`."""

    backend: Backend
    domain: bytes
    aliases: tuple[bytes, ...]
    users: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AskLimits:
    """How much ``domain`` may have: :class:`Quota`, or :data:`NOTHING` where the
    database has no row for it."""

    backend: Backend
    domain: bytes


@dataclass(frozen=True, slots=True)
class AskDaemon:
    """How much ``name`` has, a mailbox or ``@domain``: :class:`Stored`."""

    daemon: Daemon
    name: bytes


class Kind(enum.Enum):
    """What a directory is to vpopmail: a Maildir, a domain, or a domain that may have
    mailboxes in directories of one letter (USERS_BIG_DIR)."""

    MAILDIR = "maildir"
    DOMAIN = "domain"
    HASHED = "hashed domain"


@dataclass(frozen=True, slots=True)
class AskCount:
    """How much ``directory`` has, as ``identity`` sees it: :class:`Stored`.

    ``sure``: somebody would be refused for it, so the count should be fresh.
    """

    directory: bytes
    kind: Kind
    identity: Identity
    sure: bool


Question = AskAccounts | AskLimits | AskDaemon | AskCount

# Answers.


class Mailbox(NamedTuple):
    """One account: the flags of ``pw_gid``, its home and its quota."""

    flags: int
    directory: bytes
    quota: bytes


class Found(NamedTuple):
    """Lines by alias, accounts by name; ``asked`` are the queries in words, for the
    trail."""

    aliases: Mapping[bytes, tuple[bytes, ...]]
    mailboxes: Mapping[bytes, Mailbox]
    asked: tuple[str, ...] = ()


class Quota(NamedTuple):
    """How much there may be: bytes and messages; 0 is no limit."""

    size: int = 0
    messages: int = 0


class Stored(NamedTuple):
    """How much there is: bytes and messages."""

    size: int
    messages: int


class Nothing:
    """There is none."""


NOTHING = Nothing()


class NoAnswer(NamedTuple):
    """Whoever was asked is down, slow or broken."""

    why: str


Answer = Found | Quota | Stored | Nothing | NoAnswer
Answers = Mapping[Question, Answer]
NO_ANSWERS: Answers = {}


class Need(Exception):
    """The decision cannot go on without the answer to ``question``."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.question = question
