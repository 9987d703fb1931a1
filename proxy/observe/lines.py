"""Events as lines of text: every line printable ASCII, whatever a stranger sent.

Knows: the formats (logfmt; json; ``bare``, logfmt without the time, for multilog
and svlogd; ``journal``, which is bare with systemd's priority in front), field
names, escaping.  Knows not: where
lines go.  Called by ``log``.

Nothing that a stranger sends can end a line, begin one, add a field or reach
a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_type_hints

from proxy.observe.events import (
    AuthEnded,
    BackendFailed,
    BackendRefusedRecipient,
    Connected,
    Disconnected,
    Event,
    Leaked,
    LimitHit,
    MessageEnded,
    Notice,
    PressureChanged,
    ProxyHeaderBad,
    RecipientDecided,
    RuleAnswered,
    TlsFailed,
    TlsStarted,
    Turned,
)

Form = Literal["logfmt", "json", "bare", "journal"]
Level = Literal["debug", "info", "warning", "error", "critical"]
VALUE_MAX = 1024
"""Characters shown of one value: a HELO may be as long as a command line."""

LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

# sd-daemon(3): the journal takes these away again.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

_JSON = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


# Values.

_WORD = re.compile(r"[!#-<>-\[\]-~]+").fullmatch
_TEXT = re.compile(r"[ !#-\[\]-~]*").fullmatch
_ESCAPED = re.compile(r'[^ !#-\[\]-~]|["\\]')
_UNPRINTABLE = re.compile(r"[^ -~]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(value: bytes | str) -> str:
    """``value`` as printable ASCII, for people; bytes are Latin-1 text."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return _UNPRINTABLE.sub(_escape, _cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_MAX else text[:VALUE_MAX] + "..."


def _quote(text: str) -> str:
    """A logfmt value: a backslash means something between quotes only."""
    if _WORD(text):
        return text
    if not _TEXT(text):
        text = _ESCAPED.sub(_escape, text)
    return f'"{text}"'


# Lines.

Show = Callable[[Any], str]


class _Shape(NamedTuple):
    """How one kind of event is shown; ``level`` is empty where it depends."""

    name: str
    level: str
    fields: tuple[tuple[str, Show], ...]


# Shown only where they say something.
_OPTIONAL = frozenset({"observed", "undecided", "discarded", "backend", "user"})


def _show(name: str, kind: type) -> Show:
    """The function that makes `` name=value`` of a value of type ``kind``."""
    key = f" {name}="

    def text(value: str) -> str:
        if len(value) <= VALUE_MAX and _WORD(value):
            return key + value
        return key + _quote(_cut(value))

    def optional_text(value: str) -> str:
        return text(value) if value else ""

    def flag(value: bool) -> str:
        return key + ("true" if value else "false")

    def optional_flag(value: bool) -> str:
        return flag(value) if value else ""

    optional = name in _OPTIONAL
    if kind is bytes:
        as_text = optional_text if optional else text
        return lambda value: as_text(value.decode("latin-1"))
    if kind is bool:
        return optional_flag if optional else flag
    if kind is float:
        return lambda value: f"{key}{value:.3f}"
    if kind is int:
        return lambda value: f"{key}{value}" if value or not optional else ""
    return optional_text if optional else text


def _shape(kind: type[Event], name: str, level: str = "info") -> _Shape:
    types = get_type_hints(kind)
    # A level of its own stands at the head of the line, as everybody's.
    return _Shape(
        name,
        level,
        tuple(
            ("", _nothing) if n == "level" else (n, _show(n, types[n]))
            for n in kind._fields
        ),
    )


def _nothing(value: Any) -> str:
    return ""


_SHAPES: dict[type[Event], _Shape] = {
    # The line at the end of a session says all that this does.
    Connected: _shape(Connected, "connect", level="debug"),
    Disconnected: _shape(Disconnected, "disconnect"),
    Turned: _shape(Turned, "turned-away"),
    TlsStarted: _shape(TlsStarted, "tls"),
    ProxyHeaderBad: _shape(ProxyHeaderBad, "proxy-header", level="warning"),
    AuthEnded: _shape(AuthEnded, "auth"),
    RecipientDecided: _shape(RecipientDecided, "recipient"),
    BackendRefusedRecipient: _shape(BackendRefusedRecipient, "backend-refused"),
    MessageEnded: _shape(MessageEnded, "message", level=""),
    Leaked: _shape(Leaked, "leak", level="warning"),
    BackendFailed: _shape(BackendFailed, "backend-failed", level="warning"),
    LimitHit: _shape(LimitHit, "limit"),
    RuleAnswered: _shape(RuleAnswered, "rule", level="debug"),
    PressureChanged: _shape(PressureChanged, "pressure", level="warning"),
    TlsFailed: _shape(TlsFailed, "tls-failed", level=""),
    Notice: _shape(Notice, "notice", level=""),
}


def _level(event: Event) -> str:
    """The level of an event whose kind does not tell it."""
    if isinstance(event, Notice | TlsFailed):
        level = event.level.lower()
        return level if level in LEVELS else "warning"
    lost = isinstance(event, MessageEnded) and event.outcome == "unknown"
    return "warning" if lost else "info"


def _body(shape: _Shape, event: Event) -> str:
    """What follows ``event=``, in logfmt."""
    return shape.name + "".join(
        [show(value) for (_, show), value in zip(shape.fields, event, strict=True)]
    )


def _json_fields(shape: _Shape, event: Event) -> dict[str, str | int | float]:
    """The same names and values, for JSON."""
    fields: dict[str, str | int | float] = {}
    for (name, _), value in zip(shape.fields, event, strict=True):
        if not name or (not value and name in _OPTIONAL):
            continue
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            fields[name] = _cut(value)
        elif isinstance(value, float):
            fields[name] = round(value, 3)
        elif isinstance(value, int):  # and bool
            fields[name] = value
    return fields


def _recipient_body(shape: _Shape, event: RecipientDecided) -> str:
    """:func:`_body` for the commonest event, at half of the cost.

    All values are looked at together; where any is out of the ordinary, the
    general way is gone, which makes the same line.
    """
    session, client, helo_, sender_, recipient_, verdict = event[:6]
    observed, undecided, rule, reason, reply = event[6:]
    helo = helo_.decode("latin-1")
    sender = sender_.decode("latin-1")
    recipient = recipient_.decode("latin-1")
    words = f"{session}{client}{helo}{sender}{recipient}{verdict}{observed}{rule}"
    texts = f"{reason}{reply}"
    if (
        len(words) + len(texts) > VALUE_MAX
        or not (session and client and recipient and verdict and rule)
        or not (reason and " " in reply)
        or not _WORD(words)
        or not _TEXT(texts)
    ):
        return _body(shape, event)
    # Only these two are often empty: no HELO, and the null reverse-path.
    helo = helo or '""'
    sender = sender or '""'
    if " " in reason:
        reason = f'"{reason}"'
    elif not _WORD(reason):
        return _body(shape, event)
    if observed:
        verdict += f" observed={observed}"
    if undecided:
        verdict += " undecided=true"
    return (
        f"recipient session={session} client={client} helo={helo} sender={sender} "
        f"recipient={recipient} verdict={verdict} rule={rule} "
        f'reason={reason} reply="{reply}"'
    )


def _disconnect_body(shape: _Shape, event: Disconnected) -> str:
    """:func:`_body` for the end of a session, as above."""
    session, client, why, seconds, recipients, refused, messages = event
    words = session + client + why
    if not (session and client and why and _WORD(words)) or len(words) > VALUE_MAX:
        return _body(shape, event)
    return (
        f"disconnect session={session} client={client} why={why} "
        f"seconds={seconds:.3f} recipients={recipients} refused={refused} "
        f"messages={messages}"
    )


class TimeText:
    """The time of day as text; what is the same as last time is kept."""

    __slots__ = ("_millisecond", "_prefix", "_second", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._prefix = self._text = ""

    def __call__(self, when: float) -> str:
        """``2026-11-23T00:00:00.123Z`` for seconds since the epoch."""
        millisecond = int(when * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._text = f"{self._prefix}{rest:03d}Z"
        return self._text


class Formatter:
    """Makes the line of an event."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._time = TimeText()

    def line(self, event: Event, when: float) -> str:
        """The line, with its newline; ``when`` in seconds since the epoch."""
        shape = _SHAPES[type(event)]
        level = shape.level or _level(event)
        if self._form == "json":
            head = {"time": self._time(when), "level": level, "event": shape.name}
            # DEL is ASCII to the encoder, but not printable.
            text = _JSON(head | _json_fields(shape, event))
            return text.replace("\x7f", "\\u007f") + "\n"
        if isinstance(event, RecipientDecided):
            body = _recipient_body(shape, event)
        elif isinstance(event, Disconnected):
            body = _disconnect_body(shape, event)
        else:
            body = _body(shape, event)
        if self._form == "journal":
            return f"<{_PRIORITIES[level]}>level={level} event={body}\n"
        if self._form == "bare":
            return f"level={level} event={body}\n"
        return f"time={self._time(when)} level={level} event={body}\n"


_NUMBERS = {kind: LEVELS.get(shape.level, 0) for kind, shape in _SHAPES.items()}


def level_of(event: Event) -> int:
    """The event's level, as a number of ``logging``."""
    return _NUMBERS[type(event)] or LEVELS[_level(event)]
