"""Both logs side by side, as the command reads them, and the log that is followed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from proxy.leakwatch import HELD_SECONDS, Follower, LeakWatch
from proxy.observe.events import Event, Leaked, MessageEnded, RecipientDecided
from proxy.observe.lines import Form, Formatter
from proxy.report.command import Asked, report

WHEN = 1_795_398_287
DECIDED = RecipientDecided(
    *("s", "192.0.2.9", b"h", b"a@b", b"c@virt.test", "accept", "", False),
    *("qmail", "delivered", "250 2.1.5 ok"),
)
ENDED = MessageEnded(
    *("s", "192.0.2.9", b"a@b", 1, 9, "accepted", f"250 ok {WHEN} qp 42", "", True, 0),
)
QMAIL = (
    "@400000006b033c190a000000 info msg 7: bytes 99 from <a@b> qp 42 uid 5\n"
    "@400000006b033c190a000000 starting delivery 1: msg 7 to local v-c@virt.test\n"
    "@400000006b033c190a000000 delivery 1: %s\n"
    "@400000006b033c190a000000 end msg 7\n"
)


def both(tmp_path: Path, form: Form, result: str, *events: Event) -> Asked:
    ours, theirs = tmp_path / "ours", tmp_path / "qmail"
    line = Formatter(form).line
    ours.write_text("".join(line(event, WHEN) for event in events))
    stamp = f"@{(1 << 62) + 10 + WHEN:016x}"
    text = (QMAIL % result).replace("@400000006b033c190a000000", f"{stamp}00000000")
    theirs.write_text(text)
    return Asked([str(ours)], [str(theirs)])


@pytest.mark.parametrize("form", ["logfmt", "json", "bare"])
def test_a_leak(tmp_path: Path, form: Form) -> None:
    asked = both(tmp_path, form, "failure: Sorry._(#5.1.1)/", DECIDED, ENDED)
    found = report(asked)["qmail"]
    assert found["messages"]["found"] == 1
    (leak,) = found["leaks"]["last"]
    assert leak["recipient"] == "c@virt.test"
    assert (leak["rule"], leak["text"]) == ("qmail", "Sorry._(#5.1.1)/")
    assert found["false_refusals"]["total"] == 0


@pytest.mark.parametrize("form", ["logfmt", "json", "bare"])
def test_a_false_refusal(tmp_path: Path, form: Form) -> None:
    would = DECIDED._replace(observed="reject")
    found = report(both(tmp_path, form, "success: did_1+0+0/", would, ENDED))
    assert found["recipients"]["would_refuse"] == 1
    assert found["qmail"]["false_refusals"]["total"] == 1
    assert found["qmail"]["leaks"]["total"] == 0


def test_what_a_client_says_is_no_line(tmp_path: Path) -> None:
    line = Formatter("bare").line(DECIDED, WHEN).strip().encode()
    forged = DECIDED._replace(helo=b"x\n" + line, recipient=b"\xff" + line)
    found = report(both(tmp_path, "bare", "success: ", forged))
    assert found["recipients"]["accepted"] == 1


def test_following_through_rotation(tmp_path: Path) -> None:
    path, said = tmp_path / "current", list[tuple[str, str]]()
    path.write_bytes(b"old\n")
    follower = Follower(str(path), lambda level, text: said.append((level, text)))
    assert follower.read() == b""
    with path.open("ab") as file:
        file.write(b"one\ntw")
    assert follower.read() == b"one\n"
    with path.open("ab") as file:
        file.write(b"o\n")
    path.rename(tmp_path / "@1.s")
    path.write_bytes(b"three\n")
    got = b"".join(follower.read() for _ in range(4))
    assert got == b"two\nthree\n"
    path.write_bytes(b"4\n")  # truncated
    assert b"".join(follower.read() for _ in range(2)) == b"4\n"
    assert said == []
    follower.close()


def test_a_log_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    follower = Follower(
        str(tmp_path / "current"), lambda level, text: said.append((level, text))
    )
    assert [follower.read(), follower.read()] == [b"", b""]
    assert [level for level, _ in said] == ["warning"]


def test_a_log_that_is_ahead_of_us() -> None:
    """qmail-send may have logged all of it before the 250 has come to us."""
    heard: list[Event] = []
    with tempfile.NamedTemporaryFile() as log:
        watch = LeakWatch(log.name, heard.append, lambda level, text: None)
        stamp = f"@{(1 << 62) + 10 + WHEN:016x}"
        text = (QMAIL % "failure: no/").replace("@400000006b033c190a000000", stamp)
        log.write(text.encode())
        log.flush()
        assert watch.look(50.0)
        watch(DECIDED)
        watch(ENDED)
        assert not watch.look(50.0 + HELD_SECONDS / 2)
        assert heard == []
        watch.look(50.0 + HELD_SECONDS)
        watch.close()
    (leak,) = heard
    assert isinstance(leak, Leaked)
    assert (leak.recipient, leak.delivered) == (b"c@virt.test", b"v-c@virt.test")
