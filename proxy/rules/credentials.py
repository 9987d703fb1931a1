"""What the rule ``http`` shows to a service, to be let in.

Knows: bearer tokens (RFC 6750) and names with passwords (RFC 7617), in files; how to
keep them out of what people read.  Knows not: HTTP (``web``).
"""

from __future__ import annotations

import base64
import re

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
        self._secret = ""
        self._shown = ""
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
            self._secret = self._shown = token
            return
        password = read_secret(self._password_file)
        if _CONTROL.search(password):
            raise SourceDown(f"{self._password_file}: a control character in it")
        both = f"{self._user}:{password}".encode()
        self._secret, self._shown = password, base64.b64encode(both).decode()

    def refused(self) -> None:
        """They are not good any more."""
        self._good = False

    def hidden(self, text: str) -> str:
        """``text`` without them: a service may say what it was told."""
        for secret in filter(None, (self._shown, self._secret)):
            text = text.replace(secret, "***")
        return text
