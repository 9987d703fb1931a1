"""The rule ``policy``: a service that speaks Postfix's policy delegation protocol.

Knows: which attributes are sent, what each action means here (SMTPD_POLICY_README and
access(5), Postfix).  Knows not: connections (``wires``).
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from proxy.config.rules import RemoteKeys
from proxy.config.values import BackendAddress
from proxy.rules.pointed import service
from proxy.rules.said import coded, refused, shown
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.trouble import Trouble
from proxy.rules.verdict import Facts, Question
from proxy.rules.wires import Wires, opener
from proxy.smtp import replies
from proxy.smtp.reply import Reply

ANSWER_MAX = 4096
"""Bytes of an answer."""

_CODE = re.compile(rb"[45][0-9][0-9]")

# These change a message or its way, and stop nothing: Postfix goes on as after
# DUNNO.  DISCARD is among them, since mail that is not wanted is better refused, and
# that the service can say.
_NOT_CARRIED_OUT = frozenset(
    {b"BCC", b"DISCARD", b"FILTER", b"HOLD", b"INFO", b"PREPEND", b"REDIRECT", b"WARN"}
)

_INSTANCE = "policy instance"


class Settings(RemoteKeys):
    """A service that speaks Postfix's policy protocol: a greylist, a quota. OK is
    found; DUNNO asks the next rule; REJECT, DEFER and 4NN and 5NN codes are said to
    the client in the service's words."""

    type: Literal["policy"] = Field(description="A Postfix policy service.")
    address: BackendAddress = Field(
        examples=["unix:/run/greylist.socket"],
        description="Where it listens: host:port, [IPv6]:port, or unix:/path.",
    )

    def is_forgetful(self) -> bool:
        return True


class Policy(BaseSource):
    """Asks what Postfix would ask at RCPT."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._context = context
        self._told: set[bytes] = set()
        self._wires = Wires(opener(settings.address), ANSWER_MAX)

    def query(self, question: Question) -> str:
        return f"recipient={shown(question.mailbox)}"

    def key(self, question: Question) -> bytes | None:
        return None  # the answer depends on everything

    async def ask(self, question: Question) -> Finding:
        asked = b"".join(map(_attribute, attributes(question)))
        action = await self._wires.ask(asked + b"\n", read_action)
        return self._finding(action)

    async def close(self) -> None:
        await self._wires.close()

    def _finding(self, action: bytes) -> Finding:
        word, _, text = action.partition(b" ")
        word, text = word.upper(), text.strip()
        note = f"action={shown(action)}"
        if word in _NOT_CARRIED_OUT:
            self._tell(word)
            return Finding(Says.PASS, f"{note} (not carried out)")
        if _CODE.fullmatch(word):
            return refused(coded(int(word), text), note)
        # access(5): all digits, not of the above, is OK.
        if word == b"OK" or (word.isdigit() and not text):
            return Finding(Says.FOUND, note)
        if word == b"DUNNO":
            return Finding(Says.PASS, note)
        if word == b"REJECT":
            return refused(_worded(replies.POLICY_REFUSED, text), note)
        if word in (b"DEFER", b"DEFER_IF_PERMIT", b"DEFER_IF_REJECT"):
            # Whether a later rule permits or rejects is not waited for: either way
            # the client comes again, and is told then.
            return refused(_worded(replies.POLICY_DEFERRED, text), note)
        raise SourceDown(f"{note}: not an action that is known here")

    def _tell(self, word: bytes) -> None:
        if word not in self._told:
            self._told.add(word)
            text = f"rule {self._context.name}: {shown(word)} is not carried out"
            self._context.say("warning", text)


def _worded(own: Reply, text: bytes) -> Reply:
    """Our own reply, or its codes with the service's words."""
    if not text:
        return own
    return coded(own.code, text, own.lines[0].partition(b" ")[0])


def attributes(question: Question) -> Iterator[tuple[bytes, bytes]]:
    """Names and values; what is not known is empty, and ``unknown`` for names of
    hosts (SMTPD_POLICY_README)."""
    facts = question.facts()
    tls, _, cipher = facts.tls.partition(b" ")
    yield from [
        (b"request", b"smtpd_access_policy"),
        (b"protocol_state", b"RCPT"),
        (b"protocol_name", b"ESMTP" if facts.extended else b"SMTP"),
        (b"client_address", question.client.encode("ascii", "replace")),
        (b"client_name", b"unknown"),
        (b"client_port", b"%d" % facts.port),
        (b"reverse_client_name", b"unknown"),
        (b"server_address", facts.local_address.encode("ascii", "replace")),
        (b"server_port", b"%d" % facts.local_port),
        (b"helo_name", facts.helo),
        (b"sender", question.sender),
        (b"recipient", question.mailbox),
        (b"recipient_count", b"0"),
        (b"queue_id", b""),
        (b"instance", _instance(facts)),
        (b"size", b"0"),
        (b"etrn_domain", b""),
        (b"stress", b""),
        (b"sasl_method", b""),
        (b"sasl_username", facts.user),
        (b"sasl_sender", b""),
        (b"ccert_subject", b""),
        (b"ccert_issuer", b""),
        (b"ccert_fingerprint", b""),
        (b"ccert_pubkey_fingerprint", b""),
        (b"encryption_protocol", tls),
        (b"encryption_cipher", cipher),
        (b"encryption_keysize", b"0"),
        (b"policy_context", b""),
    ]


def _instance(facts: Facts) -> bytes:
    """The same for all recipients of a transaction, another one for every other."""
    if facts.session is None:
        return b"%x.%s.0" % (os.getpid(), secrets.token_hex(8).encode())
    transaction, instance = facts.session.get(_INSTANCE, (None, b""))
    if transaction is not facts.transaction or not instance:
        instance = b"%x.%s.0" % (os.getpid(), secrets.token_hex(8).encode())
        facts.session[_INSTANCE] = facts.transaction, instance
    return bytes(instance)


def _attribute(pair: tuple[bytes, bytes]) -> bytes:
    name, value = pair
    if b"\n" in value or b"\0" in value:
        raise SourceDown(f"{shown(name)} has a byte that no attribute may have")
    return b"%s=%s\n" % pair


def read_action(heard: bytes) -> bytes | None:
    """The action of the one answer in ``heard``; ``None`` while it is not whole.
    Raises :class:`SourceDown`."""
    answer, end, rest = heard.replace(b"\r\n", b"\n").partition(b"\n\n")
    if rest:
        raise SourceDown(f"more than one answer: {shown(heard)}")
    if not end:
        if heard.startswith(b"\n"):
            raise SourceDown("an empty answer")
        return None
    actions = [
        line.partition(b"=")[2]
        for line in answer.split(b"\n")
        if line.startswith(b"action=")
    ]
    if len(actions) != 1 or not actions[0].strip():
        raise SourceDown(f"not one action: {shown(answer)}")
    return actions[0].strip()


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, Policy(settings, context), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """What can be seen of the service without asking it."""
    return service(settings.address)
