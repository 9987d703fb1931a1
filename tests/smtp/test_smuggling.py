"""S: two readers, one end, through the dialogue without a socket.

Each sequence stands inside a message and is followed by a whole forged
transaction; everything is handed in whole, bytewise, and in two pieces, cut at
every byte.  docs/architecture.md says what becomes of each, and why.
"""

from __future__ import annotations

import pytest

from proxy.smtp import replies
from proxy.smtp.driver import Limits, Pending
from proxy.smtp.state import State
from tests.support.driver import MemoryDriver, codes
from tests.support.sequences import NAMED, has_bare_lf

BEGIN = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n"
FORGED = (
    b"mail FROM:<forged@example.test>\r\nrcpt TO:<b@example.test>\r\n"
    b"data\r\nSubject: forged\r\n\r\nboo"
)
END = b"\r\n.\r\n"
every_sequence = pytest.mark.parametrize(
    "sequence", NAMED.values(), ids=[*NAMED.keys()]
)


def cuts_of(data: bytes) -> list[list[bytes]]:
    """Whole, bytewise, and in two pieces at every byte."""
    two = [[data[:at], data[at:]] for at in range(1, len(data))]
    return [[data], [data[at : at + 1] for at in range(len(data))], *two]


def fed(pieces: list[bytes], limits: Limits | None = None) -> MemoryDriver:
    driver = MemoryDriver(limits=limits)
    for piece in pieces:
        driver.feed(piece)
    return driver


@every_sequence
def test_one_transaction_at_the_most(sequence: bytes) -> None:
    message = b"Subject: x\r\n\r\nhello" + sequence + FORGED
    for pieces in cuts_of(BEGIN + message + END + b"NOOP\r\n"):
        driver = fed(pieces)
        assert driver.mails == [b"FROM:<a@b.test>"]
        if has_bare_lf(sequence):
            # qmail-smtpd's straynewline(): refused for now, and closed.
            assert codes(driver.sent) == [220, 250, 250, 354, 451]
            assert driver.dots == 0
            assert driver.aborts == 1
            assert driver.dialogue.state is State.CLOSED
            assert b"\n" not in driver.body.replace(b"\r\n", b"")
        else:
            # Carried as text, byte for byte: the backend's end is ours.
            assert codes(driver.sent) == [220, 250, 250, 354, 250, 250]
            assert driver.dots == 1
            assert driver.body == message + b"\r\n"


@every_sequence
def test_a_message_that_begins_with_it(sequence: bytes) -> None:
    """The CRLF of the DATA command counts as one before a dot; nothing else."""
    sequence = sequence.removeprefix(b"\r\n")
    for pieces in cuts_of(BEGIN + sequence + FORGED + END):
        driver = fed(pieces)
        assert driver.mails == [b"FROM:<a@b.test>"]
        assert driver.dots + driver.aborts == 1


@every_sequence
def test_s_toobig(sequence: bytes) -> None:
    """S-toobig: a dot that is hidden behind the limit ends nothing."""
    limits = Limits(message_size=100)
    message = b"x" * 101 + sequence + FORGED
    for pieces in cuts_of(BEGIN + message + END + b"NOOP\r\n"):
        driver = fed(pieces, limits)
        assert driver.mails == [b"FROM:<a@b.test>"]
        assert driver.dots == 0
        assert driver.aborts == 1
        # However it is cut: a client with a bare LF is not heard any further.
        final = [451] if has_bare_lf(sequence) else [552, 250]
        assert codes(driver.sent) == [220, 250, 250, 354, *final]


def test_s_crcrlf_crlf() -> None:
    """S-crcrlf.crlf: a true end after a stray CR, to qmail-smtpd too: whoever
    sends it has to stuff the dot, because it stands after CRLF.  What follows is
    the client's own next command."""
    for pieces in cuts_of(BEGIN + b"hello\r\r\n.\r\nNOOP\r\n"):
        driver = fed(pieces)
        assert codes(driver.sent) == [220, 250, 250, 354, 250, 250]
        assert driver.body == b"hello\r\r\n"


def test_s_stuffed() -> None:
    """S-stuffed: such dots are the backend's to take away: once, by one reader."""
    message = b"..\r\n..two\r\nmid.dle\r\n...\r\nend..\r\n"
    for pieces in cuts_of(BEGIN + message + b".\r\n"):
        driver = fed(pieces)
        assert driver.body == message
        assert driver.dots == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"mail FROM:<forged@b.test>\r\nrcpt TO:<b@example.test>\r\ndata\r\nx\r\n.\r\n",
        b"DATA\r\nSubject: forged\r\n\r\nboo\r\n.\r\n",
        b"RSET\r\nQUIT\r\n",
    ],
)
@pytest.mark.parametrize("accepted", [True, False])
def test_s_bdat(payload: bytes, accepted: bool) -> None:
    """S-bdat: where a message could follow it, that is not read."""
    begin = BEGIN.removesuffix(b"DATA\r\n")
    bdat = b"BDAT %d LAST\r\n" % len(payload)
    for pieces in cuts_of(begin + bdat + payload):
        driver = MemoryDriver(
            lambda _: Pending.ACCEPTED if accepted else replies.NO_SUCH_RECIPIENT
        )
        for piece in pieces:
            driver.feed(piece)
        assert codes(driver.sent) == [220, 250, 250 if accepted else 550, 502]
        assert driver.closed
        assert driver.why == "BDAT"
        assert driver.dots == 0
        assert driver.aborts == accepted
        assert len(driver.relayed) == accepted


def test_s_bdat_without_a_recipient_is_any_unknown_command() -> None:
    """As recorded of qmail-smtpd: there is no message that could follow."""
    driver = MemoryDriver()
    said = driver.feed(b"BDAT 5 LAST\r\nMAIL FROM:<a@b.test>\r\nBDAT 5\r\nNOOP\r\n")
    assert codes(said) == [502, 250, 502, 250]


def test_s_command_lf() -> None:
    """S-command-lf: a lone LF ends a command, as in qmail-smtpd (commands.c);
    each is judged by itself, and the backend gets it with CRLF."""
    driver = MemoryDriver(
        lambda r: Pending.ACCEPTED if b"example" in r else replies.NOT_RELAYED
    )
    for pieces in cuts_of(BEGIN.replace(b"\r\n", b"\n")):
        driver = fed(pieces)
        assert codes(driver.sent) == [220, 250, 250, 354]
    driver = MemoryDriver(
        lambda r: Pending.ACCEPTED if b"example" in r else replies.NOT_RELAYED
    )
    lines = b"MAIL FROM:<a@b.test>\nRCPT TO:<a@example.test>\nRCPT TO:<a@evil.test>\n"
    assert codes(driver.feed(lines)) == [250, 250, 553]
    assert driver.relayed == [b"TO:<a@example.test>"]


@pytest.mark.parametrize(
    "line",
    [
        b"RCPT TO:<ok@example.test\0@evil.test>",
        b"\0RCPT TO:<ok@example.test>",
        b"RCPT\0TO:<ok@example.test>",
        b"RCPT TO:<ok@example.test>\0",
        b"RCPT TO:<ok@example.test>\rRCPT TO:<x@evil.test>",
    ],
)
def test_s_command_nul(line: bytes) -> None:
    """S-command-nul: a C string ends at NUL, ours does not."""
    begin = b"MAIL FROM:<a@b.test>\r\n"
    for pieces in cuts_of(begin + line + b"\r\nNOOP\r\n"):
        driver = fed(pieces)
        assert codes(driver.sent) == [220, 250, 501, 250]
        assert not driver.asked


def test_s_command_8bit() -> None:
    """S-command-8bit: bytes above 127 are an address's own, as qmail has it;
    both readers see the same ones."""
    odd = b"TO:<\xfc\x80\xff@example.test>"
    for pieces in cuts_of(b"MAIL FROM:<a@b.test>\r\nRCPT " + odd + b"\r\n"):
        driver = fed(pieces)
        assert driver.relayed == [odd]
        assert driver.asked == [b"\xfc\x80\xff@example.test"]
