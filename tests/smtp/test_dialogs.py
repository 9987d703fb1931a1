"""tests/dialogs: what a client does, and what it is told, to be read by people.

Each file has one misbehaviour.  Lines::

    # why
    limit: command_length 100     a bound of the session (proxy.smtp.driver)
    backend: dot 554 5.3.0 no     what the backend says to its next such question
    C: MAIL FROM:<a@b.test>       the client sends this and CRLF; \\0 \\r \\n \\t
                                  \\xff \\\\ stand for such bytes
    C- half a line                the same without CRLF
    S: 250 2.1.0                  the server says a line that begins so
    S: (closes)                   and, at the very end, closes
    dots: 1                       final dots that the backend has seen
    got: hello\\r\\n                 the message that came with the last of them

Recipients at example.test are accepted, but not those that begin with "no";
others are not relayed.  Every file is played as it stands, with everything in
one piece, byte by byte, and with the backend's answers late.
"""

from __future__ import annotations

import pathlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

import pytest

from proxy.smtp import replies
from proxy.smtp.dialogue import State
from proxy.smtp.driver import Limits, Pending
from proxy.smtp.reply import Reply
from tests.support.driver import MemoryDriver

FILES = sorted((pathlib.Path(__file__).parent.parent / "dialogs").glob("*.txt"))


@dataclass
class Script:
    """One file."""

    limits: Limits = field(default_factory=Limits)
    answers: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))
    turns: list[tuple[Literal["C", "S"], bytes]] = field(default_factory=list)
    closes: bool = False
    dots: int = 0
    got: bytes | None = None

    @property
    def said(self) -> list[bytes]:
        return [data for who, data in self.turns if who == "S"]

    @property
    def input(self) -> bytes:
        return b"".join(data for who, data in self.turns if who == "C")


def unescaped(text: str) -> bytes:
    known = {"0": b"\0", "r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}

    def one(match: re.Match[str]) -> str:
        word = match[1]
        byte = bytes.fromhex(word[1:]) if word[0] == "x" else known[word]
        return byte.decode("latin-1")

    return re.sub(r"\\(x[0-9a-f]{2}|.)", one, text).encode("latin-1")


def read(path: pathlib.Path) -> Script:
    script = Script()
    for line in path.read_text("ascii").splitlines():
        key, text = line[:2], line[3:]
        if line.startswith("#") or not line:
            continue
        if script.closes and key == "S:":
            raise ValueError(f"{path}: the server says something after closing")
        if key in ("C:", "C-"):
            script.turns.append(("C", unescaped(text) + b"\r\n" * (key == "C:")))
        elif line == "S: (closes)":
            script.closes = True
        elif key == "S:":
            script.turns.append(("S", text.encode()))
        else:
            setting(script, *line.split(": ", 1))
    return script


def setting(script: Script, key: str, text: str) -> None:
    first, _, rest = text.partition(" ")
    if key == "limit":
        assert hasattr(script.limits, first)
        setattr(script.limits, first, int(rest))
    elif key == "backend":
        assert first in ("rcpt", "data", "dot")
        code, _, words = rest.partition(" ")
        script.answers[first].append(Reply(int(code), words.encode()))
    elif key == "dots":
        script.dots = int(text)
    elif key == "got":
        script.got = unescaped(text)
    else:
        raise ValueError(key)


def decide(recipient: bytes) -> Reply | Pending:
    local, _, domain = recipient.rpartition(b"@")
    if domain.lower() != b"example.test":
        return replies.NOT_RELAYED
    if local.startswith(b"no"):
        return replies.NO_SUCH_RECIPIENT
    return Pending.ACCEPTED


class Player(MemoryDriver):
    """The backend of a script."""

    def __init__(self, script: Script, *, late: bool) -> None:
        self.answers = {step: list(said) for step, said in script.answers.items()}
        self.messages: list[bytes] = []
        super().__init__(decide, limits=script.limits, late=late)

    def answer(self, reply: Reply | None = None) -> None:
        said = self.answers.get(self.questions[0])
        super().answer(reply or (said.pop(0) if said else None))

    def relay_data(self) -> None:
        self.body = b""
        super().relay_data()

    def relay_end(self, piece: bytes) -> None:
        self.messages.append(self.body + piece)
        super().relay_end(piece)

    def settle(self) -> None:
        while self.questions:
            self.answer()


def lines_of(sent: bytes) -> list[bytes]:
    *lines, last = sent.split(b"\r\n")
    assert last == b""
    return lines


def matches(sent: bytes, expected: list[bytes]) -> None:
    lines = lines_of(sent)
    shown = b"\n".join(lines).decode()
    assert len(lines) == len(expected), shown
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning), shown


def played(script: Script, pieces: list[bytes], *, late: bool = False) -> None:
    """The transcript, the end, and what the backend has seen are the file's."""
    player = Player(script, late=late)
    for piece in pieces:
        player.feed(piece)
    player.settle()
    matches(player.sent, script.said)
    assert player.closed is script.closes
    assert (player.dialogue.state is State.CLOSED) is script.closes
    assert player.dots == script.dots
    if script.got is not None:
        assert player.messages[-1] == script.got
    assert not any(player.answers.values()), "the backend was not asked that often"


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Script:
    path: pathlib.Path = request.param
    return read(path)


def test_as_it_stands(script: Script) -> None:
    """Each reply comes where the file has it, neither sooner nor later."""
    player = Player(script, late=False)
    expected: list[bytes] = []
    for who, data in script.turns:
        if who == "S":
            expected.append(data)
        else:
            matches(player.sent, expected)
            player.feed(data)
    matches(player.sent, expected)
    played(script, [data for who, data in script.turns if who == "C"])


def test_in_one_piece(script: Script) -> None:
    played(script, [script.input])


def test_byte_by_byte(script: Script) -> None:
    played(script, [bytes([byte]) for byte in script.input])


def test_with_late_answers(script: Script) -> None:
    played(script, [script.input], late=True)


def test_there_are_such_files() -> None:
    assert len(FILES) >= 25
