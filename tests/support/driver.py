"""A driver for the dialogue that does everything at once and remembers it."""

from __future__ import annotations

from collections.abc import Callable

from proxy.smtp import replies
from proxy.smtp.dialogue import Dialogue
from proxy.smtp.driver import Banner, Limits, Pending
from proxy.smtp.reply import Reply

Decide = Callable[[bytes], Reply | Pending]


class MemoryDriver:
    """Both the rules and the backend, in memory.

    With ``late`` true nothing is answered until :meth:`answer` is called.
    """

    def __init__(
        self,
        decide: Decide | None = None,
        *,
        limits: Limits | None = None,
        size: int = 0,
        late: bool = False,
        starttls: bool = False,
    ) -> None:
        self.sent = b""
        self.closed = False
        self.why = ""
        self.reached: list[str] = []
        self.late = late
        self.asked: list[bytes] = []
        self.body = b""
        self.dots = 0
        self.aborts = 0
        self.refused: list[Reply] = []
        self.questions: list[str] = []
        self.mails: list[bytes | None] = []
        self.relayed: list[bytes] = []
        self.auth_lines: list[bytes] = []
        self.auth_ends: list[tuple[bytes, str, int, bytes]] = []
        self.authenticate: Callable[[bytes], Reply | None] = lambda line: None
        self._decide = decide or (lambda recipient: Pending.ACCEPTED)
        self.discarded: list[int] = []  # a handshake begins
        banner = Banner(b"mx.test", size, starttls=starttls)
        self.dialogue = Dialogue(self, banner, limits or Limits())
        self.dialogue.start()

    def feed(self, data: bytes) -> bytes:
        """Hand in ``data``; what was said since."""
        before = len(self.sent)
        self.dialogue.receive(data)
        return self.sent[before:]

    def answer(self, reply: Reply | None = None) -> None:
        """Give the oldest answer that is owed."""
        question = self.questions.pop(0)
        if question == "verdict":
            self.dialogue.decided(reply or Pending.ACCEPTED)
        elif question == "rcpt":
            self.dialogue.recipient_answered(reply or Reply(250, b"ok"))
        elif question == "auth":
            self.dialogue.auth_answered(reply or Reply(235, b"ok"))
        elif question == "data":
            self.dialogue.data_answered(reply or replies.GO_AHEAD)
        else:
            self.dialogue.message_answered(reply or Reply(250, b"ok 1 qp 2"))

    def _owe(self, question: str) -> None:
        self.questions.append(question)
        if not self.late:
            self.answer()

    def send(self, data: bytes) -> None:
        self.sent += data

    def decide(self, recipient: bytes, argument: bytes) -> Reply | Pending:
        self.asked.append(recipient)
        verdict = self._decide(recipient)
        if verdict is Pending.LATER:
            self.questions.append("verdict")
        return verdict

    def relay_recipient(self, argument: bytes) -> None:
        self.mails.append(self.dialogue.transaction.mail)
        self.relayed.append(argument)
        self._owe("rcpt")

    def relay_auth(self, line: bytes) -> None:
        self.auth_lines.append(line)
        self.questions.append("auth")
        if not self.late:
            self.answer(self.authenticate(line))

    def auth_ended(
        self, mechanism: bytes, outcome: str, reply: Reply, user: bytes
    ) -> None:
        self.auth_ends.append((mechanism, outcome, reply.code, user))

    def relay_data(self) -> None:
        self._owe("data")

    def relay_body(self, piece: bytes) -> None:
        assert piece
        self.body += piece

    def relay_end(self, piece: bytes) -> None:
        self.body += piece
        self.dots += 1
        self._owe("dot")

    def start_tls(self, discarded: int) -> None:
        self.discarded.append(discarded)

    def relay_abort(self) -> None:
        self.aborts += 1
        self.questions.clear()

    def message_refused(self, reply: Reply) -> None:
        self.refused.append(reply)

    def turn_over(self) -> bool:
        return False

    def limit_reached(self, limit: str) -> None:
        self.reached.append(limit)

    def close(self, why: str) -> None:
        self.closed = True
        self.why = why


def codes(sent: bytes) -> list[int]:
    """The codes of the replies in ``sent``, one for each whole reply."""
    lines = sent.split(b"\r\n")
    assert lines.pop() == b""
    return [int(line[:3]) for line in lines if line[3:4] == b" "]
