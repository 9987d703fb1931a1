"""Budgets that the dialogue counts: commands, errors, recipients, sizes."""

from __future__ import annotations

import pytest

from proxy.smtp import replies
from proxy.smtp.driver import Limits
from tests.support.driver import MemoryDriver, codes

MAIL = b"MAIL FROM:<a@b.test>\r\n"
RCPT = b"RCPT TO:<alice@example.test>\r\n"

# What counts as an error, with its own answer.
ERRORS = {
    "unknown verb": (b"FOO\r\n", 502),
    "no verb": (b"\r\n", 502),
    "sender too long": (b"MAIL FROM:<%s@b.test>\r\n" % (b"x" * 900), 555),
    "control character": (b"NOOP \x01\r\n", 501),
    "line too long": (b"NOOP " + b"x" * 5000 + b"\r\n", 500),
    "RCPT without MAIL": (RCPT, 503),
    "DATA without MAIL": (b"DATA\r\n", 503),
}


@pytest.mark.parametrize("line_and_code", ERRORS.values(), ids=ERRORS)
def test_errors_end_the_session(line_and_code: tuple[bytes, int]) -> None:
    line, code = line_and_code
    driver = MemoryDriver(limits=Limits(errors=3))
    assert codes(driver.feed((b"NOOP\r\n" + line) * 3)) == [250, code] * 3
    assert not driver.closed
    assert codes(driver.feed(b"NOOP\r\n" + line + b"NOOP\r\n")) == [250, 421]
    assert driver.sent.endswith(replies.TOO_MANY_ERRORS.wire)
    assert driver.closed
    assert driver.why == "errors_per_session"
    assert driver.reached[-1] == "errors_per_session"


def test_data_without_rcpt_is_an_error() -> None:
    driver = MemoryDriver(limits=Limits(errors=1))
    assert codes(driver.feed(MAIL + b"DATA\r\nDATA\r\n")) == [250, 503, 421]


def test_data_behind_refused_recipients_is_none() -> None:
    """Clients that pipeline send it along (RFC 2920)."""
    driver = MemoryDriver(
        lambda r: replies.NO_SUCH_RECIPIENT,
        limits=Limits(errors=1, unknown_recipients=0),
    )
    said = driver.feed((MAIL + RCPT + b"DATA\r\n") * 5)
    assert codes(said) == [250, 550, 503] * 5
    assert not driver.closed


@pytest.mark.parametrize("limits", [Limits(errors=0), Limits()], ids=["none", "usual"])
def test_without_a_limit_errors_go_on(limits: Limits) -> None:
    driver = MemoryDriver(limits=limits)
    said = codes(driver.feed(b"FOO\r\n" * 1000))
    assert said == ([502] * 20 + [421] if limits.errors else [502] * 1000)


def test_commands_end_the_session() -> None:
    driver = MemoryDriver(limits=Limits(commands=5))
    assert codes(driver.feed(b"NOOP\r\n" * 5)) == [250] * 5
    assert codes(driver.feed(b"NOOP\r\nNOOP\r\n")) == [421]
    assert driver.sent.endswith(replies.TOO_MANY_COMMANDS.wire)
    assert driver.why == "commands_per_session"
    assert driver.reached == ["commands_per_session"]


def test_lines_of_a_message_are_no_commands() -> None:
    driver = MemoryDriver(limits=Limits(commands=4))
    said = driver.feed(MAIL + RCPT + b"DATA\r\n" + b"line\r\n" * 50 + b".\r\nQUIT\r\n")
    assert codes(said) == [250, 250, 354, 250, 221]


def test_without_a_limit_commands_go_on() -> None:
    driver = MemoryDriver(limits=Limits(commands=0))
    assert codes(driver.feed(b"NOOP\r\n" * 20_000)) == [250] * 20_000


def test_recipients_beyond_the_limit_are_told_452_and_the_rest_lives() -> None:
    driver = MemoryDriver(limits=Limits(recipients=100))
    assert codes(driver.feed(MAIL + RCPT * 103)) == [250, *[250] * 100, *[452] * 3]
    assert driver.sent.endswith(replies.TOO_MANY_RECIPIENTS.wire)
    assert driver.reached == ["recipients"]
    assert codes(driver.feed(b"DATA\r\nx\r\n.\r\n")) == [354, 250]
    assert len(driver.relayed) == 100
    assert codes(driver.feed(MAIL + RCPT)) == [250, 250]


def test_what_is_beyond_is_not_looked_at() -> None:
    driver = MemoryDriver(
        lambda r: replies.NO_SUCH_RECIPIENT,
        limits=Limits(recipients=2, unknown_recipients=0),
    )
    assert codes(driver.feed(MAIL + RCPT * 3)) == [250, 550, 550, 452]
    assert len(driver.asked) == 2


def test_the_usual_limit_is_what_is_documented() -> None:
    usual = Limits()
    assert usual.recipients >= 100  # RFC 5321 4.5.3.1.10
    assert codes(MemoryDriver().feed(MAIL + RCPT * 1001)[-60:])[-1] == 452


def test_sizes_and_lengths_are_told() -> None:
    driver = MemoryDriver(limits=Limits(command_length=50, message_size=10))
    driver.feed(b"NOOP " + b"x" * 60 + b"\r\n")
    driver.feed(MAIL + RCPT + b"DATA\r\n" + b"x" * 20 + b"\r\n.\r\n")
    assert driver.reached == ["command_length", "message_size"]
    assert codes(driver.sent)[-1] == 552


def test_a_421_to_rcpt_ends_the_session() -> None:
    """What the door says to those who guess."""
    driver = MemoryDriver(lambda r: replies.TOO_MANY_GUESSES)
    assert codes(driver.feed(MAIL + RCPT + b"NOOP\r\n")) == [250, 421]
    assert driver.why == "harvest_defence"


def test_a_rule_may_end_the_session() -> None:
    driver = MemoryDriver(lambda r: replies.HANG_UP)
    assert codes(driver.feed(MAIL + RCPT + b"NOOP\r\n")) == [250, 421]
    assert driver.why == "rule"
