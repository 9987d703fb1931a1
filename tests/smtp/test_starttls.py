"""STARTTLS in the dialogue, without a socket or a handshake."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.smtp.driver import Banner
from proxy.smtp.state import State
from tests.support.driver import MemoryDriver, codes

BEFORE = b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<x@example.test>\r\nSTARTTLS\r\n"
AFTER = b"EHLO d\r\nMAIL FROM:<c@b.test>\r\nRCPT TO:<y@example.test>\r\nDATA\r\n.\r\n"


def switching() -> MemoryDriver:
    driver = MemoryDriver(starttls=True)
    assert codes(driver.feed(BEFORE)) == [250, 250, 250, 220]
    return driver


def test_it_waits_for_the_handshake() -> None:
    driver = switching()
    dialogue = driver.dialogue
    assert (dialogue.state, driver.discarded) == (State.SWITCHING, [0])
    assert driver.aborts == 1
    # Nobody loses anything that is ended now; and it is the client's turn.
    assert not dialogue.in_transaction
    assert not dialogue.waiting
    assert not dialogue.idle
    assert (dialogue.transaction.mail, dialogue.transaction.accepted) == (None, 0)
    # What the loop hands in now has come through the handshake.
    assert driver.feed(AFTER) == b""
    assert dialogue.held == len(AFTER)
    dialogue.tls_started(greet=False)
    assert codes(driver.sent)[5:] == [250, 250, 250, 354, 250]
    assert driver.mails[-1] == b"FROM:<c@b.test>"


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(AFTER)), max_size=8))
def test_cut_anywhere_it_is_all_discarded_or_all_kept(cuts: list[int]) -> None:
    """In the same piece as STARTTLS: in the clear.  In a later one: encrypted."""
    edges = [0, *sorted(cuts), len(AFTER)]
    pieces = [AFTER[start:end] for start, end in itertools.pairwise(edges)]
    driver = MemoryDriver(starttls=True)
    driver.feed(BEFORE + pieces[0])
    assert driver.discarded == [len(pieces[0])]
    for piece in pieces[1:]:
        driver.feed(piece)
    assert driver.dialogue.held == len(AFTER) - len(pieces[0])
    assert codes(driver.sent) == [220, 250, 250, 250, 220]


def test_a_client_that_did_not_read_is_heard_again() -> None:
    """The transport that was blocked is not the one that is written to now."""
    driver = switching()
    driver.dialogue.pause()
    driver.dialogue.tls_started(greet=False)
    assert codes(driver.feed(b"NOOP\r\n")) == [250]


def test_refusals_change_nothing() -> None:
    driver = MemoryDriver(starttls=True)
    driver.feed(b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<x@example.test>\r\n")
    assert codes(driver.feed(b"STARTTLS x\r\nDATA\r\n.\r\n")) == [501, 354, 250]
    assert not driver.discarded


def test_the_greeting_comes_after_the_handshake() -> None:
    driver = switching()
    driver.dialogue.tls_started(greet=True)
    assert codes(driver.sent)[-1] == 220


def test_what_ehlo_offers_depends_on_the_session() -> None:
    banner = Banner(b"mx.test", 7, starttls=True)
    clear = banner.ehlo_reply(False, b"")
    assert clear.lines[1:] == (b"PIPELINING", b"SIZE 7", b"8BITMIME", b"STARTTLS")
    assert banner.ehlo_reply(False, b"") is clear
    encrypted = banner.ehlo_reply(True, b"AUTH PLAIN LOGIN")
    assert encrypted.lines[3:] == (b"8BITMIME", b"AUTH PLAIN LOGIN")
