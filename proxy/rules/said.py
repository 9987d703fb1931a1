"""What other programs want said to the client, made fit to be said.

Knows: which texts may be a refusal, and of which kind.  Knows not: who said it.
Used by the rules whose sources have words of their own.
"""

from __future__ import annotations

import re

from proxy.rules.source import Finding, Says
from proxy.smtp.reply import Reply

TEXT_MAX = 300
"""Bytes of a text that are said."""

_REFUSAL = re.compile(rb"([45][0-5][0-9])(?:[ -](.*))?", re.DOTALL)
_ENHANCED = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?: |$)")  # RFC 3463 §2


def refusal(text: bytes) -> Reply | None:
    """``text``, which begins with a code, as a refusal: 4yz or 5yz; ``None`` where it
    is none.  Only its first line is said."""
    match = _REFUSAL.fullmatch(text.strip(b" \t\r\n"))
    if match is None:
        return None
    return coded(int(match[1]), match[2] or b"")


def coded(code: int, text: bytes, enhanced: bytes = b"") -> Reply:
    """``code`` with ``text``; a status code in it that contradicts the reply's is
    taken away (RFC 2034 §4).  ``enhanced`` is put before a text that has none."""
    text = re.split(rb"[\r\n]", text, maxsplit=1)[0].strip()
    match = _ENHANCED.match(text)
    if match is not None and int(match[1]) != code // 100:
        text, match = text[match.end() :], None
    if match is None and enhanced:
        text = enhanced + b" " + text if text else enhanced
    return Reply(code, text[:TEXT_MAX])


def refused(reply: Reply, note: str) -> Finding:
    """The finding that goes with a refusal."""
    return Finding(Says.REJECT if reply.permanent else Says.DEFER, note, reply)


def worded(says: Says, note: str, own: Reply | None) -> Finding:
    """``says``, in the source's ``own`` words where they fit: a lasting refusal for
    what is not there, a passing one for what cannot be told now."""
    lasting = says in (Says.MISSING, Says.REJECT)
    if own is not None and (
        (lasting and own.permanent) or (says is Says.DEFER and own.temporary)
    ):
        return refused(own, note)
    return Finding(says, note)


def shown(data: bytes, limit: int = 200) -> str:
    """Foreign bytes in a note."""
    return data[:limit].decode("latin-1")
