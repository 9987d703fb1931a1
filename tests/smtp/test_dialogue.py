"""The dialogue without a socket: order, states, limits, cuts."""

from __future__ import annotations

import gzip
import itertools
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.smtp import replies
from proxy.smtp.driver import Limits, Pending
from proxy.smtp.reply import Reply
from proxy.smtp.state import State
from tests.support.driver import MemoryDriver, codes

DATA = pathlib.Path(__file__).parent.parent / "data" / "dialogues.json.gz"
RECORDED = json.loads(gzip.decompress(DATA.read_bytes()))

MAIL = b"MAIL FROM:<a@b.test>\r\n"
RCPT = b"RCPT TO:<alice@example.test>\r\n"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n..dot\r\n"
TRANSACTION = MAIL + RCPT + b"DATA\r\n" + MESSAGE + b".\r\n"


def by_domain(recipient: bytes) -> Reply | Pending:
    domain = recipient.rpartition(b"@")[2].lower()
    if len(recipient) > 899:
        return replies.SYNTAX
    return Pending.ACCEPTED if domain == b"example.test" else replies.NOT_RELAYED


@pytest.mark.parametrize("number", range(len(RECORDED["dialogues"])))
def test_recorded_dialogue(number: int) -> None:
    """The codes are those of the recorded qmail-smtpd."""
    driver = MemoryDriver(by_domain, limits=Limits(unknown_recipients=0))
    said = codes(driver.sent)
    for line, code in RECORDED["dialogues"][number]:
        data = line.encode("latin-1")
        if line or code != "220":
            is_message = data.endswith(b"\r\n.\r\n")
            said = codes(driver.feed(data if is_message else data + b"\r\n"))
        assert said == [int(code)], line
    assert driver.closed == (driver.dialogue.state is State.CLOSED)


SESSION = (
    b"EHLO client.test\r\n"
    + TRANSACTION
    + MAIL
    + b"RCPT TO:<nobody@elsewhere.test>\r\nRCPT TO:<b@example.test>\r\nRSET\r\n"
    + b"FOO\r\n\r\nNOOP\r\nMAIL FROM:<>\r\n"
    + RCPT
    + b"DATA\r\n.\r\n"
    + b"QUIT\r\n"
)


def whole() -> MemoryDriver:
    driver = MemoryDriver(by_domain)
    driver.feed(SESSION)
    return driver


def same_as_whole(driver: MemoryDriver) -> None:
    expected = whole()
    assert driver.sent == expected.sent
    assert driver.body == expected.body
    assert driver.dots == expected.dots == 2
    assert driver.closed


def test_bytewise_gives_the_same_transcript() -> None:
    driver = MemoryDriver(by_domain)
    for byte in SESSION:
        driver.feed(bytes([byte]))
    same_as_whole(driver)


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(SESSION)), max_size=12))
def test_cut_anywhere_gives_the_same_transcript(cuts: list[int]) -> None:
    driver = MemoryDriver(by_domain)
    edges = [0, *sorted(cuts), len(SESSION)]
    for start, end in itertools.pairwise(edges):
        driver.feed(SESSION[start:end])
    same_as_whole(driver)


def test_late_answers_give_the_same_transcript() -> None:
    """Input that came meanwhile is held, and replies keep their order."""
    driver = MemoryDriver(by_domain, late=True)
    driver.feed(SESSION)
    while driver.questions:
        driver.answer()
    same_as_whole(driver)


def test_a_sender_that_is_too_long_may_be_at_our_own_address() -> None:
    """With localiphost in its place it may be short enough (qmail-smtpd.c)."""
    driver = MemoryDriver()
    box = b"l" * 890
    assert codes(driver.feed(b"MAIL FROM:<%s@[192.0.2.1]>\r\n" % box)) == [250]
    assert codes(driver.feed(b"MAIL FROM:<%s@[192.0.2.x]>\r\n" % box)) == [555]


def test_one_packet_is_answered_by_one_write() -> None:
    driver = MemoryDriver(by_domain)
    writes: list[bytes] = []
    driver.send = writes.append  # type: ignore[assignment, method-assign]
    driver.feed(SESSION)
    assert len(writes) == 1


def test_ehlo_offers_what_there_is() -> None:
    driver = MemoryDriver(size=1000)
    said = driver.feed(b"EHLO c\r\n")
    assert said == (
        b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"
    )
    assert b"SIZE" not in MemoryDriver().feed(b"EHLO c\r\n")


def test_replies_carry_enhanced_codes() -> None:
    driver = MemoryDriver(lambda r: replies.NO_SUCH_RECIPIENT)
    assert driver.feed(MAIL).startswith(b"250 2.1.0 ")
    assert driver.feed(RCPT).startswith(b"550 5.1.1 ")
    assert driver.feed(b"DATA\r\n").startswith(b"503 5.5.1 ")


def test_the_backends_words_reach_the_client() -> None:
    driver = MemoryDriver(late=True)
    driver.feed(MAIL + RCPT)
    driver.answer(Reply(452, b"4.2.2 no room"))
    assert driver.sent.endswith(b"452 4.2.2 no room\r\n")
    assert codes(driver.feed(b"DATA\r\n")) == [503]


def test_pipelined_recipients_are_asked_together() -> None:
    """All RCPTs of one packet reach the backend before its first answer."""
    driver = MemoryDriver(late=True)
    driver.feed(MAIL + RCPT * 3 + b"DATA\r\n")
    assert driver.questions == ["rcpt"] * 3
    driver.answer()
    driver.answer(Reply(550, b"no"))
    driver.answer()
    assert driver.questions == ["data"]
    driver.answer()
    assert codes(driver.sent) == [220, 250, 250, 550, 250, 354]


def test_a_verdict_that_is_awaited_holds_later_input() -> None:
    driver = MemoryDriver(lambda r: Pending.LATER)
    driver.feed(MAIL + RCPT + b"NOOP\r\n")
    assert driver.dialogue.state is State.DECIDING
    assert codes(driver.sent) == [220, 250]
    driver.answer(replies.NO_SUCH_RECIPIENT)
    assert codes(driver.sent) == [220, 250, 550, 250]


@pytest.mark.parametrize(
    ("verdict", "said"), [(Pending.ACCEPTED, 451), (replies.NO_SUCH_RECIPIENT, 550)]
)
def test_the_backend_is_lost_while_a_verdict_is_awaited(
    verdict: Reply | Pending, said: int
) -> None:
    """One command, one reply: the verdict's, or that the backend is lost."""
    verdicts: list[Reply | Pending] = [Pending.ACCEPTED, Pending.LATER]
    driver = MemoryDriver(lambda r: verdicts.pop(0))
    driver.feed(MAIL + RCPT + RCPT + b"NOOP\r\n")
    assert codes(driver.sent) == [220, 250, 250]
    driver.dialogue.relay_failed(Reply(451, b"4.4.1 lost"))
    assert codes(driver.sent) == [220, 250, 250]
    driver.dialogue.decided(verdict)
    assert codes(driver.sent) == [220, 250, 250, said, 250]
    assert codes(driver.feed(b"DATA\r\n")) == [451]
    assert len(driver.relayed) == 1


def test_a_verdict_after_the_end_is_not_heard() -> None:
    driver = MemoryDriver(lambda r: Pending.LATER)
    driver.feed(MAIL + RCPT)
    driver.dialogue.end(replies.SHUTTING_DOWN, "shutdown")
    driver.answer()
    assert codes(driver.sent) == [220, 250, 421]
    assert not driver.relayed


def test_a_second_mail_starts_anew() -> None:
    driver = MemoryDriver()
    driver.feed(MAIL + RCPT + b"MAIL FROM:<second@b.test>\r\n")
    assert driver.aborts == 1
    assert codes(driver.feed(b"DATA\r\n")) == [503]
    assert driver.dialogue.transaction.sender == b"second@b.test"


class TestTheEndOfAMessage:
    def test_bare_lf_is_refused_at_the_true_end_and_never_passed_on(self) -> None:
        driver = MemoryDriver()
        driver.feed(MAIL + RCPT + b"DATA\r\n")
        driver.feed(b"Subject: x\r\n\r\nfine so far\r\n")
        driver.feed(b"bare\n.\r\nMAIL FROM:<forged@b.test>\r\n")
        assert driver.aborts == 1
        assert b"bare" not in driver.body
        said = driver.feed(b".\r\n" + TRANSACTION)
        assert codes(said) == [451]
        assert driver.closed
        assert driver.dots == 0
        assert driver.refused == [replies.BARE_LF]

    def test_backend_lost_in_the_middle_is_told_at_the_end(self) -> None:
        driver = MemoryDriver()
        driver.feed(MAIL + RCPT + b"DATA\r\n")
        driver.feed(b"half\r\n")
        driver.dialogue.relay_failed(replies.BACKEND_LOST)
        assert driver.feed(b"MAIL FROM:<forged@b.test>\r\n") == b""
        assert codes(driver.feed(b".\r\nNOOP\r\n")) == [451, 250]
        assert driver.dots == 0

    def test_backend_lost_after_the_dot_is_temporary(self) -> None:
        driver = MemoryDriver(late=True)
        driver.feed(MAIL + RCPT + b"DATA\r\n" + MESSAGE)
        driver.answer()
        driver.answer()
        driver.feed(b".\r\n")
        driver.dialogue.relay_failed(replies.BACKEND_LOST)
        assert codes(driver.sent)[-1] == 451

    def test_backend_lost_between_rcpt_and_data_is_temporary(self) -> None:
        """A client that was told 250 must not be told 503, but 451."""
        driver = MemoryDriver()
        driver.feed(MAIL + RCPT)
        driver.dialogue.relay_failed(replies.BACKEND_LOST)
        assert codes(driver.feed(RCPT)) == [451]
        assert codes(driver.feed(b"DATA\r\n")) == [451]
        assert codes(driver.feed(TRANSACTION)) == [250, 250, 354, 250]

    def test_backend_lost_while_recipients_wait(self) -> None:
        driver = MemoryDriver(late=True)
        driver.feed(MAIL + RCPT + RCPT)
        driver.answer()
        driver.dialogue.relay_failed(replies.BACKEND_UNREACHABLE)
        assert codes(driver.sent) == [220, 250, 250, 451]


class TestCommands:
    @pytest.mark.parametrize("byte", [0, 1, 7, 0x0B, 0x0D, 0x1B, 0x7F])
    def test_control_bytes_are_refused(self, byte: int) -> None:
        driver = MemoryDriver()
        line = b"RCPT TO:<ali%cce@example.test>\r\n" % byte
        assert codes(driver.feed(MAIL + line)) == [250, 501]
        assert not driver.asked

    def test_tab_and_8bit_pass(self) -> None:
        driver = MemoryDriver()
        driver.feed(MAIL + b"RCPT TO:<a\tb\xe4@example.test>\r\n")
        assert driver.relayed == [b"TO:<a\tb\xe4@example.test>"]

    def test_long_lines_are_refused_and_forgotten(self) -> None:
        driver = MemoryDriver(limits=Limits(command_length=100))
        assert codes(driver.feed(b"NOOP " + b"x" * 200 + b"\r\nNOOP\r\n")) == [500, 250]
        for _ in range(50):
            driver.feed(b"y" * 1000)
            assert driver.dialogue.held <= 1000
        assert codes(driver.feed(b"\r\nNOOP\r\n")) == [500, 250]

    def test_null_sender_and_odd_addresses_pass_verbatim(self) -> None:
        driver = MemoryDriver()
        odd = b'TO:<@r.test:"odd \\"name"@example.test> NOTIFY=NEVER'
        driver.feed(b"MAIL FROM:<>\r\nRCPT " + odd + b"\r\n")
        assert driver.mails == [b"FROM:<>"]
        assert driver.relayed == [odd]
        assert driver.asked == [b'odd "name@example.test']

    def test_too_many_unknown_recipients(self) -> None:
        driver = MemoryDriver(
            lambda r: replies.NO_SUCH_RECIPIENT, limits=Limits(unknown_recipients=2)
        )
        assert codes(driver.feed(MAIL + RCPT * 5)) == [250, 550, 550, 421]
        assert driver.closed
        assert driver.why == "unknown_per_session"

    def test_deferrals_do_not_count_as_unknown(self) -> None:
        driver = MemoryDriver(
            lambda r: replies.MAILBOX_DEFERRED, limits=Limits(unknown_recipients=2)
        )
        assert codes(driver.feed(MAIL + RCPT * 5)) == [250, *[451] * 5]


def test_nothing_after_quit_is_obeyed() -> None:
    driver = MemoryDriver()
    assert codes(driver.feed(b"QUIT\r\n" + TRANSACTION)) == [221]
    assert driver.feed(TRANSACTION) == b""
    assert not driver.asked


def test_a_client_that_does_not_read_is_not_served() -> None:
    driver = MemoryDriver()
    driver.dialogue.pause()
    assert driver.feed(b"NOOP\r\n" * 10) == b""
    driver.dialogue.resume()
    assert codes(driver.sent) == [220, *[250] * 10]


def test_end_says_421_even_while_waiting() -> None:
    driver = MemoryDriver(late=True)
    driver.feed(MAIL + RCPT)
    driver.dialogue.end(replies.SHUTTING_DOWN, "shutdown")
    assert codes(driver.sent)[-2:] == [451, 421]
    assert driver.closed
    driver.dialogue.end(replies.SHUTTING_DOWN, "shutdown")
    assert codes(driver.sent).count(421) == 1


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_any_bytes_whole_or_cut(pieces: list[bytes], late: bool) -> None:
    """Garbage is answered or held; how it is cut changes nothing."""

    def run(chunks: list[bytes]) -> tuple[bytes, bytes, bool]:
        driver = MemoryDriver(by_domain, late=late)
        driver.feed(MAIL + RCPT)
        while driver.questions:
            driver.answer()
        for chunk in chunks:
            if chunk:
                driver.feed(chunk)
                while driver.questions:
                    driver.answer()
        return driver.sent, driver.body, driver.closed

    data = b"".join(pieces)
    one = run([data])
    assert run(pieces) == one
    assert run([bytes([b]) for b in data]) == one
    codes(one[0])
