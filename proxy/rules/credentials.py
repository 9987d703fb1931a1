"""What the rule ``http`` shows to a service, to be let in.

Knows: bearer tokens (RFC 6750) and names with passwords (RFC 7617), in files; how to
keep them out of what people read.  Knows not: HTTP (``web``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

from proxy.rules.secret import read_secret
from proxy.rules.source import SourceDown

# RFC 6750 section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Credentials:
    """Read from their file with the first question, and again once they were refused:
    a new password needs no HUP."""

    def __init__(self, token_file: str | None, user: str, password_file: str) -> None:
        """``token_file``, or else ``user`` and ``password_file``."""
        self._token_file = token_file
        self._user = user
        self._password_file = password_file
        self._shown = ""
        self._traces: re.Pattern[str] | None = None
        self._good = False

    def header(self) -> str:
        """The value of Authorization.  Raises :class:`SourceDown` for a file that
        cannot be used."""
        if not self._good:
            self._read()
            self._good = True
        kind = "Bearer" if self._token_file is not None else "Basic"
        return f"{kind} {self._shown}"

    def _read(self) -> None:
        if self._token_file is not None:
            token = read_secret(self._token_file)
            if not _TOKEN.fullmatch(token):
                raise SourceDown(f"{self._token_file}: not a bearer token")
            self._shown = token
            self._traces = _traces([token, token.rstrip("=")])
            return
        password = read_secret(self._password_file)
        if _CONTROL.search(password):
            raise SourceDown(f"{self._password_file}: a control character in it")
        both = f"{self._user}:{password}".encode()
        self._shown = base64.b64encode(both).decode()
        self._traces = _traces([password, self._shown, self._shown.rstrip("=")])

    def refused(self) -> None:
        """They are not good any more."""
        self._good = False

    def hidden(self, text: str) -> str:
        """``text`` without them, in whatever way of writing: a service may say what it
        was told."""
        return self._traces.sub("***", text) if self._traces is not None else text


def _written(secret: str) -> set[str]:
    """The ways in which an answer may have it: as it is; in JSON; in a URL."""
    json_ = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    # Foreign bytes are shown as Latin-1 (said.shown()).
    bytes_ = secret.encode().decode("latin-1")
    return {secret, bytes_, *json_, quote(secret), quote(secret, safe="")}


def _traces(secrets: Iterable[str]) -> re.Pattern[str]:
    found = set().union(*map(_written, secrets))
    longest_first = sorted(filter(None, found), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
