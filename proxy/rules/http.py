"""The rule ``http``: a URL of the site's own.

Knows: how the address is sent, what statuses and bodies mean.  Knows not: HTTP
(``web``), how credentials are written (``credentials``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from proxy.config.rules import RemoteKeys
from proxy.config.values import AbsolutePath, Text, is_loopback, split_list, wrong
from proxy.rules.credentials import Credentials
from proxy.rules.pointed import here
from proxy.rules.said import refusal, shown, worded
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.trouble import WARNING, Trouble
from proxy.rules.verdict import Question
from proxy.rules.web import Heard, Url, Web

What = Literal["recipient", "sender", "client", "helo", "user"]

_FOUND, _UNAUTHORIZED, _MISSING = (200, 204), 401, 404
_NOTE_MAX = 200


def _checked_user(text: str) -> str:
    if ":" in text or not text.isprintable():
        raise wrong("is no name for HTTP", "write it without a colon")  # RFC 7617
    return text


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
    token_file: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/http.token"],
        description="A file whose first line is a token, sent as Authorization:"
        " Bearer.",
    )
    user: Annotated[Text, AfterValidator(_checked_user)] | None = Field(
        default=None,
        examples=["backstop"],
        description="A name, sent with its password as Authorization: Basic.",
    )
    password_file: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/http.password"],
        description="A file whose first line is the password of user.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            has, lacks = ("user", "password_file")[:: 1 if self.user else -1]
            raise wrong(f"has {has} but no {lacks}", "write both, or neither")
        if self.token_file and self.user:
            raise wrong("has both token_file and user", "write one of them")
        return self

    def is_forgetful(self) -> bool:
        return self.send != ("recipient",)


class Http(BaseSource):
    """Asks the URL."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._web = Web(keep=True)
        self._credentials = _credentials(settings)

    def query(self, question: Question) -> str:
        if self._settings.method == "POST":
            return f"POST {self._settings.url} {json.dumps(self._object(question))}"
        return f"GET {self._url(question)}"

    def key(self, question: Question) -> bytes | None:
        return None if self._settings.is_forgetful() else super().key(question)

    async def ask(self, question: Question) -> Finding:
        credentials = self._credentials
        if credentials is None:
            return _finding(await self._heard(question, ""), _as_it_is)
        try:
            heard = await self._heard(question, credentials.header())
        except Exception as error:  # whatever it is, it may quote what was sent
            why = str(error) or type(error).__name__
            raise SourceDown(credentials.hidden(why)) from None
        if heard.status == _UNAUTHORIZED:
            credentials.refused()
        return _finding(heard, credentials.hidden)

    async def _heard(self, question: Question, authorization: str) -> Heard:
        web, url = self._web, self._settings.url
        if self._settings.method == "POST":
            data = self._object(question)
            return await web.ask("POST", url, data, authorization=authorization)
        url = self._url(question)
        return await web.ask("GET", url, authorization=authorization)

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


def _credentials(settings: Settings) -> Credentials | None:
    if settings.token_file is None and settings.user is None:
        return None
    user, password_file = settings.user or "", settings.password_file or ""
    return Credentials(settings.token_file, user, password_file)


Hide = Callable[[str], str]
"""Takes out of a text what nobody but the service is to know."""


def _finding(heard: Heard, hide: Hide) -> Finding:
    if heard.status == _MISSING:
        return Finding(Says.MISSING, "404")
    if heard.status not in _FOUND:
        raise SourceDown(f"status {heard.status}: {_shown(heard.body, hide)}")
    if heard.json and heard.body:
        return _read(heard.body, hide)
    return Finding(Says.FOUND, str(heard.status))


def _read(body: bytes, hide: Hide) -> Finding:
    text = _shown(body, hide)
    try:
        said = json.loads(body)
        # As it was read: in JSON any letter may be written as its number.
        text = hide(json.dumps(said, ensure_ascii=False))[:_NOTE_MAX]
        if not isinstance(said, dict) or "verdict" not in said:
            raise ValueError
        says = Says(said["verdict"])
        reply = said.get("reply") or ""
        own = refusal(reply.encode("ascii", "replace"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise SourceDown(f"not an answer: {text}") from None
    if hide(reply) != reply:
        own = None  # what it was shown itself is not for strangers
    return worded(says, text, own)


def _as_it_is(text: str) -> str:
    return text


def _shown(body: bytes, hide: Hide) -> str:
    """Before it is cut: half a secret is one, too."""
    return hide(shown(body, len(body)))[:_NOTE_MAX]


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule of a ``[[rules]]`` table of this type."""
    return SourceRule(settings, Http(settings), context)


def check(settings: Settings, context: Context) -> Iterator[Trouble]:
    """Whether anybody listens, if that is on this machine; whether the credentials
    can be read, and who else may read them."""
    yield from here(settings.url)
    credentials = _credentials(settings)
    if credentials is None:
        return
    key = "password_file" if settings.token_file is None else "token_file"
    try:
        credentials.header()
    except SourceDown as error:
        remedy = "until this is mended its recipients are deferred"
        yield Trouble(str(error), remedy, key)
    parts = urlsplit(settings.url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        what = f"{key} goes over the network in the clear, for everybody to read"
        yield Trouble(what, "write https:// in url", "url", level=WARNING)
