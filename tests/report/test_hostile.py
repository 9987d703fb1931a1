"""Whatever strangers put into addresses: nothing raises, no line is forged, and what
is shown is what was sent."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.observe.heavy import Heavy
from proxy.observe.lines import Form
from proxy.report.our_log import RECIPIENT, SENDER, VERDICT, plain, rows
from proxy.report.qmail_log import feed, logsafe
from proxy.report.stamp import Clock, read_moment
from proxy.report.tally import Tally
from proxy.report.text import text
from tests.report.story import FAILURE, Story, decided

FORMS: list[Form] = ["logfmt", "json", "bare"]

# What could be taken for a part of a line, in any mixture, and anything else.
_PIECES = [
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b'"',
    b"\\",
    b'\\"',
    b"/",
    b"%",
    b"{",
    b"}",
    b"=",
    b",",
    b"<",
    b">",
    b"\xff",
    b"\x1b[31m",
    b"\xe2\x80\xa8",
    b"a@b",
    b"-",
    b"...",
    b'","event":"recipient","verdict":"reject"',
    b"level=info event=recipient session=x client=x helo=x sender=x recipient=x"
    b" verdict=reject rule=x reason=x reply=x",
    b'{"time":"2026-01-08T15:59:51.000Z","level":"info","event":"recipient"',
    b" verdict=reject ",
    b"@40000000695fd4810209e384 ",
    b"info msg 7: bytes 9 from <x> qp 42 uid 5",
    b"> qp 42 uid 5",
    b"starting delivery 1: msg 7 to local x",
    b"delivery 1: failure: x/",
    b"bounce msg 7 qp 1",
    b"end msg 7",
    b"Jan  8 15:59:51 mx qmail: ",
]
hostile = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=8), max_size=8).map(
    b"".join
)
form = st.sampled_from(FORMS)


@given(form, hostile, hostile, hostile)
def test_a_line_of_ours_is_one_row(
    form: Form, sender: bytes, recipient: bytes, helo: bytes
) -> None:
    with tempfile.TemporaryDirectory() as place:
        story = Story(Path(place), form)
        for verdict in ("accept", "reject"):
            event = decided("s", recipient, verdict, sender=sender, helo=helo)
            story.event(event)
        story.told()
        block = b"\n" + (Path(place) / "ours").read_bytes()
    found = rows(block)
    assert [row[VERDICT] for row in found] == [b"accept", b"reject"]
    for row in found:
        assert plain(row[SENDER]) == sender
        assert plain(row[RECIPIENT]) == recipient


@given(form, hostile, hostile, st.sampled_from([b"", b"v-"]))
def test_the_same_bytes_are_found_in_qmails_log(
    form: Form, sender: bytes, recipient: bytes, prefix: bytes
) -> None:
    recipient += b"@virt.test"
    with tempfile.TemporaryDirectory() as place:
        story = Story(Path(place), form)
        story.event(decided("s", recipient, sender=sender))
        story.taken("s", sender=sender)
        story.queued(7, sender=logsafe(sender).decode())
        story.delivery(7, logsafe(prefix + recipient).decode(), FAILURE)
        document = story.told()
        shown = list(text(document))
    found = document["qmail"]
    assert (found["messages"]["found"], found["leaks"]["total"]) == (1, 1)
    assert found["leaks"]["last"][0]["recipient"] == recipient.decode("latin-1")
    assert found["not_through_us"]["total"] == 0
    # To a terminal goes nothing but printable ASCII.
    assert all(line.isascii() and (line.isprintable() or not line) for line in shown)


class Hearing:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def info(
        self, stamp: bytes, message: int, sender: bytes, qp: int, uid: int
    ) -> None:
        self.told.append(("info", message, sender, qp, uid))

    def starting(
        self, delivery: int, message: int, channel: bytes, recipient: bytes
    ) -> None:
        self.told.append(("starting", delivery, message, channel, recipient))

    def result(self, stamp: bytes, delivery: int, report: bytes) -> None:
        self.told.append(("result", delivery, report))

    def bounced(self, message: int, qp: int) -> None:
        self.told.append(("bounced", message, qp))

    def ended(self, message: int) -> None:
        self.told.append(("ended", message))


@given(hostile, hostile, hostile)
def test_qmails_lines_are_what_they_are(
    sender: bytes, recipient: bytes, report: bytes
) -> None:
    safe = logsafe(sender), logsafe(recipient), logsafe(report)
    lines = [
        b"info msg 7: bytes 9 from <%s> qp 42 uid 5" % safe[0],
        b"starting delivery 1: msg 7 to local %s" % safe[1],
        b"delivery 1: failure: %s/" % safe[2],
        b"bounce msg 7 qp 43",
        b"end msg 7",
    ]
    stamp = b"@40000000695fd4810209e384 "
    expected = [
        ("info", 7, safe[0], 42, 5),
        ("starting", 1, 7, b"local", safe[1]),
        ("result", 1, b"failure: %s/" % safe[2]),
        ("bounced", 7, 43),
        ("ended", 7),
    ]
    for before in (b"", stamp, b"Jan  8 15:59:51 mx qmail: "):
        hearing = Hearing()
        feed(b"".join(before + line + b"\n" for line in lines), hearing)
        assert hearing.told == expected


def test_what_qmail_makes_of_bytes() -> None:
    """logsafe() and issafe(), qsutil.c."""
    assert logsafe(b"a b%c\n\r\xff~!\x7f\x1f\t<>") == b"a_b_c/__~!___<>"


@given(st.lists(hostile, max_size=20).map(b"\n".join))
def test_files_that_are_anything(content: bytes) -> None:
    """Somebody names a wrong file, or a damaged one."""
    feed(content + b"\n", Hearing())
    Tally().add(b"\n" + content + b"\n")
    clock = Clock()
    for line in content.split(b"\n"):
        clock.seconds(line)


@given(st.text(max_size=20) | st.from_regex(r"\d{4}-\d\d-\d\d(T\d\d:\d\d)?"))
def test_a_time_that_is_asked_for(text: str) -> None:
    """A number or an error, and never another one."""
    try:
        read_moment(text, Clock())
    except ValueError:
        return


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=1), max_size=400), st.integers(1, 9))
def test_counts_are_as_near_as_they_say(values: list[bytes], size: int) -> None:
    heavy = Heavy(size)
    for value in values:
        heavy.add({value: 1})
    shown = dict(heavy.top(len(values)))
    assert heavy.total == len(values)
    assert heavy.error <= heavy.total / (size + 1)
    assert len(shown) <= 2 * size
    for value in set(values):
        assert 0 <= values.count(value) - shown.get(value, 0) <= heavy.error
    if heavy.distinct is not None:
        assert heavy.distinct == len(set(values))
