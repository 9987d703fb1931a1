"""The rule ``http``: a URL of the site's own.

Knows: how the address is sent, what statuses and bodies mean.  Knows not: HTTP
(``web``).
"""

from __future__ import annotations

import json
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BeforeValidator, Field

from proxy.config.rules import RemoteKeys
from proxy.config.values import split_list
from proxy.rules.said import refusal, refused, shown
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.verdict import Question
from proxy.rules.web import Heard, Url, Web

What = Literal["recipient", "sender", "client", "helo", "user"]

_FOUND, _MISSING = (200, 204), 404


class Settings(RemoteKeys):
    """A URL of your own. 200 and 204: found. 404: missing. Anything else: deferred.
    A JSON object in the body of a 200, {"verdict": "missing", "reply": "550 ..."},
    says more: found, missing, accept, reject, defer or pass."""

    type: Literal["http"] = Field(description="A URL of your own.")
    url: Url = Field(
        examples=["http://127.0.0.1:8080/recipient"],
        description="What is asked. Redirects are not followed; certificates are"
        " verified.",
    )
    method: Literal["GET", "POST"] = Field(
        default="GET",
        description="GET: what is sent stands in the query. POST: in a JSON object.",
    )
    send: Annotated[
        tuple[What, ...], BeforeValidator(split_list), Field(min_length=1)
    ] = Field(
        default=("recipient",),
        description="What is sent, by these names: recipient, sender, client, helo,"
        " user (whom AUTH accepted).",
    )


class Http(BaseSource):
    """Asks the URL."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._web = Web(keep=True)

    def query(self, question: Question) -> str:
        if self._settings.method == "POST":
            return f"POST {self._settings.url} {json.dumps(self._object(question))}"
        return f"GET {self._url(question)}"

    def key(self, question: Question) -> bytes | None:
        alone = self._settings.send == ("recipient",)
        return super().key(question) if alone else None

    async def ask(self, question: Question) -> Finding:
        if self._settings.method == "POST":
            data = self._object(question)
            return _finding(await self._web.ask("POST", self._settings.url, data))
        return _finding(await self._web.ask("GET", self._url(question)))

    async def close(self) -> None:
        await self._web.close()

    def _sent(self, question: Question) -> dict[str, bytes]:
        facts = question.facts()
        known = {
            "recipient": question.mailbox,
            "sender": question.sender,
            "client": question.client.encode("ascii", "replace"),
            "helo": facts.helo,
            "user": facts.user,
        }
        return {name: known[name] for name in self._settings.send}

    def _url(self, question: Question) -> str:
        url = self._settings.url
        sent = self._sent(question).items()
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sent)
        return url + ("&" if "?" in url else "?") + query

    def _object(self, question: Question) -> dict[str, str]:
        """JSON is text: every byte that is not UTF-8 is one character of Latin-1 after
        U+DC00, as Python's surrogateescape has it."""
        return {
            name: value.decode("utf-8", "surrogateescape")
            for name, value in self._sent(question).items()
        }


def _finding(heard: Heard) -> Finding:
    if heard.status == _MISSING:
        return Finding(Says.MISSING, "404")
    if heard.status not in _FOUND:
        raise SourceDown(f"status {heard.status}: {shown(heard.body)}")
    if heard.json and heard.body:
        return _worded(heard.body)
    return Finding(Says.FOUND, str(heard.status))


def _worded(body: bytes) -> Finding:
    try:
        said = json.loads(body)
        if not isinstance(said, dict) or "verdict" not in said:
            raise ValueError
        says = Says(said["verdict"])
        reply = said.get("reply") or ""
        own = refusal(reply.encode("ascii", "replace"))
    except (ValueError, AttributeError, RecursionError):
        raise SourceDown(f"not an answer: {shown(body)}") from None
    note = shown(body)
    if own is not None and (
        (own.permanent and says in (Says.MISSING, Says.REJECT))
        or (own.temporary and says is Says.DEFER)
    ):
        return refused(own, note)
    return Finding(says, note)


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, Http(settings), context)
