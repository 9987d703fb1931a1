"""The whole dialogue with a driver that answers as it likes.

The first bytes of an input, up to the first NUL, are the driver's choices;
the rest is what the client sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

from proxy.smtp import replies
from proxy.smtp.auth import LINE_MAX
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.driver import Banner, Limits, Pending
from proxy.smtp.path import read_path
from proxy.smtp.reply import LastReply, Reply
from proxy.smtp.state import State
from tests.fuzz.address import CONTROL
from tests.fuzz.reply import LINE
from tests.fuzz.targets import pieces
from tests.support.driver import MemoryDriver

ALLOWED: tuple[type[Exception], ...] = ()
TOKENS = (
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<a@example.test>\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"EHLO c\r\n",
    b"HELO c\r\n",
    b"\r\n.\r\n",
    b"..\r\n",
    b"\n.\n",
    b"BDAT 10 LAST\r\n",
    b"AUTH PLAIN dGVzdA==\r\n",
    b"AUTH LOGIN\r\n",
    b"dGVzdA==\r\n",
    b"*\r\n",
    b"text\r\n",
    b"\n",
    b"\r",
    b" SIZE=99",
    b"\0",
    b"x" * 120,
)
BACKEND = {
    "rcpt": (Reply(250, b"ok"), Reply(550, b"no"), Reply(451, b"later")),
    "auth": (Reply(334, b"VXNlcm5hbWU6"), Reply(535, b"no"), Reply(235, b"come in")),
    "data": (Reply(354, b"go"), Reply(451, b"later"), Reply(354, b"go")),
    "dot": (Reply(250, b"ok 1 qp 2"), Reply(554, b"no"), Reply(451, b"later")),
}
LIMITS = Limits(
    200,
    unknown_recipients=3,
    message_size=300,
    declared_size=50,
    auth_needs_tls=False,
)
MECHANISMS = (b"", b"AUTH PLAIN LOGIN")
VERDICTS = (Pending.ACCEPTED, replies.NO_SUCH_RECIPIENT, replies.MAILBOX_DEFERRED)
AT_DATA = (replies.NO_BOUNCES, replies.INTERNAL, LastReply(554, b"5.7.1 no"))


class _World:
    """The driver: rules and backend, in memory, which check what they are asked."""

    def __init__(self, choices: bytes) -> None:
        self.choices = cycle(choices or b"\0")
        self.sent = b""
        self.owed: list[str] = []
        self.closed = False
        self.taken = 0  # final dots that the backend said 250 to
        self.in_message = False
        self.engaged = False  # the backend has something of a transaction
        self.exchanging = False
        self.authenticated = False
        self.dialogue = Dialogue(self, Banner(b"mx.test", 50), LIMITS)
        self.dialogue.auth_offered = MECHANISMS[len(choices) % 2]
        self.dialogue.start()

    def choose(self, number: int) -> int:
        return next(self.choices) % number

    # The driver's part.

    def send(self, data: bytes) -> None:
        assert not self.closed
        assert data
        self.sent += data

    def decide(self, recipient: bytes, argument: bytes) -> Reply | Pending:
        assert CONTROL.search(argument) is None
        assert recipient == read_path(argument)
        assert not self.owed or set(self.owed) == {"rcpt"}
        kind = self.choose(4)
        if kind == 3:
            self.owed.append("verdict")
            return Pending.LATER
        return VERDICTS[kind]

    def relay_recipient(self, argument: bytes) -> None:
        assert CONTROL.search(argument) is None
        mail = self.dialogue.transaction.mail
        assert mail is not None
        assert CONTROL.search(mail) is None
        assert CONTROL.search(self.dialogue.helo) is None
        assert set(self.owed) <= {"rcpt"}
        self.engaged = True
        self.owed.append("rcpt")

    def relay_data(self) -> None:
        assert self.engaged
        assert not self.owed
        assert self.dialogue.transaction.accepted
        self.owed.append("data")

    def relay_body(self, piece: bytes) -> None:
        assert self.in_message
        assert piece
        assert b"\r\n.\r\n" not in piece
        assert b"\n" not in piece.replace(b"\r\n", b"")[1:]

    def relay_end(self, piece: bytes) -> None:
        assert self.in_message
        assert not self.owed
        self.in_message = False
        self.owed.append("dot")

    def relay_abort(self) -> None:
        assert self.engaged
        self.engaged = self.in_message = False
        self.owed.clear()

    def message_refused(self, reply: Reply) -> None:
        assert not reply.positive
        assert not self.in_message

    def start_tls(self, discarded: int) -> None:
        raise AssertionError("it was not offered")

    def relay_auth(self, line: bytes) -> None:
        assert self.dialogue.auth_offered
        assert not self.owed
        assert not self.authenticated
        assert self.dialogue.transaction.mail is None
        assert CONTROL.search(line) is None
        assert len(line) < LINE_MAX
        assert self.exchanging or line[:5].upper() == b"AUTH "
        self.exchanging = True
        self.owed.append("auth")

    def auth_ended(
        self, mechanism: bytes, outcome: str, reply: Reply, user: bytes
    ) -> None:
        assert self.exchanging
        assert mechanism in MECHANISMS[1].split()[1:]
        assert outcome in ("accepted", "refused", "lost")
        assert not user or outcome == "accepted"
        self.exchanging = False
        self.authenticated = outcome == "accepted"

    def turn_over(self) -> bool:
        return False

    def limit_reached(self, limit: str) -> None:
        """Nothing to check."""

    def close(self, why: str) -> None:
        assert why
        self.closed = True

    # What the world does to the dialogue.

    def answer(self) -> None:
        question = self.owed.pop(0)
        choice = self.choose(3)
        if question == "verdict":
            self.dialogue.decided(VERDICTS[choice])
            return
        reply = BACKEND[question][choice]
        if question == "auth":
            self.dialogue.auth_answered(reply)
        elif question == "rcpt":
            self.dialogue.recipient_answered(reply)
        elif question == "data" and self.choose(4) == 3:
            self.dialogue.data_refused(AT_DATA[choice])  # the backend was not asked
        elif question == "data":
            self.in_message = reply.code == 354
            self.engaged = self.in_message
            self.dialogue.data_answered(reply)
        else:
            self.engaged = False
            self.taken += reply.code == 250
            self.dialogue.message_answered(reply)

    def fail(self) -> None:
        """The backend is lost."""
        asked_rules = "verdict" in self.owed
        self.owed = ["verdict"] if asked_rules else []
        self.engaged = self.in_message = False
        self.dialogue.relay_failed(replies.BACKEND_LOST)

    def turn(self) -> None:
        """One more thing happens."""
        kind = self.choose(16)
        begun = self.engaged or self.exchanging or self.authenticated
        if kind == 0 and begun:
            self.fail()
        elif kind == 1:
            self.dialogue.pause()
        elif kind == 2:
            self.dialogue.resume()
        elif kind == 3 and self.choose(8) == 0:
            self.dialogue.end(replies.IDLE, "timeout")
        elif kind > 8 and self.owed and not self.closed:
            self.answer()


def one_input(data: bytes) -> None:
    choices, _, sent = data.partition(b"\0")
    world = _World(choices)
    at = 0
    while at < len(sent) and not world.closed:
        length = (1, 2, 7, 30, 300)[world.choose(5)]
        world.dialogue.receive(sent[at : at + length])
        at += length
        world.turn()
    world.dialogue.resume()
    while world.owed and not world.closed:
        world.answer()
    _said_well(world)
    _the_same_however_cut(choices, sent)


def _the_same_however_cut(cuts: bytes, sent: bytes) -> None:
    """Where every answer comes at once, a transcript depends on the bytes only."""
    whole, cut = (_answered_at_once(way) for way in ([sent], pieces(sent, cuts)))
    assert whole == cut


def _answered_at_once(chunks: Iterable[bytes]) -> tuple[object, ...]:
    driver = MemoryDriver(_decide, limits=LIMITS, size=50)
    driver.authenticate = lambda line: BACKEND["auth"][len(line) % 3]
    driver.dialogue.auth_offered = MECHANISMS[1]
    for chunk in chunks:
        if chunk:
            driver.feed(chunk)
    return driver.sent, driver.dots, driver.relayed, driver.aborts, driver.why


def _decide(recipient: bytes) -> Reply | Pending:
    return VERDICTS[len(recipient) % 3]


def _said_well(world: _World) -> None:
    """Every line is a reply's, and nothing was promised that nobody kept."""
    lines = world.sent.split(b"\r\n")
    assert lines.pop() == b""
    assert lines[0].startswith(b"220 ")
    assert all(LINE.fullmatch(line) for line in lines)
    assert lines.count(b"250 ok 1 qp 2") == world.taken
    closed = world.dialogue.state is State.CLOSED
    assert closed == world.closed
    if not closed:
        # Nothing is held but the beginning of a line, which AUTH's may be long.
        assert world.dialogue.held <= (LINE_MAX if world.dialogue.auth_offered else 300)
    codes = [line[:3] for line in lines if line[3:4] == b" "]
    assert not {b"421", b"221"} & set(codes[:-1]), "something was said after the end"
