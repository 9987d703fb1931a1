"""Log lines: what strangers send stays inside its value; nothing is raised."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import select
import socket
import typing
import warnings
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe import events, lines, log
from proxy.observe.bridge import LoggingHandler
from proxy.observe.log import Logger

NOW = 1795392000.123  # 2026-11-23T00:00:00.123Z

HOSTILE = [
    b"a\r\nlevel=info event=message outcome=accepted",
    b"\x1b[31mred\x1b]0;title\x07",
    b'" verdict=accept x="',
    b"\\",
    b'\\"',
    b"\\x41",
    b"nul\0nul",
    b"caf\xc3\xa9 \xff\x80\x9b",
    b"\x7f",
    b"<script>alert(1)</script>",
    b"",
    b" ",
    b"=",
    b"a=b",
    b"\t\x0b\x0c\x85",
]


class Store:
    """A stream that can be made to fail, and a clock."""

    def __init__(self) -> None:
        self.data = b""
        self.writes = 0
        self.error: int | None = None
        self.room: int | None = None
        self.time = NOW

    def write(self, data: bytes, /) -> int | None:
        self.writes += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                return None
        self.data += data
        return len(data)

    def now(self) -> float:
        return self.time

    @property
    def lines(self) -> list[str]:
        assert not self.data or self.data.endswith(b"\n")
        return self.data.decode("ascii").splitlines()


def recipient(**changes: typing.Any) -> events.RecipientDecided:
    event = events.RecipientDecided(
        session="s1",
        client="192.0.2.9",
        helo=b"client.example",
        sender=b"a@example.com",
        recipient=b"bob@example.test",
        verdict="reject",
        observed="",
        undecided=False,
        rule="qmail",
        reason="no such user",
        reply="550 5.1.1 no such recipient here",
    )
    return event._replace(**changes)


EVENTS: list[events.Event] = [
    events.Connected("s1", "192.0.2.9"),
    events.Disconnected("s1", "192.0.2.9", "quit", 1.25, 3, 2, 1),
    events.Turned("192.0.2.9", "connections"),
    recipient(),
    events.BackendRefusedRecipient("s1", "192.0.2.9", b"x@y", "550 no", "unix:/b"),
    events.MessageEnded(
        "s1", "192.0.2.9", b"", 2, 1000, "accepted", "250 ok", "", True, 0.5, "b:25"
    ),
    events.BackendFailed("s1", "127.0.0.1:2525", "connect", "refused"),
    events.LimitHit("s1", "192.0.2.9", "message_size"),
    events.RuleAnswered("staff", "error", 0.5),
    events.TlsStarted("s1", "192.0.2.9", "TLSv1.3", "TLS_AES_256_GCM_SHA384", 7),
    events.TlsFailed("s1", "192.0.2.9", "wrong version number", "debug"),
    events.Notice("error", "something"),
    events.PressureChanged(1, 3000, 4000),
    events.ProxyHeaderBad("192.0.2.9", "no PROXY header", 3),
    events.AuthEnded("s1", "192.0.2.9", b"PLAIN", "accepted", 235, b"jo\ne"),
    events.Leaked("s", "c", b"a@b", b"c@d", "qmail", "x", False, b"c@d", 7, b"no"),
]


def written(event: events.Event, form: lines.Form = "logfmt") -> str:
    store = Store()
    Logger(store, form=form, level="debug", now=store.now)(event)
    (line,) = store.lines
    return line


def bare_body(event: events.Event) -> str:
    """The general way, without the short cut for recipients."""
    return lines._body(lines._SHAPES[type(event)], event)


_PAIR = re.compile(r'([a-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^ "=\\]+))(?: |$)')
_ESCAPE = re.compile(r'\\(?:x(..)|u(....)|U(.{8})|(["\\]))')


def read_logfmt(line: str) -> dict[str, str]:
    """A reader as simple as anybody would write it."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = _PAIR.match(line, at)
        assert match, line[at:]
        name, quoted, word = match.groups()
        assert name not in pairs
        pairs[name] = word if quoted is None else _ESCAPE.sub(_unescape, quoted)
        at = match.end()
    return pairs


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    return chr(int(code, 16)) if code else match[4]


def shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def expected(event: events.Event) -> dict[str, str]:
    fields = event._asdict()
    for name in ("observed", "undecided"):
        if not fields.get(name, True):
            del fields[name]
    return {name: shown(value) for name, value in fields.items()}


def test_every_kind_of_event_has_a_name() -> None:
    assert set(typing.get_args(events.Event)) == set(lines._SHAPES)
    assert {type(event) for event in EVENTS} == set(lines._SHAPES)


def test_line() -> None:
    assert written(recipient()) == (
        "time=2026-11-23T00:00:00.123Z level=info event=recipient session=s1 "
        "client=192.0.2.9 helo=client.example sender=a@example.com "
        "recipient=bob@example.test verdict=reject rule=qmail "
        'reason="no such user" reply="550 5.1.1 no such recipient here"'
    )


def test_optional_fields() -> None:
    line = written(recipient(verdict="accept", observed="reject", undecided=True))
    assert " verdict=accept observed=reject undecided=true rule=qmail " in line


@pytest.mark.parametrize("event", EVENTS)
def test_lines_parse_back(event: events.Event) -> None:
    pairs = read_logfmt(written(event))
    assert list(pairs)[:3] == ["time", "level", "event"]
    assert pairs.pop("time") == "2026-11-23T00:00:00.123Z"
    level = pairs.pop("level")
    assert pairs.pop("event") == lines._SHAPES[type(event)].name
    if isinstance(event, events.Notice | events.TlsFailed):
        assert level == event.level
        pairs["level"] = level
    assert pairs == expected(event)


@pytest.mark.parametrize("form", ["logfmt", "bare", "json"])
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_stay_inside(value: bytes, form: lines.Form) -> None:
    text = value.decode("latin-1")
    event = recipient(
        session=text, client=text, helo=value, sender=value, recipient=value
    )._replace(rule=text, reason=text, reply=text)
    line = written(event, form)
    assert re.fullmatch("[ -~]*", line)
    if form == "json":
        fields = json.loads(line)
    else:
        fields = read_logfmt(line)
        assert ("time" in fields) == (form == "logfmt")
        assert line.count(" verdict=reject ") == 1
    for name in ("session", "helo", "sender", "recipient", "reason", "reply"):
        assert fields[name] == text
    assert fields["verdict"] == "reject"


anything = st.binary(max_size=40)
texts = st.text(max_size=40)


@given(anything, anything, anything, texts, texts, texts, st.booleans())
def test_short_cut_makes_the_same_line(
    helo: bytes,
    sender: bytes,
    address: bytes,
    observed: str,
    reason: str,
    reply: str,
    undecided: bool,
) -> None:
    event = recipient(
        helo=helo,
        sender=sender,
        recipient=address,
        observed=observed,
        reason=reason,
        reply=reply,
        undecided=undecided,
    )
    line = written(event, "bare")
    assert line == "level=info event=" + bare_body(event)
    assert re.fullmatch("[ -~]*", line)
    pairs = read_logfmt(line)
    assert {n: pairs[n] for n in expected(event)} == expected(event)
    fields = json.loads(written(event, "json"))
    assert fields["recipient"] == address.decode("latin-1")
    assert fields["reason"] == reason


def test_short_cut_of_ordinary_lines_is_the_same() -> None:
    for event in (recipient(), recipient(sender=b"", helo=b""), recipient(rule="")):
        assert written(event, "bare").endswith(bare_body(event))


def test_surrogates_and_wide_characters() -> None:
    line = written(events.Notice("info", "\udcff \u20ac \U0001f600"))
    assert line.endswith(r'text="\udcff \u20ac \U0001f600"')


def test_long_values_are_cut() -> None:
    pairs = read_logfmt(written(recipient(helo=b"h" * 5000)))
    assert pairs["helo"] == "h" * lines.VALUE_MAX + "..."
    fields = json.loads(written(recipient(helo=b"h" * 5000), "json"))
    assert fields["helo"] == pairs["helo"]


def test_json_has_numbers_and_booleans() -> None:
    fields = json.loads(written(EVENTS[5], "json"))
    assert fields == {
        "time": "2026-11-23T00:00:00.123Z",
        "level": "info",
        "event": "message",
        "session": "s1",
        "client": "192.0.2.9",
        "sender": "",
        "recipients": 2,
        "size": 1000,
        "outcome": "accepted",
        "reply": "250 ok",
        "reason": "",
        "heard": True,
        "seconds": 0.5,
        "backend": "b:25",
    }
    assert "undecided" not in json.loads(written(recipient(), "json"))


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (EVENTS[0], "debug"),
        (EVENTS[1], "info"),
        (recipient(undecided=True), "info"),
        (EVENTS[6], "warning"),
        (
            typing.cast(events.MessageEnded, EVENTS[5])._replace(outcome="unknown"),
            "warning",
        ),
        (events.Notice("ERROR", "x"), "error"),
        (events.Notice("no\nlevel", "x"), "warning"),
    ],
)
def test_levels(event: events.Event, level: str) -> None:
    assert f"level={level} " in written(event)


def test_level_filters() -> None:
    store = Store()
    logger = Logger(store, level="warning", now=store.now)
    logger(recipient())
    logger.notice("debug", "x")
    logger.notice("warning", "y")
    logger.notice("error", "z")
    assert [read_logfmt(line)["text"] for line in store.lines] == ["y", "z"]


def test_time_goes_on() -> None:
    store = Store()
    logger = Logger(store, now=store.now)
    for store.time in (0.0, 0.0014, 0.9999, 1.0, 86400.5):
        logger.notice("info", "x")
    assert [read_logfmt(line)["time"] for line in store.lines] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.001Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "1970-01-02T00:00:00.500Z",
    ]


# The queue.


class Later:
    """A schedule that runs when told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_lines_of_one_turn_are_one_write() -> None:
    store, later = Store(), Later()
    logger = Logger(store, level="debug", schedule=later, now=store.now)
    for _ in range(2):
        for event in EVENTS:
            logger(event)
        assert len(later.calls) == 1
        later.run()
    assert store.writes == 2
    assert len(store.lines) == 2 * len(EVENTS)


def test_close_writes_and_later_lines_are_not_scheduled() -> None:
    store, later = Store(), Later()
    logger = Logger(store, schedule=later, now=store.now)
    logger.notice("info", "one")
    logger.close()
    logger.notice("info", "two")
    assert len(store.lines) == 2
    later.run()
    assert len(store.lines) == 2


def test_closed_loop() -> None:
    def schedule(call: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    store = Store()
    Logger(store, schedule=schedule, now=store.now).notice("info", "one")
    assert len(store.lines) == 1


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ENOSPC, errno.EAGAIN, errno.EIO])
def test_failing_stream(error: int) -> None:
    store = Store()
    logger = Logger(store, now=store.now)
    store.error = error
    for number in range(10_000):
        logger.notice("info", f"{number} " + "x" * 500)
    assert logger.lost > 0
    assert logger._queued <= log.QUEUE_MAX
    assert store.writes == 1  # it is not tried for every line
    store.error = None
    store.time += 2
    logger.notice("info", "again")
    kept = [read_logfmt(line)["text"].partition(" ")[0] for line in store.lines]
    lost = logger.lost
    assert kept == [*map(str, range(10_000 - lost)), "again", str(lost)]
    assert store.lines[-1].endswith(f'text="{lost} log lines were lost"')
    assert " level=warning " in store.lines[-1]
    logger.notice("info", "at last")
    assert store.lines[-1].endswith('text="at last"')
    assert logger.lost == lost


def test_stream_that_takes_a_part() -> None:
    store = Store()
    logger = Logger(store, now=store.now)
    store.room = 50
    for number in range(5):
        logger.notice("info", str(number))
    assert len(store.data) == 50
    store.room = None
    store.time += 1
    logger.notice("info", "5")
    assert [read_logfmt(line)["text"] for line in store.lines] == list("012345")
    assert logger.lost == 0


def test_clock_set_back_does_not_end_trying() -> None:
    store = Store()
    logger = Logger(store, now=store.now)
    store.error = errno.ENOSPC
    logger.notice("info", "one")
    store.error = None
    store.time -= 86400
    logger.notice("info", "two")
    assert len(store.lines) == 2


def test_more_lines_than_the_queue_holds_in_one_turn() -> None:
    store, later = Store(), Later()
    logger = Logger(store, schedule=later, now=store.now)
    for _ in range(3000):
        logger.notice("info", "x" * 900)
    later.run()
    assert len(store.lines) == 3000
    assert logger.lost == 0


def test_closed_stream() -> None:
    stream = io.BytesIO()
    logger = Logger(stream)
    stream.close()
    logger.notice("info", "x")
    logger.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_full_pipe_does_not_block(pipe: tuple[int, int]) -> None:
    read, write = pipe
    store = Store()
    with open(write, "wb", buffering=0, closefd=False) as stream:
        logger = Logger(stream, now=store.now)
        total = 2000
        for number in range(total):
            logger.notice("info", f"{number} " + "x" * 200)
        assert logger.lost == 0
        data = b""
        while data.count(b"\n") < total:
            piece = os.read(read, 1 << 16)
            # Whole lines: other processes may write to the same pipe.
            assert piece.endswith(b"\n")
            data += piece
            logger.flush()
    texts = [read_logfmt(line)["text"] for line in data.decode().splitlines()]
    assert [text.split()[0] for text in texts] == [str(n) for n in range(total)]


class AlwaysRoom:
    """select.poll() of which what it says is out of date: another process has taken
    the room."""

    def register(self, descriptor: int, events: int) -> None:
        pass

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        return [(0, select.POLLOUT)]


def filled(descriptor: int) -> int:
    """Write until no more fits; how much did."""
    total = 0
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            total += os.write(descriptor, b"x" * 512)
    os.set_blocking(descriptor, True)
    return total


@pytest.mark.fault("N24")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_room_that_others_take_is_not_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "poll", AlwaysRoom)
    if kind == "pipe":
        read, write = os.pipe()
    else:
        read, write = (end.detach() for end in socket.socketpair())
    store = Store()
    with open(write, "wb", buffering=0) as stream, open(read, "rb", 0) as reader:
        logger = Logger(stream, now=store.now)
        others = filled(write)
        logger.notice("info", "later")
        assert os.get_blocking(write)  # others' descriptors are left as they are
        while others:
            others -= len(os.read(read, others))
        logger.flush()
        logger.close()
        line = os.read(reader.fileno(), 4096).decode().rstrip("\n")
        assert read_logfmt(line)["text"] == "later"


def test_pipe_without_a_reader(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    with open(write, "wb", closefd=False) as stream:
        logger = Logger(stream)
        logger.notice("info", "x")
        logger.close()
    assert logger._rest


# Python's logging.


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def library(store: Store) -> Iterator[logging.Logger]:
    """A library's logger whose records end in ``store``."""
    logger = logging.Logger("some.library")
    handler = LoggingHandler(Logger(store, now=store.now).notice, now=store.now)
    logger.addHandler(handler)
    yield logger
    handler.close()


def texts_of(store: Store) -> list[str]:
    return [read_logfmt(line)["text"] for line in store.lines]


def test_logging_is_one_escaped_line(store: Store, library: logging.Logger) -> None:
    library.info("not this")
    library.warning("from %s", "a\nlevel=error\x1b[0m")
    assert texts_of(store) == ["some.library: from a\nlevel=error\x1b[0m"]
    assert " level=warning " in store.lines[0]


def test_logging_levels(store: Store, library: logging.Logger) -> None:
    for number in (30, 35, 40, 50, 60):
        library.log(number, "x")
    levels = [read_logfmt(line)["level"] for line in store.lines]
    assert levels == ["warning", "warning", "error", "critical", "critical"]


def test_logging_of_exceptions(store: Store, library: logging.Logger) -> None:
    try:
        raise KeyError("which\nkey")
    except KeyError:
        library.exception("it failed")
    (text,) = texts_of(store)
    assert "it failed: KeyError: 'which\\nkey' (test_log.py:" in text
    assert "/" not in text


def test_logging_of_nonsense(store: Store, library: logging.Logger) -> None:
    class Bad:
        def __str__(self) -> str:
            raise ValueError

    library.error("%d", "x")
    library.error("%s", Bad())
    library.error(Bad())
    assert len(store.lines) == 3


def test_logging_is_limited(store: Store, library: logging.Logger) -> None:
    for number in range(50):
        library.warning("again %d", number)
    library.warning("another")
    assert len(store.lines) == 21
    store.time += 61
    library.warning("again %d", 50)
    assert texts_of(store)[21:] == [
        "30 more lines left out: some.library: again %d",
        "some.library: again 50",
    ]


def test_logging_of_endless_kinds(store: Store, library: logging.Logger) -> None:
    for number in range(2000):
        library.warning(f"number {number}")
    handler = library.handlers[0]
    assert isinstance(handler, LoggingHandler)
    assert len(store.lines) == 256 + 20
    handler.close()
    assert texts_of(store)[-1] == "1724 more lines left out: lines of other kinds"
    handler.close()
    assert len(store.lines) == 256 + 21


def test_capture_logging(store: Store) -> None:
    logger = Logger(store, now=store.now)
    handlers = list(logging.getLogger().handlers)
    logger.capture_logging()
    logger.capture_logging()
    logging.getLogger("asyncio").error("trouble")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nway", stacklevel=1)
    logger.close()
    logging.getLogger("asyncio").error("after")
    assert logging.getLogger().handlers == handlers
    first, second = texts_of(store)
    assert first == "asyncio: trouble"
    assert second.startswith("py.warnings: ")
    assert "old\nway" in second
