"""How messages are found again in qmail-send's log, and whose delivery it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.report import joined as joined_module
from proxy.report.joined import Joined
from proxy.report.ledger import Delivery, Ledger, Passed, Recipient
from proxy.report.our_log import rows
from proxy.report.qmail_log import feed
from proxy.report.stamp import Clock
from proxy.report.tally import Tally
from tests.report.story import FAILURE, SENDER, SUCCESS, WHEN, Story, decided

DAY = 86400


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def who(cases: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [
        (case["recipient"], case["session"], case["ambiguous"])
        for case in cases["last"]
    ]


def test_which_recipient_of_several(story: Story) -> None:
    story.let_in("s", b"c@virt.test", b"a-c@virt.test", b"other@virt.test")
    story.taken("s", 3)
    story.queued(7)
    story.delivery(7, "v-c@virt.test", FAILURE)
    story.delivery(7, "v-other@virt.test", FAILURE)
    story.delivery(7, "v-a-c@virt.test", FAILURE)
    found = story.found()["leaks"]
    assert who(found) == [
        ("c@virt.test", "s", False),
        ("other@virt.test", "s", False),
        ("a-c@virt.test", "s", True),  # or c, below a prefix v-a
    ]
    assert (found["total"], found["ambiguous"]) == (3, 1)


def test_the_same_recipient_twice_is_not_ambiguous(story: Story) -> None:
    story.let_in("s", b"c@virt.test", b"c@virt.test")
    story.taken("s", 2)
    story.queued(7)
    story.delivery(7, "v-c@virt.test", FAILURE)
    assert who(story.found()["leaks"]) == [("c@virt.test", "s", False)]


def test_an_address_that_none_fits(story: Story) -> None:
    """The percent hack changes an address: of one recipient it is clear, of two
    not."""
    story.let_in("s", b"c%virt.test@example.test")
    story.taken("s", 1, 42)
    story.let_in("s", b"c%virt.test@example.test", b"d@example.test", observed="reject")
    story.taken("s", 2, 43)
    for number, qp in ((7, 42), (8, 43)):
        story.queued(number, qp)
        story.delivery(number, "c@virt.test", FAILURE)
        story.delivery(number, "c@virt.test", SUCCESS)
    found = story.found()
    assert who(found["leaks"]) == [
        ("c%virt.test@example.test", "s", False),
        ("c@virt.test", "s", True),
    ]
    assert found["leaks"]["last"][1]["rule"] == "?"
    assert found["false_refusals"]["total"] == 0  # nobody knows whether it is one


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("how", ["qp_43/did_0+1+0", "forward:_qp_43/did_0+0+1"])
def test_what_was_forwarded_is_ours(story: Story, early: bool, how: str) -> None:
    """qmail-send has the new message before the report of who forwarded, or after."""
    story.let_in("s", b"c@example.test", b"d@example.test")
    story.taken("s", 2)
    story.queued(7)
    if early:
        story.queued(8, 43, sender="owner@example.test")
    story.delivery(7, "c@example.test", f"success: {how}/")
    story.delivery(7, "d@example.test", SUCCESS)
    if not early:
        story.queued(8, 43, sender="owner@example.test")
    story.delivery(8, "gone@far.test", FAILURE, channel="remote")
    found = story.found()
    assert who(found["leaks"]) == [("c@example.test", "s", False)]
    (leak,) = found["leaks"]["last"]
    assert (leak["forwarded"], leak["delivered"]) == (True, "gone@far.test")
    assert found["messages"]["accepted"] == found["messages"]["found"] == 1
    assert found["messages"]["others"] == found["messages"]["not_found"] == 0


def test_a_chain_of_forwards(story: Story) -> None:
    story.let_in("s", b"c@example.test")
    story.taken("s")
    story.queued(7)
    story.delivery(7, "c@example.test", "success: did_0+1+0/qp_43/")
    story.queued(8, 43)
    story.delivery(8, "d@example.test", "success: did_0+1+0/qp_44/")
    story.queued(9, 44)
    story.delivery(9, "e@example.test", FAILURE)
    assert who(story.found()["leaks"]) == [("c@example.test", "s", False)]


def test_what_another_host_refused_is_no_leak(story: Story) -> None:
    story.let_in("s", b"c@far.test")
    story.taken("s")
    story.queued(7)
    story.delivery(7, "c@far.test", FAILURE, channel="remote")
    found = story.found()
    assert found["leaks"]["total"] == 0
    assert who(found["bounced_elsewhere"]) == [("c@far.test", "s", False)]


def test_a_deferral_is_no_error_yet(story: Story) -> None:
    story.let_in("s", b"c@example.test", observed="reject")
    story.taken("s")
    story.queued(7)
    story.delivery(7, "c@example.test", "deferral: Temporary_error/")
    found = story.found()
    assert found["leaks"]["total"] == found["false_refusals"]["total"] == 0
    assert found["deliveries"]["deferral"] == 1


def test_what_would_be_deferred_and_arrived(story: Story) -> None:
    story.let_in("s", b"c@example.test", observed="defer")
    story.taken("s")
    story.queued(7)
    story.delivery(7, "c@example.test", SUCCESS)
    found = story.found()
    assert who(found["false_deferrals"]) == [("c@example.test", "s", False)]
    assert found["false_refusals"]["total"] == 0


def test_refused_yet_known(story: Story) -> None:
    """By anybody's mail; a virtual domain's prefix is guessed."""
    for name in ("plain", "virt", "late", "before"):
        story.refused(name, b"%s@example.test" % name.encode(), at=100)
    story.let_in("ours", b"ours@example.test", at=100)
    story.taken("ours", at=100)
    story.queued(6, 99, at=50)
    story.delivery(6, "before@example.test", SUCCESS, at=50)
    story.queued(7, 99, at=200)
    story.delivery(7, "plain@example.test", SUCCESS, at=200)
    story.delivery(7, "plain@example.test", SUCCESS, at=200)  # told once
    story.delivery(7, "x-virt@example.test", SUCCESS, at=300)
    story.delivery(7, "nobody@example.test", SUCCESS, at=300)
    story.delivery(7, "plain@example.test", SUCCESS, at=200, channel="remote")
    story.delivery(7, "late@example.test", SUCCESS, at=101 + DAY)
    assert who(story.found()["suspects"]) == [
        ("plain@example.test", "plain", False),
        ("virt@example.test", "virt", True),
    ]


def test_without_a_qp_sender_and_time_have_to_do(story: Story) -> None:
    for name, at in (("near", 0), ("far", 1000)):
        story.let_in(name, b"%s@example.test" % name.encode(), at=at)
        story.taken(name, qp=None, at=at)
    story.queued(5, 71, at=0, sender="another@there.test")
    story.delivery(5, "near@example.test", FAILURE)
    story.queued(7, 72, at=3)
    story.delivery(7, "near@example.test", FAILURE, at=3)
    story.queued(8, 73, at=1100)
    story.delivery(8, "far@example.test", FAILURE, at=1100)
    found = story.found()
    assert who(found["leaks"]) == [("near@example.test", "near", False)]
    messages = found["messages"]
    assert (messages["found"], messages["found_by_envelope"]) == (1, 1)
    assert (messages["not_found"], messages["others"]) == (1, 2)


def test_a_process_id_comes_again(story: Story) -> None:
    for number, at in enumerate((0, 5000, 10_000)):
        story.let_in(f"s{number}", b"c@example.test", at=at)
        story.taken(f"s{number}", at=at)
        story.queued(7, at=at + 1)
        story.delivery(7, "c@example.test", FAILURE if at else SUCCESS, at=at + 1)
        story.send("end msg 7", at + 2)
    # The same number, in time, but of another's mail.
    story.queued(9, at=10_003, sender="b@there.test")
    story.delivery(9, "c@example.test", FAILURE, at=10_003)
    found = story.found()
    assert [session for _, session, _ in who(found["leaks"])] == ["s1", "s2"]
    assert found["not_through_us"]["total"] == 1


def test_a_transaction_that_was_given_up(story: Story) -> None:
    """RSET leaves no line: its recipients stand before those of the message."""
    story.let_in("s", b"c@virt.test", observed="reject")
    story.let_in("s", b"x-c@virt.test")
    story.taken("s", 1)
    story.queued(7)
    story.delivery(7, "v-x-c@virt.test", SUCCESS)
    found = story.found()
    assert found["false_refusals"]["total"] == found["leaks"]["total"] == 0


def test_a_recipient_that_the_backend_refused(story: Story) -> None:
    story.let_in("s", b"c@virt.test", b"d@virt.test", b"e@virt.test")
    story.refused_behind("s", b"d@virt.test")
    story.taken("s", 2)
    story.queued(7)
    story.delivery(7, "v-c@virt.test", FAILURE)
    story.delivery(7, "v-e@virt.test", SUCCESS)
    assert who(story.found()["leaks"]) == [("c@virt.test", "s", False)]


def test_two_sessions_at_a_time(story: Story) -> None:
    story.let_in("s1", b"c@virt.test")
    story.let_in("s2", b"d@virt.test")
    story.taken("s2", 1, 43)
    story.taken("s1", 1, 42)
    story.queued(7, 42)
    story.queued(8, 43)
    story.delivery(8, "v-d@virt.test", FAILURE)
    story.delivery(7, "v-c@virt.test", FAILURE)
    assert who(story.found()["leaks"]) == [
        ("d@virt.test", "s2", False),
        ("c@virt.test", "s1", False),
    ]


def test_only_of_one_domain(story: Story) -> None:
    story.let_in("s", b"c@virt.test", b"d@example.test")
    story.taken("s", 2)
    story.queued(7)
    story.delivery(7, "v-c@virt.test", FAILURE)
    story.delivery(7, "d@example.test", FAILURE)
    found = story.found(domain="virt.test")
    assert who(found["leaks"]) == [("c@virt.test", "s", False)]


# Bounded.


def test_the_ledger_forgets_the_oldest() -> None:
    heard: list[Delivery] = []
    limit = 100
    ledger = Ledger(heard.append, Clock(), limit)
    stamp = f"@{(1 << 62) + 10 + WHEN:016x}00000000"
    for number in range(1, 30_001):
        recipients = (Recipient(b"c%d@example.test" % number, "qmail"),)
        ledger.passed(Passed("s", "c", SENDER, WHEN, recipients, number))
        ledger.passed(Passed("s", "c", b"%d@there.test" % number, WHEN, recipients))
        lines = (
            f"info msg {number}: bytes 9 from <x> qp {number + 50_000} uid 5",
            f"starting delivery {number}: msg {number} to local x",
            f"bounce msg {number} qp {number + 50_000}",
        )
        feed("".join(f"{stamp} {line}\n" for line in lines).encode(), ledger)
    assert ledger.waiting == limit
    assert ledger.forgotten == 60_000 - limit
    tables = vars(ledger).values()
    assert max(len(table) for table in tables if isinstance(table, dict)) == 20_000
    kept = {k: len(v) for k, v in vars(ledger).items() if isinstance(v, dict)}
    assert kept.pop("_deliveries") == 20_000
    assert max(kept.values()) == limit
    # The newest is still known.
    ledger.info(stamp.encode(), 1, SENDER, 30_000, 5)
    ledger.starting(1, 1, b"local", b"c30000@example.test")
    ledger.result(stamp.encode(), 1, b"failure: no/")
    assert heard[-1].recipient is not None


def test_sessions_and_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_module, "SESSIONS_MAX", 50)
    monkeypatch.setattr(joined_module, "REFUSED_MAX", 60)
    monkeypatch.setattr(joined_module, "_RECIPIENTS_MAX", 70)
    both = Joined(Tally(), last=3)
    for number in range(500):
        for verdict in ("accept", "reject"):
            both.ours(_rows(f"s{number}", b"r%d@example.test" % number, verdict))
        both.ours(_rows("s499", b"c@example.test", "accept"))
    kept = {k: len(v) for k, v in vars(both).items() if isinstance(v, dict)}
    assert kept["_sessions"] == 50
    assert kept["_refused"] == 60
    assert max(map(len, both._sessions.values())) <= 70


def _rows(session: str, recipient: bytes, verdict: str) -> list[tuple[bytes, ...]]:
    from proxy.observe.lines import Formatter

    line = Formatter("logfmt").line(decided(session, recipient, verdict), WHEN)
    (row,) = rows(b"\n" + line.encode())
    return [row]
