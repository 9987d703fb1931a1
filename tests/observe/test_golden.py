"""O-log: every kind of line in every format, as people and programs know it.

A change of these files is a change for everybody who reads our logs: it wants
a line in CHANGELOG.md.  ``python -m tests.observe.test_golden`` writes them.
"""

from __future__ import annotations

import io
import pathlib
import typing

import pytest

from proxy.observe import events, lines
from proxy.observe.lines import Form
from proxy.observe.log import Logger

HERE = pathlib.Path(__file__).parent / "golden"
FORMS: tuple[Form, ...] = typing.get_args(Form)
DECIDED = events.RecipientDecided(
    session="4ff983-1",
    client="2001:db8::1",
    helo=b"client.test",
    sender=b"you@there.test",
    recipient=b"alice@example.test",
    verdict="accept",
    observed="",
    undecided=False,
    rule="qmail",
    reason="delivered",
    reply="250 2.1.5 ok",
)
ENDED = events.MessageEnded(
    "4ff983-1", "192.0.2.9", b"", 2, 260, "accepted", "250 ok", "", True, 0.0034
)
EVENTS: list[events.Event] = [
    events.Notice("info", "qmail-backstop 1.0 serves 0.0.0.0:25, mode enforce"),
    events.Notice("debug", ""),
    events.Connected("4ff983-1", "192.0.2.9"),
    DECIDED,
    DECIDED._replace(observed="reject", undecided=True, helo=b"", sender=b""),
    DECIDED._replace(
        verdict="reject",
        recipient=b'"o \\ d\xff\x1b[31m"@example.test',
        reason="no mailbox here by that name",
        reply="550 5.1.1 no such recipient here",
    ),
    DECIDED._replace(helo=b"a\r\nlevel=error event=x", recipient=b"x" * 2000),
    events.BackendRefusedRecipient("s", "192.0.2.9", b"alice@x", "451 greylisted"),
    ENDED,
    ENDED._replace(outcome="unknown", reply="451 4.4.2 x", reason="gone", heard=False),
    events.BackendFailed("s", "127.0.0.1:2525", "final dot", "the backend closed"),
    events.Leaked(
        "s", "192.0.2.9", b"a@b", b"c@d", "qmail", "x", True, b"v-c@d", 7, b"Sorry_/"
    ),
    events.LimitHit("s", "192.0.2.9", "unknown_per_session"),
    events.RuleAnswered("staff", "found", 0.0042),
    events.Turned("192.0.2.9", "connections"),
    events.PressureChanged(1, 3000, 4000),
    events.TlsStarted("s", "192.0.2.9", "TLSv1.3", "TLS_AES_256_GCM_SHA384", 0),
    events.TlsFailed("s", "192.0.2.9", "wrong version number", "info"),
    events.ProxyHeaderBad("192.0.2.9", "no PROXY header", 3),
    events.AuthEnded("s", "192.0.2.9", b"PLAIN", "accepted", 235, b"jo\ne"),
    events.AuthEnded("s", "192.0.2.9", b"LOGIN", "refused", 535, b""),
    events.Disconnected("s", "192.0.2.9", "quit", 1.5, 3, 2, 1),
]


def written(form: Form) -> str:
    stream = io.BytesIO()
    logger = Logger(stream, form=form, level="debug", now=lambda: 1795398287.25)
    for event in EVENTS:
        logger(event)
    return stream.getvalue().decode("ascii")


@pytest.mark.parametrize("form", FORMS)
def test_the_lines_are_what_they_were(form: Form) -> None:
    assert written(form) == (HERE / f"{form}.txt").read_text()


def test_every_kind_of_event_is_there() -> None:
    assert {type(event) for event in EVENTS} == set(lines._SHAPES)


if __name__ == "__main__":
    for each in FORMS:
        (HERE / f"{each}.txt").write_text(written(each))
