"""Our own log: recipients, messages and the other lines, as rows.

Knows: the lines that ``observe/lines.py`` writes, in all forms, with or
without the time that multilog, svlogd, syslog or journald puts in front.  Knows
not: files, what is counted.  No I/O.  Called by the report.

A line counts only if it begins as ours do.  What strangers send stands between
quotes if it has a blank in it, and a quote within is escaped, so that none of it
can be taken for a field.
"""

from __future__ import annotations

import re

# A logfmt value, as _quote() writes it, and a JSON string; the quotes go with it.
# (What is possessive cannot match otherwise, and need not be tried again.)
_QUOTED = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_VALUE = rb'(?:[^ "\\\n]++|%b)' % _QUOTED
# What others put in front has none of these, and it is not a stranger's.
_LOGFMT = (
    rb'\n(|[^="\n{]+?)(?:time=([^ \n]+) )?level=[a-z]+ event=',
    rb"%b",
    b" ",
    b"=",
    _VALUE,
    rb"([a-z]+)",
    b"true",
)
_JSON = (
    rb'\n([^"\n{]*)\{"time":"([^"\n]+)","level":"[a-z]+","event":',
    rb'"%b"',
    b",",
    b":",
    _QUOTED,
    rb'"([a-z]+)"',
    b"true",
)

# The groups of a row.
HEAD, TIME = 0, 1
SESSION, CLIENT, SENDER, RECIPIENT, VERDICT, OBSERVED = 2, 3, 4, 5, 6, 7
UNDECIDED, RULE, REASON, REPLY = 8, 9, 10, 11
DISCONNECT_WHY = 12
MESSAGE_SESSION, MESSAGE_CLIENT, MESSAGE_SENDER, MESSAGE_RECIPIENTS = 13, 14, 15, 16
MESSAGE_SIZE, MESSAGE_OUTCOME, MESSAGE_REPLY, MESSAGE_REASON = 17, 18, 19, 20
REFUSED_SESSION, REFUSED_RECIPIENT, REFUSED_REPLY = 21, 22, 23
TURNED_LIMIT = 24
FAILED_STEP = 25

# Events with their fields.  What has a sign is kept: + any value, : a word, # a
# number, ! a flag; with ? it may be missing.
_EVENTS = (
    (
        "recipient",
        "session+ client+ helo sender+ recipient+ verdict: observed?: undecided?!"
        " rule+ reason+ reply+",
    ),
    ("disconnect", "session client why+"),
    ("message", "session+ client+ sender+ recipients# size# outcome: reply+ reason+"),
    ("backend-refused", "session+ client recipient+ reply+"),
    ("turned-away", "client limit+"),
    ("backend-failed", "session backend step+"),
)


def _pattern(form: tuple[bytes, ...]) -> re.Pattern[bytes]:
    head, name, between, equals, value, word, true = form
    # Each of them is one group, but for the fields that nobody asks for.
    kinds = {
        "+": b"(%b)" % value,
        ":": word,
        "#": rb"(\d+)",
        "": value,
    }
    events = []
    for event, fields in _EVENTS:
        text = name % event.encode()
        for field in fields.split():
            label = field.rstrip("+:#!?")
            sign = field[len(label) :]
            key = between + name % label.encode() + equals
            if sign == "?!":
                text += b"(%b)?" % (key + true)
            elif sign.startswith("?"):
                text += b"(?:%b)?" % (key + kinds[sign[1:]])
            else:
                text += key + kinds[sign]
        events.append(text)
    return re.compile(head + b"(?:" + b"|".join(events) + b")")


_FIND_LOGFMT = _pattern(_LOGFMT)
_FIND_JSON = _pattern(_JSON)

Row = tuple[bytes, ...]
"""A line's groups, by the numbers above: those of other kinds of lines are empty.
Values are as they stand there; :func:`plain` reads them."""


def rows(block: bytes) -> list[Row]:
    """The lines of ours in ``block``, which is whole lines with a newline before
    the first.  Connections, limits, notices and the like are left out."""
    found: list[Row] = []
    if b" event=" in block:
        found = _FIND_LOGFMT.findall(block)
    if b'"event":"' in block:
        # Nobody changes the format within a block but at a restart.
        found += _FIND_JSON.findall(block)
    return found


# Values.

_ESCAPE = re.compile(
    rb"\\(?:x([0-9a-f]{2})|u([0-9a-fA-F]{4})|U([0-9a-f]{8})|(.))", re.S
)
_SHORT = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[4]:
        return _SHORT.get(match[4], match[4])
    code = int(match[1] or match[2] or match[3], 16)
    return bytes((code,)) if code < 0x100 else b"?"


def plain(value: bytes) -> bytes:
    """The bytes that a value stands for."""
    if value[:1] != b'"':
        return value
    inner = value[1:-1]
    return _ESCAPE.sub(_unescape, inner) if b"\\" in inner else inner
