"""AUTH in the dialogue: when it is allowed, what is relayed, what is kept."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.smtp import replies
from proxy.smtp.auth import LINE_MAX, Exchange, offered_line
from proxy.smtp.driver import Limits
from proxy.smtp.reply import Reply, ReplyReader
from proxy.smtp.state import State
from tests.support.driver import MemoryDriver, codes
from tests.support.fuzz import fuzz

OFFERED = b"AUTH PLAIN LOGIN CRAM-MD5"
CLEAR = Limits(auth_needs_tls=False)
NO = Reply(535, b"authorization failed (#5.7.0)")


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


PLAIN = b64(b"\0joe\0secret")


def login(line: bytes) -> Reply | None:
    """A backend with LOGIN in two challenges, PLAIN in none or one."""
    if line.upper() == b"AUTH LOGIN":
        return Reply(334, b64(b"Username:"))
    if line == b64(b"joe") or line.upper().startswith(b"AUTH LOGIN "):
        return Reply(334, b64(b"Password:"))
    if line.upper() == b"AUTH PLAIN":
        return Reply(334, b"")
    if line in (b64(b"secret"), PLAIN, b"AUTH PLAIN " + PLAIN):
        return Reply(235, b"ok")
    return NO


def driver(*, late: bool = False, limits: Limits = CLEAR) -> MemoryDriver:
    made = MemoryDriver(limits=limits, late=late)
    made.authenticate = login
    made.dialogue.auth_offered = OFFERED
    return made


def test_ehlo_offers_what_the_backend_does() -> None:
    assert driver().feed(b"EHLO c\r\n").endswith(b"\r\n250 " + OFFERED + b"\r\n")
    assert b"AUTH" not in MemoryDriver(limits=CLEAR).feed(b"EHLO c\r\n")


def test_only_under_tls_by_key() -> None:
    secure = driver(limits=Limits())
    assert b"AUTH" not in secure.feed(b"EHLO c\r\n")
    refused = b"538 5.7.11 encryption required\r\n"
    assert secure.feed(b"AUTH PLAIN " + PLAIN + b"\r\n") == refused
    assert secure.auth_lines == []
    secure.dialogue.tls = True
    assert OFFERED in secure.feed(b"EHLO c\r\n")
    assert codes(secure.feed(b"AUTH PLAIN " + PLAIN + b"\r\n")) == [235]


def test_not_offered_is_not_there() -> None:
    plain = MemoryDriver(limits=CLEAR)
    said = plain.feed(b"EHLO c\r\nAUTH PLAIN " + PLAIN + b"\r\n")
    assert said.endswith(replies.UNIMPLEMENTED.wire)
    assert plain.auth_lines == []


@pytest.mark.parametrize(
    ("ehlo", "line"),
    [
        ([b"AUTH LOGIN PLAIN"], b"AUTH LOGIN PLAIN"),
        ([b"AUTH=LOGIN"], b"AUTH LOGIN"),
        ([b"AUTH LOGIN", b"AUTH=LOGIN PLAIN"], b"AUTH LOGIN PLAIN"),
        ([b"auth cram-md5  x", b"SIZE"], b"AUTH CRAM-MD5 X"),
        ([b"AUTH"], b""),
        ([b"AUTH \xff" + b"A" * 21], b""),
        ([b"AUTHORS PLAIN", b"PIPELINING"], b""),
        ([b"AUTH " + b" ".join(b"M%d" % n for n in range(99))], b"AUTH "),
    ],
)
def test_what_a_backend_offers(ehlo: list[bytes], line: bytes) -> None:
    found = offered_line(ehlo)
    assert found == line or (line == b"AUTH " and found.count(b" ") == 20)


def test_when_it_is_allowed() -> None:
    """Before EHLO, as the usual patches; in a transaction and twice, not."""
    one = driver()
    assert codes(one.feed(b"MAIL FROM:<>\r\nAUTH PLAIN x\r\nRSET\r\n")) == [
        250,
        503,
        250,
    ]
    assert one.feed(b"AUTH\r\n") == replies.AUTH_SYNTAX.wire
    assert one.feed(b"AUTH \xff\r\n") == replies.AUTH_SYNTAX.wire
    assert one.feed(b"AUTH GSSAPI\r\n") == replies.AUTH_MECHANISM.wire
    assert one.auth_lines == []
    assert codes(one.feed(b"auth plain " + PLAIN + b"\r\n")) == [535]  # login()'s case
    assert codes(one.feed(b"AUTH PLAIN " + PLAIN + b"\r\n")) == [235]
    assert one.feed(b"AUTH PLAIN " + PLAIN + b"\r\n") == replies.AUTH_TWICE.wire
    assert codes(one.feed(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")) == [250] * 3


SESSION = (
    b"EHLO c\r\nAUTH LOGIN\r\n"
    + b64(b"joe")
    + b"\r\n"
    + b64(b"wrong")
    + b"\r\nAUTH PLAIN\r\n*\r\nNOOP\r\nAUTH LOGIN "
    + b64(b"joe")
    + b"\r\n"
    + b64(b"secret")
    + b"\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
)
EXPECTED = [220, 250, 334, 334, 535, 334, 535, 250, 334, 235, 250, 250, 354, 250, 221]
RELAYED = [
    b"AUTH LOGIN",
    b64(b"joe"),
    b64(b"wrong"),
    b"AUTH PLAIN",
    b"*",
    b"AUTH LOGIN " + b64(b"joe"),
    b64(b"secret"),
]
ENDS = [
    (b"LOGIN", "refused", 535, b""),
    (b"PLAIN", "refused", 535, b""),
    (b"LOGIN", "accepted", 235, b"joe"),
]


def check(made: MemoryDriver) -> None:
    assert codes(made.sent) == EXPECTED
    assert made.auth_lines == RELAYED
    assert made.auth_ends == ENDS
    assert made.body == b"hello\r\n"
    assert made.closed


def test_an_exchange_in_one_segment() -> None:
    one = driver()
    one.feed(SESSION)
    check(one)


def test_an_exchange_bytewise() -> None:
    one = driver()
    for byte in SESSION:
        one.feed(bytes([byte]))
    check(one)


@fuzz
@given(st.lists(st.integers(0, len(SESSION)), max_size=12))
def test_an_exchange_cut_anywhere(cuts: list[int]) -> None:
    one = driver()
    for start, end in itertools.pairwise([0, *sorted(cuts), len(SESSION)]):
        one.feed(SESSION[start:end])
    check(one)


def test_what_is_pipelined_behind_auth_is_held() -> None:
    one = driver(late=True)
    one.feed(b"AUTH PLAIN " + PLAIN + b"\r\nMAIL FROM:<>\r\nNOOP\r\n")
    assert codes(one.sent) == [220]
    assert one.dialogue.waiting
    one.answer(Reply(235, b"ok"))
    assert codes(one.sent) == [220, 235, 250, 250]


@pytest.mark.parametrize(
    "line",
    [b"a\0b", b"a\rb", b"\x1b[2J", b"\x7f", b"x" * (LINE_MAX - 1)],
    ids=["nul", "cr", "escape", "del", "too long"],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_line_that_cannot_be_cancels_the_exchange(
    line: bytes, bytewise: bool
) -> None:
    one = driver()
    data = b"AUTH LOGIN\r\n" + line + b"\r\nNOOP\r\n"
    for piece in [bytes([b]) for b in data] if bytewise else [data]:
        one.feed(piece)
    assert codes(one.sent) == [220, 334, 535, 250]
    assert one.auth_lines == [b"AUTH LOGIN", b"*"]


def test_long_lines_pass_and_endless_ones_are_not_held() -> None:
    one = driver()
    long = b"A" * (LINE_MAX - len(b"AUTH PLAIN \r\n"))
    assert codes(one.feed(b"AUTH PLAIN " + long + b"\r\n")) == [535]
    assert one.auth_lines == [b"AUTH PLAIN " + long]
    assert codes(one.feed(b"AUTH PLAIN " + long + b"A\r\n")) == [500]
    assert codes(one.feed(b"NOOP " + long + b"\r\n")) == [500]
    one.feed(b"AUTH LOGIN\r\n")
    for _ in range(100):
        one.feed(b"A" * 4096)
        assert one.dialogue.held <= LINE_MAX + 4096
    assert codes(one.feed(b"\r\nNOOP\r\n")) == [535, 250]


def test_a_long_challenge_is_not_cut() -> None:
    challenge = b64(b"c" * 6000)
    (reply,) = ReplyReader().feed(b"334 " + challenge + b"\r\n")
    one = driver(late=True)
    one.feed(b"AUTH CRAM-MD5\r\n")
    one.answer(reply)
    assert one.sent.endswith(b"334 " + challenge + b"\r\n")


def test_failures_have_a_budget() -> None:
    one = driver()
    wrong = b"AUTH PLAIN " + b64(b"\0joe\0wrong") + b"\r\n"
    assert codes(one.feed(wrong * 3)) == [535] * 3
    assert codes(one.feed(b"NOOP\r\n" + wrong + b"NOOP\r\n")) == [250, 421]
    assert (one.closed, one.why) == (True, "auth_failures")
    assert len(one.auth_lines) == 3
    none = driver(limits=Limits(auth_needs_tls=False, auth_failures=0))
    assert codes(none.feed(wrong * 9)) == [535] * 9


def test_temporary_failures_are_not_counted() -> None:
    one = driver()
    one.authenticate = lambda line: Reply(454, b"later")
    assert codes(one.feed(b"AUTH PLAIN x\r\n" * 9)) == [454] * 9
    assert one.auth_ends[0] == (b"PLAIN", "deferred", 454, b"")


# The backend is lost.


def test_lost_while_it_is_asked() -> None:
    one = driver(late=True)
    one.feed(b"AUTH PLAIN x\r\nNOOP\r\n")
    one.dialogue.relay_failed(replies.BACKEND_LOST)
    assert codes(one.sent) == [220, 451, 250]
    assert one.auth_ends == [(b"PLAIN", "lost", 451, b"")]


def test_lost_while_the_client_thinks() -> None:
    """It gets the answer to its line, which is not taken for a command."""
    one = driver()
    one.feed(b"AUTH LOGIN\r\n")
    one.dialogue.relay_failed(replies.BACKEND_LOST)
    assert codes(one.sent) == [220, 334]
    assert codes(one.feed(b64(b"joe") + b"\r\nNOOP\r\n")) == [451, 250]
    assert one.auth_lines == [b"AUTH LOGIN"]
    assert one.auth_ends == [(b"LOGIN", "lost", 451, b"")]


def authenticated(*, late: bool = False) -> MemoryDriver:
    one = driver()
    one.feed(b"AUTH PLAIN " + PLAIN + b"\r\n")
    one.late = late
    one.sent = b""
    return one


def test_an_authenticated_session_ends_with_its_backend() -> None:
    idle = authenticated()
    idle.dialogue.relay_failed(replies.BACKEND_LOST)
    assert (codes(idle.sent), idle.closed) == ([421], True)
    asked = authenticated(late=True)
    asked.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\n")
    asked.dialogue.relay_failed(replies.BACKEND_LOST)
    assert (codes(asked.sent), asked.closed) == ([250, 451, 451, 421], True)
    after_dot = authenticated()
    after_dot.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n")
    after_dot.late = True
    after_dot.feed(b".\r\n")
    after_dot.dialogue.relay_failed(replies.BACKEND_LOST)
    assert codes(after_dot.sent)[-2:] == [451, 421]


def test_a_message_is_heard_to_its_end_first() -> None:
    one = authenticated()
    one.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n")
    one.dialogue.relay_failed(replies.BACKEND_LOST)
    assert one.dialogue.state is State.REFUSED
    assert codes(one.feed(b"more\r\n.\r\n")) == [451]
    assert one.dots == 0


# Names, and nothing else.


@pytest.mark.parametrize(
    ("mechanism", "lines", "user"),
    [
        (b"PLAIN", [b64(b"\0joe\0pw")], b"joe"),
        (b"PLAIN", [b64(b"other\0joe\0pw")], b"joe"),
        (b"PLAIN", [b64(b"joe\0pw")], b""),
        (b"PLAIN", [b"not base64!"], b""),
        (b"LOGIN", [b64(b"joe"), b64(b"pw")], b"joe"),
        (b"LOGIN", [b"=", b64(b"pw")], b""),
        (b"CRAM-MD5", [b64(b"joe x b913a602c7eda7a495b4e6e7334d3890")], b"joe x"),
        (b"DIGEST-MD5", [b64(b'username="joe",response=1')], b""),
        (b"LOGIN", [b64(b"x" * 999)], b"x" * 255),
    ],
)
def test_the_name_in_the_responses(
    mechanism: bytes, lines: list[bytes], user: bytes
) -> None:
    exchange = Exchange()
    exchange.begin(mechanism, b"")
    for line in lines:
        exchange.response(line)
        for secret in (b"pw", b64(b"pw"), line):
            assert secret.decode() not in repr(exchange)
    assert exchange.end() == (mechanism, user)
    assert exchange._user is None


@fuzz
@given(st.sampled_from([b"PLAIN", b"LOGIN", b"CRAM-MD5", b"X"]), st.binary())
def test_any_response_is_survived(mechanism: bytes, text: bytes) -> None:
    for line in (text, b64(text)):
        exchange = Exchange()
        exchange.begin(mechanism, line)
        exchange.response(line)
        assert len(exchange.end()[1]) <= 255
