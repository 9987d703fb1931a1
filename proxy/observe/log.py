"""Log lines: events become one line each, on standard error.

Knows: the three formats (logfmt, json, and ``bare``: logfmt without the time,
for multilog, svlogd and journald), escaping, a stream that fails or stands
still.  Knows not: who makes events, where standard error leads.  Made by the
service, called as an ``Observer`` by every stage.

Nothing that a stranger sends can end a line, begin one, add a field or reach
a terminal: every line is printable ASCII.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import stat
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_type_hints

from proxy.observe.events import (
    BackendFailed,
    BackendRefusedRecipient,
    Connected,
    Disconnected,
    Event,
    LimitHit,
    MessageEnded,
    Notice,
    RecipientDecided,
    Turned,
)

Form = Literal["logfmt", "json", "bare"]
Level = Literal["debug", "info", "warning", "error", "critical"]
Schedule = Callable[[Callable[[], None]], object]
"""Calls back soon, e.g. ``loop.call_soon``."""

QUEUE_MAX = 1 << 20
"""Bytes of lines that wait for the stream; further lines are lost."""

VALUE_MAX = 1024
"""Characters shown of one value: a HELO may be as long as a command line."""

_FULL_SECONDS = 0.05
_BROKEN_SECONDS = 1.0
"""How long a stream is left alone that takes no more, or fails."""

_LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

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
_OPTIONAL = frozenset({"observed", "undecided"})


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
        return lambda value: text(value.decode("latin-1"))
    if kind is bool:
        return optional_flag if optional else flag
    if kind is float:
        return lambda value: f"{key}{value:.3f}"
    if kind is int:
        return lambda value: f"{key}{value}"
    return optional_text if optional else text


def _shape(kind: type[Event], name: str, level: str = "info") -> _Shape:
    types = get_type_hints(kind)
    return _Shape(name, level, tuple((n, _show(n, types[n])) for n in kind._fields))


_SHAPES: dict[type[Event], _Shape] = {
    Connected: _shape(Connected, "connect"),
    Disconnected: _shape(Disconnected, "disconnect"),
    Turned: _shape(Turned, "turned-away"),
    RecipientDecided: _shape(RecipientDecided, "recipient"),
    BackendRefusedRecipient: _shape(BackendRefusedRecipient, "backend-refused"),
    MessageEnded: _shape(MessageEnded, "message", level=""),
    BackendFailed: _shape(BackendFailed, "backend-failed", level="warning"),
    LimitHit: _shape(LimitHit, "limit"),
    # Its level stands at the head of the line, as everybody's.
    Notice: _Shape("notice", "", (("", lambda _: ""), ("text", _show("text", str)))),
}


def _level(event: Event) -> str:
    """The level of an event whose kind does not tell it."""
    if isinstance(event, Notice):
        level = event.level.lower()
        return level if level in _LEVELS else "warning"
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
        or not (" " in reason and " " in reply)  # else they might need no quotes
        or not _WORD(words)
        or not _TEXT(texts)
    ):
        return _body(shape, event)
    # Only these two are often empty: no HELO, and the null reverse-path.
    helo = helo or '""'
    sender = sender or '""'
    if observed:
        verdict += f" observed={observed}"
    if undecided:
        verdict += " undecided=true"
    return (
        f"recipient session={session} client={client} helo={helo} sender={sender} "
        f"recipient={recipient} verdict={verdict} rule={rule} "
        f'reason="{reason}" reply="{reply}"'
    )


class _Clock:
    """The time of day as text; what is the same as last time is kept."""

    __slots__ = ("_millisecond", "_now", "_prefix", "_second", "_text")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._millisecond = self._second = -1
        self._prefix = self._text = ""

    def __call__(self) -> str:
        """``2026-11-23T00:00:00.123Z``."""
        millisecond = int(self._now() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._text = f"{self._prefix}{rest:03d}Z"
        return self._text


# The stream.


class Stream(Protocol):
    """A raw binary stream: ``None`` or a short count where it takes no more."""

    def write(self, data: bytes, /) -> int | None: ...


class _Output:
    """Writes as much as the stream takes now; never raises, never waits."""

    def __init__(self, stream: Stream) -> None:
        # A buffered writer keeps what it could not write, and we keep it too.
        self._raw: Stream = getattr(stream, "raw", stream)
        self._poll = _poll(self._raw)
        self.patience = 0.0

    def write(self, data: bytes) -> int:
        """How many bytes were taken; if not all, ``patience`` is the time
        until trying again may help."""
        taken = 0
        self.patience = _FULL_SECONDS
        try:
            while taken < len(data):
                if self._poll is not None and not self._poll.poll(0):
                    break
                written = self._raw.write(data[taken : self._piece_end(data, taken)])
                if not written:
                    break
                taken += written
        except BlockingIOError:
            pass
        except (OSError, ValueError):  # ValueError: closed
            self.patience = _BROKEN_SECONDS
        return taken

    def _piece_end(self, data: bytes, start: int) -> int:
        """All of it; to a pipe, whole lines that are written in one go.

        PIPE_BUF bytes never block where poll said that there is room, and
        are not mixed with those of other processes (pipe(7)).
        """
        end = start + select.PIPE_BUF
        if self._poll is None or end >= len(data):
            return len(data)
        return data.rfind(b"\n", start, end) + 1 or end


def _poll(stream: Any) -> select.poll | None:
    """Who to ask whether a write would block; a file's never does."""
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
    except (AttributeError, OSError, ValueError):
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll


# The logger.


class Logger:
    """An ``Observer`` that writes lines.

    ``schedule`` is called with :meth:`flush` when a line is queued and none
    waits yet, so that all lines of one turn of the loop are one write; without
    it, every line is written at once.  When the stream takes no more, up to
    :data:`QUEUE_MAX` bytes of lines are kept, and it is tried again with
    later lines, or whenever :meth:`flush` is called; when it has taken what was
    kept, one line tells how many were lost.  For one thread; where others log,
    ``schedule`` must be ``call_soon_threadsafe``.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        form: Form = "logfmt",
        level: Level = "info",
        schedule: Schedule | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._output = _Output(stream)
        self._form = form
        self._threshold = _LEVELS[level]
        self._schedule = schedule
        self._clock = _Clock(now)
        self._now = now
        self._lines: list[str] = []
        self._rest = b""  # what the stream has not taken; may begin in a line
        self._queued = 0
        self._scheduled = False
        self._failed: float | None = None
        self._untold = 0
        self._handler: LoggingHandler | None = None
        self.lost = 0

    def __call__(self, event: Event) -> None:
        """Queue the event's line."""
        shape = _SHAPES[type(event)]
        level = shape.level or _level(event)
        if _LEVELS[level] >= self._threshold:
            self._queue(self._line(shape, level, event))

    def notice(self, level: str, text: str) -> None:
        """Queue a line about the service itself."""
        self(Notice(level, text))

    def flush(self) -> None:
        """Write what is queued, as far as the stream takes it."""
        self._scheduled = False
        data = self._rest + "".join(self._lines).encode("ascii")
        self._lines.clear()
        taken = self._output.write(data)
        self._rest = data[taken:]
        self._queued = len(self._rest)
        if self._rest:
            self._failed = self._now()
            return
        self._failed = None
        if self._untold:
            text = f"{self._untold} log lines were lost"
            self._untold = 0
            # Past the level: it is about the other lines.
            line = self._line(_SHAPES[Notice], "warning", Notice("warning", text))
            self._queue(line)

    def capture_logging(self) -> None:
        """Take what libraries log or warn about, until :meth:`close`."""
        if self._handler is None:
            self._handler = LoggingHandler(self)
            logging.getLogger().addHandler(self._handler)
            logging.captureWarnings(True)

    def close(self) -> None:
        """Write what is left; later lines are written one by one."""
        if self._handler is not None:
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        self._schedule = None
        self.flush()

    def _line(self, shape: _Shape, level: str, event: Event) -> str:
        if self._form == "json":
            head = {"time": self._clock(), "level": level, "event": shape.name}
            # DEL is ASCII to the encoder, but not printable.
            text = _JSON(head | _json_fields(shape, event))
            return text.replace("\x7f", "\\u007f") + "\n"
        if isinstance(event, RecipientDecided):
            body = _recipient_body(shape, event)
        else:
            body = _body(shape, event)
        if self._form == "bare":
            return f"level={level} event={body}\n"
        return f"time={self._clock()} level={level} event={body}\n"

    def _queue(self, line: str) -> None:
        size = len(line)
        if self._queued + size > QUEUE_MAX and self._failed is None:
            self.flush()
        if self._queued + size > QUEUE_MAX:
            self._untold += 1
            self.lost += 1
        else:
            self._lines.append(line)
            self._queued += size
        if not self._scheduled:
            self._plan()

    def _plan(self) -> None:
        failed = self._failed
        # abs(): a clock that was set back must not end all trying.
        if failed is not None and abs(self._now() - failed) < self._output.patience:
            return
        if self._schedule is not None:
            try:
                self._schedule(self.flush)
            except RuntimeError:  # the loop is closed
                pass
            else:
                self._scheduled = True
                return
        self.flush()


# Python's own logging.


class LoggingHandler(logging.Handler):
    """Routes warnings and worse of libraries into the same lines.

    At most ``rate`` lines a minute for one logger and message template, then
    one line that tells how many were suppressed, with the first record after
    that minute or at :meth:`close`.
    """

    _WINDOW_SECONDS = 60.0
    _KINDS_MAX = 256

    def __init__(
        self,
        logger: Logger,
        *,
        rate: int = 20,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        self._rate = rate
        self._now = now
        self._seen: dict[tuple[str, str], int] = {}
        self._until = now() + self._WINDOW_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises."""
        now = self._now()
        if now >= self._until:
            self._tell_suppressed()
            self._until = now + self._WINDOW_SECONDS
        message = record.msg
        template = message if isinstance(message, str) else type(message).__name__
        key = (record.name, template[:VALUE_MAX])
        if key not in self._seen and len(self._seen) >= self._KINDS_MAX:
            key = ("logging", "messages of other kinds")
        count = self._seen[key] = self._seen.get(key, 0) + 1
        if count <= self._rate:
            level = _level_name(record.levelno)
            self._logger.notice(level, f"{record.name}: {_message(record)}")

    def close(self) -> None:
        """Tell what was suppressed."""
        self._tell_suppressed()
        super().close()

    def _tell_suppressed(self) -> None:
        for (name, template), count in self._seen.items():
            if count > self._rate:
                text = f"{name}: suppressed {count - self._rate} more: {template}"
                self._logger.notice("warning", text)
        self._seen.clear()


def _level_name(number: int) -> str:
    for name, least in reversed(_LEVELS.items()):
        if number >= least:
            return name
    return "debug"


def _message(record: logging.LogRecord) -> str:
    """The message, and an exception with the innermost places it came through."""
    try:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return text
        places = [
            f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-8:]
        ]
        return f"{text}: {type(error).__name__}: {error} ({' > '.join(places)})"
    except Exception as error:  # a library's bad format string, or its __str__
        return f"a record that cannot be shown: {type(error).__name__}"
